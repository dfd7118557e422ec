package hypercall_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	. "github.com/hvkit/hvkit/xen/hypercall"
)

// constants are ours under the names of the C ones.
var constants = map[string]int64{
	"__HYPERVISOR_memory_op":                int64(NrMemoryOp),
	"__HYPERVISOR_multicall":                int64(NrMulticall),
	"__HYPERVISOR_set_timer_op":             int64(NrSetTimerOp),
	"__HYPERVISOR_xen_version":              int64(NrXenVersion),
	"__HYPERVISOR_console_io":               int64(NrConsoleIO),
	"__HYPERVISOR_grant_table_op":           int64(NrGrantTableOp),
	"__HYPERVISOR_vm_assist":                int64(NrVMAssist),
	"__HYPERVISOR_vcpu_op":                  int64(NrVCPUOp),
	"__HYPERVISOR_xsm_op":                   int64(NrXsmOp),
	"__HYPERVISOR_sched_op":                 int64(NrSchedOp),
	"__HYPERVISOR_event_channel_op":         int64(NrEventChannelOp),
	"__HYPERVISOR_physdev_op":               int64(NrPhysdevOp),
	"__HYPERVISOR_hvm_op":                   int64(NrHVMOp),
	"__HYPERVISOR_sysctl":                   int64(NrSysctl),
	"__HYPERVISOR_domctl":                   int64(NrDomctl),
	"__HYPERVISOR_argo_op":                  int64(NrArgoOp),
	"__HYPERVISOR_dm_op":                    int64(NrDMOp),
	"__HYPERVISOR_hypfs_op":                 int64(NrHypfsOp),
	"DOMID_FIRST_RESERVED":                  int64(DomFirstReserved),
	"DOMID_SELF":                            int64(DomSelf),
	"DOMID_IO":                              int64(DomIO),
	"DOMID_XEN":                             int64(DomXen),
	"DOMID_COW":                             int64(DomCow),
	"DOMID_INVALID":                         int64(DomInvalid),
	"DOMID_IDLE":                            int64(DomIdle),
	"DOMID_MASK":                            int64(DomMask),
	"XEN_EPERM":                             int64(EPERM),
	"XEN_ENOENT":                            int64(ENOENT),
	"XEN_ESRCH":                             int64(ESRCH),
	"XEN_EIO":                               int64(EIO),
	"XEN_ENXIO":                             int64(ENXIO),
	"XEN_E2BIG":                             int64(E2BIG),
	"XEN_ENOEXEC":                           int64(ENOEXEC),
	"XEN_EBADF":                             int64(EBADF),
	"XEN_ECHILD":                            int64(ECHILD),
	"XEN_EAGAIN":                            int64(EAGAIN),
	"XEN_ENOMEM":                            int64(ENOMEM),
	"XEN_EACCES":                            int64(EACCES),
	"XEN_EFAULT":                            int64(EFAULT),
	"XEN_EBUSY":                             int64(EBUSY),
	"XEN_EEXIST":                            int64(EEXIST),
	"XEN_EXDEV":                             int64(EXDEV),
	"XEN_ENODEV":                            int64(ENODEV),
	"XEN_ENOTDIR":                           int64(ENOTDIR),
	"XEN_EISDIR":                            int64(EISDIR),
	"XEN_EINVAL":                            int64(EINVAL),
	"XEN_ENFILE":                            int64(ENFILE),
	"XEN_EMFILE":                            int64(EMFILE),
	"XEN_ENOSPC":                            int64(ENOSPC),
	"XEN_EROFS":                             int64(EROFS),
	"XEN_EMLINK":                            int64(EMLINK),
	"XEN_EDOM":                              int64(EDOM),
	"XEN_ERANGE":                            int64(ERANGE),
	"XEN_EDEADLK":                           int64(EDEADLK),
	"XEN_ENAMETOOLONG":                      int64(ENAMETOOLONG),
	"XEN_ENOLCK":                            int64(ENOLCK),
	"XEN_ENOSYS":                            int64(ENOSYS),
	"XEN_ENOTEMPTY":                         int64(ENOTEMPTY),
	"XEN_ENODATA":                           int64(ENODATA),
	"XEN_ETIME":                             int64(ETIME),
	"XEN_EBADMSG":                           int64(EBADMSG),
	"XEN_EOVERFLOW":                         int64(EOVERFLOW),
	"XEN_EILSEQ":                            int64(EILSEQ),
	"XEN_ENOTSOCK":                          int64(ENOTSOCK),
	"XEN_EMSGSIZE":                          int64(EMSGSIZE),
	"XEN_EOPNOTSUPP":                        int64(EOPNOTSUPP),
	"XEN_EADDRINUSE":                        int64(EADDRINUSE),
	"XEN_EADDRNOTAVAIL":                     int64(EADDRNOTAVAIL),
	"XEN_ENOBUFS":                           int64(ENOBUFS),
	"XEN_EISCONN":                           int64(EISCONN),
	"XEN_ENOTCONN":                          int64(ENOTCONN),
	"XEN_ETIMEDOUT":                         int64(ETIMEDOUT),
	"XEN_ECONNREFUSED":                      int64(ECONNREFUSED),
	"GNTTABOP_map_grant_ref":                int64(GnttabopMapGrantRef),
	"GNTTABOP_unmap_grant_ref":              int64(GnttabopUnmapGrantRef),
	"GNTTABOP_setup_table":                  int64(GnttabopSetupTable),
	"GNTTABOP_dump_table":                   int64(GnttabopDumpTable),
	"GNTTABOP_transfer":                     int64(GnttabopTransfer),
	"GNTTABOP_copy":                         int64(GnttabopCopy),
	"GNTTABOP_query_size":                   int64(GnttabopQuerySize),
	"GNTTABOP_unmap_and_replace":            int64(GnttabopUnmapAndReplace),
	"GNTTABOP_set_version":                  int64(GnttabopSetVersion),
	"GNTTABOP_get_status_frames":            int64(GnttabopGetStatusFrames),
	"GNTTABOP_get_version":                  int64(GnttabopGetVersion),
	"GNTTABOP_swap_grant_ref":               int64(GnttabopSwapGrantRef),
	"GNTTABOP_cache_flush":                  int64(GnttabopCacheFlush),
	"GNTST_okay":                            int64(StatusOkay),
	"GNTST_general_error":                   int64(StatusGeneralError),
	"GNTST_bad_domain":                      int64(StatusBadDomain),
	"GNTST_bad_gntref":                      int64(StatusBadGntRef),
	"GNTST_bad_handle":                      int64(StatusBadHandle),
	"GNTST_bad_virt_addr":                   int64(StatusBadVirtAddr),
	"GNTST_bad_dev_addr":                    int64(StatusBadDevAddr),
	"GNTST_no_device_space":                 int64(StatusNoDeviceSpace),
	"GNTST_permission_denied":               int64(StatusPermissionDenied),
	"GNTST_bad_page":                        int64(StatusBadPage),
	"GNTST_bad_copy_arg":                    int64(StatusBadCopyArg),
	"GNTST_address_too_big":                 int64(StatusAddressTooBig),
	"GNTST_eagain":                          int64(StatusEagain),
	"GNTST_no_space":                        int64(StatusNoSpace),
	"GNTMAP_device_map":                     int64(GrantMapDevice),
	"GNTMAP_host_map":                       int64(GrantMapHost),
	"GNTMAP_readonly":                       int64(GrantMapReadOnly),
	"GNTMAP_application_map":                int64(GrantMapApplication),
	"GNTMAP_contains_pte":                   int64(GrantMapContainsPTE),
	"GNTCOPY_source_gref":                   int64(CopySourceGref),
	"GNTCOPY_dest_gref":                     int64(CopyDestGref),
	"GTF_invalid":                           int64(EntryInvalid),
	"GTF_permit_access":                     int64(EntryPermitAccess),
	"GTF_accept_transfer":                   int64(EntryAcceptTransfer),
	"GTF_transitive":                        int64(EntryTransitive),
	"GTF_type_mask":                         int64(EntryTypeMask),
	"GTF_readonly":                          int64(EntryReadOnly),
	"GTF_reading":                           int64(EntryReading),
	"GTF_writing":                           int64(EntryWriting),
	"GNTTAB_NR_RESERVED_ENTRIES":            int64(NumReservedGrants),
	"GNTTAB_RESERVED_CONSOLE":               int64(GrantConsole),
	"GNTTAB_RESERVED_XENSTORE":              int64(GrantXenstore),
	"EVTCHNOP_bind_interdomain":             int64(EvtchnopBindInterdomain),
	"EVTCHNOP_bind_virq":                    int64(EvtchnopBindVIRQ),
	"EVTCHNOP_bind_pirq":                    int64(EvtchnopBindPIRQ),
	"EVTCHNOP_close":                        int64(EvtchnopClose),
	"EVTCHNOP_send":                         int64(EvtchnopSend),
	"EVTCHNOP_status":                       int64(EvtchnopStatus),
	"EVTCHNOP_alloc_unbound":                int64(EvtchnopAllocUnbound),
	"EVTCHNOP_bind_ipi":                     int64(EvtchnopBindIPI),
	"EVTCHNOP_bind_vcpu":                    int64(EvtchnopBindVCPU),
	"EVTCHNOP_unmask":                       int64(EvtchnopUnmask),
	"EVTCHNOP_reset":                        int64(EvtchnopReset),
	"EVTCHNOP_init_control":                 int64(EvtchnopInitControl),
	"EVTCHNOP_expand_array":                 int64(EvtchnopExpandArray),
	"EVTCHNOP_set_priority":                 int64(EvtchnopSetPriority),
	"EVTCHNSTAT_closed":                     int64(EvtchnClosed),
	"EVTCHNSTAT_unbound":                    int64(EvtchnUnbound),
	"EVTCHNSTAT_interdomain":                int64(EvtchnInterdomain),
	"EVTCHNSTAT_pirq":                       int64(EvtchnPIRQ),
	"EVTCHNSTAT_virq":                       int64(EvtchnVIRQ),
	"EVTCHNSTAT_ipi":                        int64(EvtchnIPI),
	"VIRQ_TIMER":                            int64(VIRQTimer),
	"VIRQ_DEBUG":                            int64(VIRQDebug),
	"VIRQ_CONSOLE":                          int64(VIRQConsole),
	"VIRQ_DOM_EXC":                          int64(VIRQDomExc),
	"VIRQ_TBUF":                             int64(VIRQTbuf),
	"VIRQ_DEBUGGER":                         int64(VIRQDebugger),
	"VIRQ_XENOPROF":                         int64(VIRQXenoprof),
	"VIRQ_CON_RING":                         int64(VIRQConRing),
	"VIRQ_PCPU_STATE":                       int64(VIRQPCPUState),
	"VIRQ_MEM_EVENT":                        int64(VIRQMemEvent),
	"VIRQ_ARGO":                             int64(VIRQArgo),
	"VIRQ_ENOMEM":                           int64(VIRQEnomem),
	"VIRQ_XENPMU":                           int64(VIRQXenpmu),
	"NR_VIRQS":                              int64(NumVIRQs),
	"XENMEM_increase_reservation":           int64(XenmemIncreaseReservation),
	"XENMEM_decrease_reservation":           int64(XenmemDecreaseReservation),
	"XENMEM_maximum_ram_page":               int64(XenmemMaximumRAMPage),
	"XENMEM_current_reservation":            int64(XenmemCurrentReservation),
	"XENMEM_maximum_reservation":            int64(XenmemMaximumReservation),
	"XENMEM_populate_physmap":               int64(XenmemPopulatePhysmap),
	"XENMEM_add_to_physmap":                 int64(XenmemAddToPhysmap),
	"XENMEM_memory_map":                     int64(XenmemMemoryMap),
	"XENMEM_maximum_gpfn":                   int64(XenmemMaximumGPFN),
	"XENMEM_remove_from_physmap":            int64(XenmemRemoveFromPhysmap),
	"XENMEM_add_to_physmap_batch":           int64(XenmemAddToPhysmapBatch),
	"XENMAPSPACE_shared_info":               int64(SpaceSharedInfo),
	"XENMAPSPACE_grant_table":               int64(SpaceGrantTable),
	"XENMAPSPACE_gmfn":                      int64(SpaceGMFN),
	"XENMAPSPACE_gmfn_range":                int64(SpaceGMFNRange),
	"XENMAPSPACE_gmfn_foreign":              int64(SpaceGMFNForeign),
	"XENMAPSPACE_dev_mmio":                  int64(SpaceDevMMIO),
	"XENMAPIDX_grant_table_status":          int64(PhysmapGrantStatus),
	"HVMOP_set_param":                       int64(HvmopSetParam),
	"HVMOP_get_param":                       int64(HvmopGetParam),
	"HVMOP_get_time":                        int64(HvmopGetTime),
	"HVMOP_set_evtchn_upcall_vector":        int64(HvmopSetEvtchnUpcallVector),
	"HVM_PARAM_CALLBACK_IRQ":                int64(ParamCallbackIRQ),
	"HVM_PARAM_STORE_PFN":                   int64(ParamStorePFN),
	"HVM_PARAM_STORE_EVTCHN":                int64(ParamStoreEvtchn),
	"HVM_PARAM_IOREQ_PFN":                   int64(ParamIOReqPFN),
	"HVM_PARAM_BUFIOREQ_PFN":                int64(ParamBufIOReqPFN),
	"HVM_PARAM_TIMER_MODE":                  int64(ParamTimerMode),
	"HVM_PARAM_HPET_ENABLED":                int64(ParamHPETEnabled),
	"HVM_PARAM_CONSOLE_PFN":                 int64(ParamConsolePFN),
	"HVM_PARAM_CONSOLE_EVTCHN":              int64(ParamConsoleEvtchn),
	"HVM_PARAM_PAGING_RING_PFN":             int64(ParamPagingRingPFN),
	"HVM_PARAM_MONITOR_RING_PFN":            int64(ParamMonitorRingPFN),
	"HVM_PARAM_SHARING_RING_PFN":            int64(ParamSharingRingPFN),
	"HVM_PARAM_VM_GENERATION_ID_ADDR":       int64(ParamVMGenIDAddr),
	"HVM_PARAM_CALLBACK_TYPE_GSI":           int64(CallbackTypeGSI),
	"HVM_PARAM_CALLBACK_TYPE_PCI_INTX":      int64(CallbackTypePCIINTx),
	"HVM_PARAM_CALLBACK_TYPE_VECTOR":        int64(CallbackTypeVector),
	"HVM_NR_PARAMS":                         int64(NumParams),
	"SCHEDOP_yield":                         int64(SchedopYield),
	"SCHEDOP_block":                         int64(SchedopBlock),
	"SCHEDOP_shutdown":                      int64(SchedopShutdown),
	"SCHEDOP_poll":                          int64(SchedopPoll),
	"SCHEDOP_remote_shutdown":               int64(SchedopRemoteShutdown),
	"SCHEDOP_shutdown_code":                 int64(SchedopShutdownCode),
	"SCHEDOP_watchdog":                      int64(SchedopWatchdog),
	"SCHEDOP_pin_override":                  int64(SchedopPinOverride),
	"SHUTDOWN_poweroff":                     int64(ShutdownPoweroff),
	"SHUTDOWN_reboot":                       int64(ShutdownReboot),
	"SHUTDOWN_suspend":                      int64(ShutdownSuspend),
	"SHUTDOWN_crash":                        int64(ShutdownCrash),
	"SHUTDOWN_watchdog":                     int64(ShutdownWatchdog),
	"SHUTDOWN_soft_reset":                   int64(ShutdownSoftReset),
	"VCPUOP_initialise":                     int64(VcpuopInitialise),
	"VCPUOP_up":                             int64(VcpuopUp),
	"VCPUOP_down":                           int64(VcpuopDown),
	"VCPUOP_is_up":                          int64(VcpuopIsUp),
	"VCPUOP_get_runstate_info":              int64(VcpuopGetRunstateInfo),
	"VCPUOP_register_runstate_memory_area":  int64(VcpuopRegisterRunstateArea),
	"VCPUOP_set_periodic_timer":             int64(VcpuopSetPeriodicTimer),
	"VCPUOP_stop_periodic_timer":            int64(VcpuopStopPeriodicTimer),
	"VCPUOP_set_singleshot_timer":           int64(VcpuopSetSingleshotTimer),
	"VCPUOP_stop_singleshot_timer":          int64(VcpuopStopSingleshotTimer),
	"VCPUOP_register_vcpu_info":             int64(VcpuopRegisterVCPUInfo),
	"VCPUOP_send_nmi":                       int64(VcpuopSendNMI),
	"VCPUOP_get_physid":                     int64(VcpuopGetPhysID),
	"VCPUOP_register_vcpu_time_memory_area": int64(VcpuopRegisterTimeArea),
	"VCPU_SSHOTTMR_future":                  int64(SingleshotFuture),
	"RUNSTATE_running":                      int64(RunstateRunning),
	"RUNSTATE_runnable":                     int64(RunstateRunnable),
	"RUNSTATE_blocked":                      int64(RunstateBlocked),
	"RUNSTATE_offline":                      int64(RunstateOffline),
	"XENVER_version":                        int64(XenverVersion),
	"XENVER_extraversion":                   int64(XenverExtraversion),
	"XENVER_compile_info":                   int64(XenverCompileInfo),
	"XENVER_capabilities":                   int64(XenverCapabilities),
	"XENVER_changeset":                      int64(XenverChangeset),
	"XENVER_platform_parameters":            int64(XenverPlatformParameters),
	"XENVER_get_features":                   int64(XenverGetFeatures),
	"XENVER_pagesize":                       int64(XenverPagesize),
	"XENVER_guest_handle":                   int64(XenverGuestHandle),
	"XENVER_commandline":                    int64(XenverCommandline),
	"XENVER_build_id":                       int64(XenverBuildID),
	"XENFEAT_writable_page_tables":          int64(FeatureWritablePageTables),
	"XENFEAT_auto_translated_physmap":       int64(FeatureAutoTranslatedPhysmap),
	"XENFEAT_pae_pgdir_above_4gb":           int64(FeaturePAEPgdirAbove4GB),
	"XENFEAT_hvm_callback_vector":           int64(FeatureHVMCallbackVector),
	"XENFEAT_hvm_safe_pvclock":              int64(FeatureHVMSafePvclock),
	"XENFEAT_hvm_pirqs":                     int64(FeatureHVMPIRQs),
	"XENFEAT_dom0":                          int64(FeatureDom0),
	"XENFEAT_ARM_SMCCC_supported":           int64(FeatureARMSMCCC),
	"XENFEAT_not_direct_mapped":             int64(FeatureNotDirectMapped),
	"XENFEAT_direct_mapped":                 int64(FeatureDirectMapped),
	"XEN_DOMCTL_getdomaininfo":              DomctlGetDomainInfo,
	"XEN_DOMCTL_INTERFACE_VERSION":          DomctlVersion,
	"XEN_DOMINF_dying":                      int64(DomainDying),
	"XEN_DOMINF_hvm_guest":                  int64(DomainHVM),
	"XEN_DOMINF_shutdown":                   int64(DomainShutdown),
	"XEN_DOMINF_paused":                     int64(DomainPaused),
	"XEN_DOMINF_blocked":                    int64(DomainBlocked),
	"XEN_DOMINF_running":                    int64(DomainRunning),
	"XEN_DOMINF_shutdownshift":              DomainReasonShift,
	"CONSOLEIO_write":                       int64(ConsoleioWrite),
	"CONSOLEIO_read":                        int64(ConsoleioRead),
	"XEN_PVCLOCK_TSC_STABLE_BIT":            int64(TimeTSCStable),
	"XEN_PVCLOCK_GUEST_STOPPED":             int64(TimeGuestStopped),
	"sizeof(xen_extraversion_t)":            int64(ExtraVersionSize),
	"sizeof(xen_capabilities_info_t)":       int64(CapabilitiesSize),
	"sizeof(xen_changeset_info_t)":          int64(ChangesetSize),
	"sizeof(xen_commandline_t)":             int64(CommandLineSize),
	"HVM_PARAM_CALLBACK_TYPE_PPI":           int64(CallbackTypePPI),
}

// measured are C constants that TestSharedInfoIsTheCompilers and the codecs use.
var measured = []string{"EVTCHN_2L_NR_CHANNELS", "XEN_LEGACY_MAX_VCPUS", "sizeof(xen_pfn_t)", "sizeof(xen_ulong_t)"}

// missing are constants that one family of architectures has not.
var missing = map[ABI][]string{
	X86_64: {"HVM_PARAM_CALLBACK_TYPE_PPI"},
	X86_32: {"HVM_PARAM_CALLBACK_TYPE_PPI"},
	ARM64:  {"HVMOP_set_evtchn_upcall_vector", "HVM_PARAM_CALLBACK_TYPE_VECTOR"},
}

func TestConstantsAreTheCompilers(t *testing.T) {
	for _, abi := range abis {
		g := readGolden(t, abi)
		require.EqualValues(t, abi.WordBytes(), g.Consts["sizeof(xen_pfn_t)"])
		require.EqualValues(t, abi.WordBytes(), g.Consts["sizeof(xen_ulong_t)"])
		for _, name := range measured {
			delete(g.Consts, name)
		}
		want := maps.Clone(constants)
		for _, name := range missing[abi] {
			delete(want, name)
		}
		require.Equal(t, want, g.Consts, abi)
	}
}

// TestNamesAreTheHeaders sees that what calls and errors are named is what the headers name them.
func TestNamesAreTheHeaders(t *testing.T) {
	commands := map[string]Number{
		"GNTTABOP_": NrGrantTableOp, "EVTCHNOP_": NrEventChannelOp, "XENMEM_": NrMemoryOp, "HVMOP_": NrHVMOp, "SCHEDOP_": NrSchedOp,
		"VCPUOP_": NrVCPUOp, "XENVER_": NrXenVersion, "CONSOLEIO_": NrConsoleIO,
	}
	seen := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(constants)) {
		value := constants[name]
		for prefix, nr := range commands {
			if strings.HasPrefix(name, prefix) {
				require.Equal(t, name, CommandName(nr, uint64(value)))
				seen[prefix]++
			}
		}
		if number, ok := strings.CutPrefix(name, "__HYPERVISOR_"); ok {
			require.Equal(t, number, Number(value).String())
			seen["__HYPERVISOR_"]++
		}
		if strings.HasPrefix(name, "GNTST_") {
			require.Equal(t, name, GrantStatus(value).Name())
			seen["GNTST_"]++
		}
		if errno, ok := strings.CutPrefix(name, "XEN_E"); ok {
			require.Equal(t, "E"+errno, Errno(value).Name())
			seen["XEN_E"]++
		}
	}
	require.Len(t, seen, len(commands)+3)
}
