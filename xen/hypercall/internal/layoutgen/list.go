package main

import "github.com/hvkit/hvkit/internal/clayout"

// headers are Xen's public headers that the structures and constants are in.
var headers = []string{
	"xen.h", "errno.h", "grant_table.h", "event_channel.h", "memory.h", "hvm/hvm_op.h", "hvm/params.h", "sched.h", "vcpu.h",
	"version.h", "features.h", "domctl.h",
}

// structures is what package hypercall has codecs or layouts for, under the names of the C types. A member that only x86 or ARM has
// is prefixed with "x86:" or "arm:".
var structures = []clayout.Structure{
	{Name: "struct grant_entry_v1", Members: []string{"flags", "domid", "frame"}},
	{Name: "struct gnttab_map_grant_ref", Members: []string{
		"host_addr", "flags", "ref", "dom", "status", "handle", "dev_bus_addr"}},
	{Name: "struct gnttab_unmap_grant_ref", Members: []string{"host_addr", "dev_bus_addr", "handle", "status"}},
	{Name: "struct gnttab_setup_table", Members: []string{"dom", "nr_frames", "status", "frame_list"}},
	{Name: "struct gnttab_copy", Members: []string{
		"source.u.ref", "source.u.gmfn", "source.domid", "source.offset",
		"dest.u.ref", "dest.u.gmfn", "dest.domid", "dest.offset", "len", "flags", "status"}},
	{Name: "struct gnttab_query_size", Members: []string{"dom", "nr_frames", "max_nr_frames", "status"}},
	{Name: "struct gnttab_set_version", Members: []string{"version"}},
	{Name: "struct gnttab_get_version", Members: []string{"dom", "version"}},
	{Name: "struct gnttab_swap_grant_ref", Members: []string{"ref_a", "ref_b", "status"}},

	{Name: "struct evtchn_alloc_unbound", Members: []string{"dom", "remote_dom", "port"}},
	{Name: "struct evtchn_bind_interdomain", Members: []string{"remote_dom", "remote_port", "local_port"}},
	{Name: "struct evtchn_bind_virq", Members: []string{"virq", "vcpu", "port"}},
	{Name: "struct evtchn_bind_ipi", Members: []string{"vcpu", "port"}},
	{Name: "struct evtchn_close", Members: []string{"port"}},
	{Name: "struct evtchn_send", Members: []string{"port"}},
	{Name: "struct evtchn_unmask", Members: []string{"port"}},
	{Name: "struct evtchn_reset", Members: []string{"dom"}},
	{Name: "struct evtchn_bind_vcpu", Members: []string{"port", "vcpu"}},
	{Name: "struct evtchn_status", Members: []string{
		"dom", "port", "status", "vcpu", "u.unbound.dom", "u.interdomain.dom", "u.interdomain.port", "u.pirq", "u.virq"}},
	{Name: "struct evtchn_init_control", Members: []string{"control_gfn", "offset", "vcpu", "link_bits"}},
	{Name: "struct evtchn_expand_array", Members: []string{"array_gfn"}},
	{Name: "struct evtchn_set_priority", Members: []string{"port", "priority"}},

	{Name: "struct xen_memory_reservation", Members: []string{"extent_start", "nr_extents", "extent_order", "mem_flags", "domid"}},
	{Name: "struct xen_memory_domain", Members: []string{"domid"}},
	{Name: "struct xen_add_to_physmap", Members: []string{"domid", "size", "space", "idx", "gpfn"}},
	{Name: "struct xen_add_to_physmap_batch", Members: []string{
		"domid", "space", "size", "u.foreign_domid", "idxs", "gpfns", "errs"}},
	{Name: "struct xen_remove_from_physmap", Members: []string{"domid", "gpfn"}},

	{Name: "struct xen_hvm_param", Members: []string{"domid", "index", "value"}},
	{Name: "struct xen_hvm_get_time", Members: []string{"now"}},
	{Name: "struct xen_hvm_evtchn_upcall_vector", Members: []string{"vcpu", "vector"}, Only: "x86"},

	{Name: "struct sched_shutdown", Members: []string{"reason"}},
	{Name: "struct sched_poll", Members: []string{"ports", "nr_ports", "timeout"}},
	{Name: "struct sched_remote_shutdown", Members: []string{"domain_id", "reason"}},
	{Name: "struct sched_watchdog", Members: []string{"id", "timeout"}},

	{Name: "struct vcpu_runstate_info", Members: []string{"state", "state_entry_time", "time[0]", "time[1]", "time[2]", "time[3]"}},
	{Name: "struct vcpu_set_periodic_timer", Members: []string{"period_ns"}},
	{Name: "struct vcpu_set_singleshot_timer", Members: []string{"timeout_abs_ns", "flags"}},
	{Name: "struct vcpu_register_vcpu_info", Members: []string{"mfn", "offset"}},
	{Name: "struct vcpu_get_physid", Members: []string{"phys_id"}},

	{Name: "struct xen_feature_info", Members: []string{"submap_idx", "submap"}},
	{Name: "struct xen_compile_info", Members: []string{"compiler", "compile_by", "compile_domain", "compile_date"}},

	{Name: "struct xen_domctl", Members: []string{
		"cmd", "interface_version", "domain", "u.getdomaininfo.domain", "u.getdomaininfo.flags"}},

	{Name: "struct multicall_entry", Members: []string{
		"op", "result", "args[0]", "args[1]", "args[2]", "args[3]", "args[4]", "args[5]"}},

	{Name: "struct vcpu_time_info", Members: []string{
		"version", "tsc_timestamp", "system_time", "tsc_to_system_mul", "tsc_shift", "flags"}},
	{Name: "struct vcpu_info", Members: []string{
		"evtchn_upcall_pending", "x86:evtchn_upcall_mask", "evtchn_pending_sel", "time"}},
	{Name: "struct shared_info", Members: []string{
		"vcpu_info", "evtchn_pending", "evtchn_pending[0]", "evtchn_mask", "wc_version", "wc_sec", "wc_nsec", "xen_wc_sec_hi"}},
}

// constants is what package hypercall has constants for, in groups.
var constants = [][]clayout.Constant{
	clayout.Prefixed("__HYPERVISOR_", "memory_op", "multicall", "set_timer_op", "xen_version", "console_io", "grant_table_op", "vm_assist",
		"vcpu_op", "xsm_op", "sched_op", "event_channel_op", "physdev_op", "hvm_op", "sysctl", "domctl", "argo_op", "dm_op",
		"hypfs_op"),
	clayout.Prefixed("DOMID_", "FIRST_RESERVED", "SELF", "IO", "XEN", "COW", "INVALID", "IDLE", "MASK"),
	clayout.Prefixed("XEN_", "EPERM", "ENOENT", "ESRCH", "EIO", "ENXIO", "E2BIG", "ENOEXEC", "EBADF", "ECHILD", "EAGAIN", "ENOMEM", "EACCES",
		"EFAULT", "EBUSY", "EEXIST", "EXDEV", "ENODEV", "ENOTDIR", "EISDIR", "EINVAL", "ENFILE", "EMFILE", "ENOSPC", "EROFS",
		"EMLINK", "EDOM", "ERANGE", "EDEADLK", "ENAMETOOLONG", "ENOLCK", "ENOSYS", "ENOTEMPTY", "ENODATA", "ETIME", "EBADMSG",
		"EOVERFLOW", "EILSEQ", "ENOTSOCK", "EMSGSIZE", "EOPNOTSUPP", "EADDRINUSE", "EADDRNOTAVAIL", "ENOBUFS", "EISCONN",
		"ENOTCONN", "ETIMEDOUT", "ECONNREFUSED"),
	clayout.Prefixed("GNTTABOP_", "map_grant_ref", "unmap_grant_ref", "setup_table", "dump_table", "transfer", "copy", "query_size",
		"unmap_and_replace", "set_version", "get_status_frames", "get_version", "swap_grant_ref", "cache_flush"),
	clayout.Prefixed("GNTST_", "okay", "general_error", "bad_domain", "bad_gntref", "bad_handle", "bad_virt_addr", "bad_dev_addr",
		"no_device_space", "permission_denied", "bad_page", "bad_copy_arg", "address_too_big", "eagain", "no_space"),
	clayout.Prefixed("GNTMAP_", "device_map", "host_map", "readonly", "application_map", "contains_pte"),
	clayout.Prefixed("GNTCOPY_", "source_gref", "dest_gref"),
	clayout.Prefixed("GTF_", "invalid", "permit_access", "accept_transfer", "transitive", "type_mask", "readonly", "reading", "writing"),
	clayout.Prefixed("GNTTAB_", "NR_RESERVED_ENTRIES", "RESERVED_CONSOLE", "RESERVED_XENSTORE"),
	clayout.Prefixed("EVTCHNOP_", "bind_interdomain", "bind_virq", "bind_pirq", "close", "send", "status", "alloc_unbound", "bind_ipi",
		"bind_vcpu", "unmask", "reset", "init_control", "expand_array", "set_priority"),
	clayout.Prefixed("EVTCHNSTAT_", "closed", "unbound", "interdomain", "pirq", "virq", "ipi"),
	clayout.Prefixed("EVTCHN_2L_", "NR_CHANNELS"),
	clayout.Prefixed("VIRQ_", "TIMER", "DEBUG", "CONSOLE", "DOM_EXC", "TBUF", "DEBUGGER", "XENOPROF", "CON_RING", "PCPU_STATE", "MEM_EVENT",
		"ARGO", "ENOMEM", "XENPMU"),
	clayout.Prefixed("NR_", "VIRQS"),
	clayout.Prefixed("XENMEM_", "increase_reservation", "decrease_reservation", "maximum_ram_page", "current_reservation",
		"maximum_reservation", "populate_physmap", "add_to_physmap", "memory_map", "maximum_gpfn", "remove_from_physmap",
		"add_to_physmap_batch"),
	clayout.Prefixed("XENMAPSPACE_", "shared_info", "grant_table", "gmfn", "gmfn_range", "gmfn_foreign", "dev_mmio"),
	clayout.Prefixed("XENMAPIDX_", "grant_table_status"),
	clayout.Prefixed("HVMOP_", "set_param", "get_param", "get_time"),
	clayout.OnlyOn("x86", clayout.Prefixed("HVMOP_", "set_evtchn_upcall_vector")),
	clayout.Prefixed("HVM_PARAM_", "CALLBACK_IRQ", "STORE_PFN", "STORE_EVTCHN", "IOREQ_PFN", "BUFIOREQ_PFN", "TIMER_MODE", "HPET_ENABLED",
		"CONSOLE_PFN", "CONSOLE_EVTCHN", "PAGING_RING_PFN", "MONITOR_RING_PFN", "SHARING_RING_PFN", "VM_GENERATION_ID_ADDR",
		"CALLBACK_TYPE_GSI", "CALLBACK_TYPE_PCI_INTX"),
	clayout.OnlyOn("x86", clayout.Prefixed("HVM_PARAM_", "CALLBACK_TYPE_VECTOR")),
	clayout.OnlyOn("arm", clayout.Prefixed("HVM_PARAM_", "CALLBACK_TYPE_PPI")),
	clayout.Prefixed("HVM_", "NR_PARAMS"),
	clayout.Prefixed("SCHEDOP_", "yield", "block", "shutdown", "poll", "remote_shutdown", "shutdown_code", "watchdog", "pin_override"),
	clayout.Prefixed("SHUTDOWN_", "poweroff", "reboot", "suspend", "crash", "watchdog", "soft_reset"),
	clayout.Prefixed("VCPUOP_", "initialise", "up", "down", "is_up", "get_runstate_info", "register_runstate_memory_area",
		"set_periodic_timer", "stop_periodic_timer", "set_singleshot_timer", "stop_singleshot_timer", "register_vcpu_info",
		"send_nmi", "get_physid", "register_vcpu_time_memory_area"),
	clayout.Prefixed("VCPU_SSHOTTMR_", "future"),
	clayout.Prefixed("RUNSTATE_", "running", "runnable", "blocked", "offline"),
	clayout.Prefixed("XENVER_", "version", "extraversion", "compile_info", "capabilities", "changeset", "platform_parameters", "get_features",
		"pagesize", "guest_handle", "commandline", "build_id"),
	clayout.Prefixed("XENFEAT_", "writable_page_tables", "auto_translated_physmap", "pae_pgdir_above_4gb", "hvm_callback_vector",
		"hvm_safe_pvclock", "hvm_pirqs", "dom0", "ARM_SMCCC_supported", "not_direct_mapped", "direct_mapped"),
	clayout.Prefixed("XEN_DOMCTL_", "getdomaininfo", "INTERFACE_VERSION"),
	clayout.Prefixed("XEN_DOMINF_", "dying", "hvm_guest", "shutdown", "paused", "blocked", "running", "shutdownshift"),
	clayout.Prefixed("CONSOLEIO_", "write", "read"),
	clayout.Prefixed("XEN_PVCLOCK_", "TSC_STABLE_BIT", "GUEST_STOPPED"),
	clayout.Prefixed("XEN_", "LEGACY_MAX_VCPUS"),
	clayout.Prefixed("sizeof", "(xen_extraversion_t)", "(xen_capabilities_info_t)", "(xen_changeset_info_t)", "(xen_commandline_t)",
		"(xen_pfn_t)", "(xen_ulong_t)"),
}
