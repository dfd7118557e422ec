package hypercall

import "strconv"

// numberNames are the names of hypercalls, as in public xen.h without the prefix __HYPERVISOR_.
var numberNames = map[Number]string{
	NrMemoryOp:       "memory_op",
	NrMulticall:      "multicall",
	NrSetTimerOp:     "set_timer_op",
	NrXenVersion:     "xen_version",
	NrConsoleIO:      "console_io",
	NrGrantTableOp:   "grant_table_op",
	NrVMAssist:       "vm_assist",
	NrVCPUOp:         "vcpu_op",
	NrXsmOp:          "xsm_op",
	NrSchedOp:        "sched_op",
	NrEventChannelOp: "event_channel_op",
	NrPhysdevOp:      "physdev_op",
	NrHVMOp:          "hvm_op",
	NrSysctl:         "sysctl",
	NrDomctl:         "domctl",
	NrArgoOp:         "argo_op",
	NrDMOp:           "dm_op",
	NrHypfsOp:        "hypfs_op",
}

// commandNames are the names of the commands of those hypercalls whose first argument is one, as in the public headers.
var commandNames = map[Number]map[uint64]string{
	NrMemoryOp: {
		XenmemIncreaseReservation: "XENMEM_increase_reservation",
		XenmemDecreaseReservation: "XENMEM_decrease_reservation",
		XenmemMaximumRAMPage:      "XENMEM_maximum_ram_page",
		XenmemCurrentReservation:  "XENMEM_current_reservation",
		XenmemMaximumReservation:  "XENMEM_maximum_reservation",
		XenmemPopulatePhysmap:     "XENMEM_populate_physmap",
		XenmemAddToPhysmap:        "XENMEM_add_to_physmap",
		XenmemMemoryMap:           "XENMEM_memory_map",
		XenmemMaximumGPFN:         "XENMEM_maximum_gpfn",
		XenmemRemoveFromPhysmap:   "XENMEM_remove_from_physmap",
		XenmemAddToPhysmapBatch:   "XENMEM_add_to_physmap_batch",
	},
	NrXenVersion: {
		XenverVersion:            "XENVER_version",
		XenverExtraversion:       "XENVER_extraversion",
		XenverCompileInfo:        "XENVER_compile_info",
		XenverCapabilities:       "XENVER_capabilities",
		XenverChangeset:          "XENVER_changeset",
		XenverPlatformParameters: "XENVER_platform_parameters",
		XenverGetFeatures:        "XENVER_get_features",
		XenverPagesize:           "XENVER_pagesize",
		XenverGuestHandle:        "XENVER_guest_handle",
		XenverCommandline:        "XENVER_commandline",
		XenverBuildID:            "XENVER_build_id",
	},
	NrConsoleIO: {
		ConsoleioWrite: "CONSOLEIO_write",
		ConsoleioRead:  "CONSOLEIO_read",
	},
	NrGrantTableOp: {
		GnttabopMapGrantRef:     "GNTTABOP_map_grant_ref",
		GnttabopUnmapGrantRef:   "GNTTABOP_unmap_grant_ref",
		GnttabopSetupTable:      "GNTTABOP_setup_table",
		GnttabopDumpTable:       "GNTTABOP_dump_table",
		GnttabopTransfer:        "GNTTABOP_transfer",
		GnttabopCopy:            "GNTTABOP_copy",
		GnttabopQuerySize:       "GNTTABOP_query_size",
		GnttabopUnmapAndReplace: "GNTTABOP_unmap_and_replace",
		GnttabopSetVersion:      "GNTTABOP_set_version",
		GnttabopGetStatusFrames: "GNTTABOP_get_status_frames",
		GnttabopGetVersion:      "GNTTABOP_get_version",
		GnttabopSwapGrantRef:    "GNTTABOP_swap_grant_ref",
		GnttabopCacheFlush:      "GNTTABOP_cache_flush",
	},
	NrVCPUOp: {
		VcpuopInitialise:           "VCPUOP_initialise",
		VcpuopUp:                   "VCPUOP_up",
		VcpuopDown:                 "VCPUOP_down",
		VcpuopIsUp:                 "VCPUOP_is_up",
		VcpuopGetRunstateInfo:      "VCPUOP_get_runstate_info",
		VcpuopRegisterRunstateArea: "VCPUOP_register_runstate_memory_area",
		VcpuopSetPeriodicTimer:     "VCPUOP_set_periodic_timer",
		VcpuopStopPeriodicTimer:    "VCPUOP_stop_periodic_timer",
		VcpuopSetSingleshotTimer:   "VCPUOP_set_singleshot_timer",
		VcpuopStopSingleshotTimer:  "VCPUOP_stop_singleshot_timer",
		VcpuopRegisterVCPUInfo:     "VCPUOP_register_vcpu_info",
		VcpuopSendNMI:              "VCPUOP_send_nmi",
		VcpuopGetPhysID:            "VCPUOP_get_physid",
		VcpuopRegisterTimeArea:     "VCPUOP_register_vcpu_time_memory_area",
	},
	NrSchedOp: {
		SchedopYield:          "SCHEDOP_yield",
		SchedopBlock:          "SCHEDOP_block",
		SchedopShutdown:       "SCHEDOP_shutdown",
		SchedopPoll:           "SCHEDOP_poll",
		SchedopRemoteShutdown: "SCHEDOP_remote_shutdown",
		SchedopShutdownCode:   "SCHEDOP_shutdown_code",
		SchedopWatchdog:       "SCHEDOP_watchdog",
		SchedopPinOverride:    "SCHEDOP_pin_override",
	},
	NrEventChannelOp: {
		EvtchnopBindInterdomain: "EVTCHNOP_bind_interdomain",
		EvtchnopBindVIRQ:        "EVTCHNOP_bind_virq",
		EvtchnopBindPIRQ:        "EVTCHNOP_bind_pirq",
		EvtchnopClose:           "EVTCHNOP_close",
		EvtchnopSend:            "EVTCHNOP_send",
		EvtchnopStatus:          "EVTCHNOP_status",
		EvtchnopAllocUnbound:    "EVTCHNOP_alloc_unbound",
		EvtchnopBindIPI:         "EVTCHNOP_bind_ipi",
		EvtchnopBindVCPU:        "EVTCHNOP_bind_vcpu",
		EvtchnopUnmask:          "EVTCHNOP_unmask",
		EvtchnopReset:           "EVTCHNOP_reset",
		EvtchnopInitControl:     "EVTCHNOP_init_control",
		EvtchnopExpandArray:     "EVTCHNOP_expand_array",
		EvtchnopSetPriority:     "EVTCHNOP_set_priority",
	},
	NrHVMOp: {
		HvmopSetParam:              "HVMOP_set_param",
		HvmopGetParam:              "HVMOP_get_param",
		HvmopGetTime:               "HVMOP_get_time",
		HvmopSetEvtchnUpcallVector: "HVMOP_set_evtchn_upcall_vector",
	},
}

// String returns the name of the hypercall, such as "grant_table_op".
func (n Number) String() string {
	if name, ok := numberNames[n]; ok {
		return name
	}
	return "hypercall " + strconv.FormatUint(uint64(n), 10)
}

// CommandName returns the name of a command of a hypercall, such as "GNTTABOP_copy". Hypercalls that have no commands, and commands
// that have no name here, are named after the hypercall.
func CommandName(nr Number, cmd uint64) string {
	commands, ok := commandNames[nr]
	if !ok {
		return nr.String()
	}
	if name, ok := commands[cmd]; ok {
		return name
	}
	return nr.String() + " command " + strconv.FormatUint(cmd, 10)
}

// Name returns what is called: a command's name such as "EVTCHNOP_send", or the hypercall's where it has no commands.
func (c *Call) Name() string { return CommandName(c.Nr, c.Args[0]) }
