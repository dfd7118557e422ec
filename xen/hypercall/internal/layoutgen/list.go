package main

// structure is a C structure and the members that are asked about.
type structure struct {
	name    string // the C type
	members []string
	only    string // the family of architectures that has it, or "" for all
}

// constant is a C constant expression.
type constant struct {
	name string
	only string
}

// headers are Xen's public headers that the structures and constants are in.
var headers = []string{
	"xen.h", "errno.h", "grant_table.h", "event_channel.h", "memory.h", "hvm/hvm_op.h", "hvm/params.h", "sched.h", "vcpu.h",
	"version.h", "features.h",
}

// structures is what package hypercall has codecs or layouts for, under the names of the C types. A member that only x86 or ARM has
// is prefixed with "x86:" or "arm:".
var structures = []structure{
	{name: "struct grant_entry_v1", members: []string{"flags", "domid", "frame"}},
	{name: "struct gnttab_map_grant_ref", members: []string{
		"host_addr", "flags", "ref", "dom", "status", "handle", "dev_bus_addr"}},
	{name: "struct gnttab_unmap_grant_ref", members: []string{"host_addr", "dev_bus_addr", "handle", "status"}},
	{name: "struct gnttab_setup_table", members: []string{"dom", "nr_frames", "status", "frame_list"}},
	{name: "struct gnttab_copy", members: []string{
		"source.u.ref", "source.u.gmfn", "source.domid", "source.offset",
		"dest.u.ref", "dest.u.gmfn", "dest.domid", "dest.offset", "len", "flags", "status"}},
	{name: "struct gnttab_query_size", members: []string{"dom", "nr_frames", "max_nr_frames", "status"}},
	{name: "struct gnttab_set_version", members: []string{"version"}},
	{name: "struct gnttab_get_version", members: []string{"dom", "version"}},
	{name: "struct gnttab_swap_grant_ref", members: []string{"ref_a", "ref_b", "status"}},

	{name: "struct evtchn_alloc_unbound", members: []string{"dom", "remote_dom", "port"}},
	{name: "struct evtchn_bind_interdomain", members: []string{"remote_dom", "remote_port", "local_port"}},
	{name: "struct evtchn_bind_virq", members: []string{"virq", "vcpu", "port"}},
	{name: "struct evtchn_bind_ipi", members: []string{"vcpu", "port"}},
	{name: "struct evtchn_close", members: []string{"port"}},
	{name: "struct evtchn_send", members: []string{"port"}},
	{name: "struct evtchn_unmask", members: []string{"port"}},
	{name: "struct evtchn_reset", members: []string{"dom"}},
	{name: "struct evtchn_bind_vcpu", members: []string{"port", "vcpu"}},
	{name: "struct evtchn_status", members: []string{
		"dom", "port", "status", "vcpu", "u.unbound.dom", "u.interdomain.dom", "u.interdomain.port", "u.pirq", "u.virq"}},
	{name: "struct evtchn_init_control", members: []string{"control_gfn", "offset", "vcpu", "link_bits"}},
	{name: "struct evtchn_expand_array", members: []string{"array_gfn"}},
	{name: "struct evtchn_set_priority", members: []string{"port", "priority"}},

	{name: "struct xen_memory_reservation", members: []string{"extent_start", "nr_extents", "extent_order", "mem_flags", "domid"}},
	{name: "struct xen_memory_domain", members: []string{"domid"}},
	{name: "struct xen_add_to_physmap", members: []string{"domid", "size", "space", "idx", "gpfn"}},
	{name: "struct xen_add_to_physmap_batch", members: []string{
		"domid", "space", "size", "u.foreign_domid", "idxs", "gpfns", "errs"}},
	{name: "struct xen_remove_from_physmap", members: []string{"domid", "gpfn"}},

	{name: "struct xen_hvm_param", members: []string{"domid", "index", "value"}},
	{name: "struct xen_hvm_get_time", members: []string{"now"}},
	{name: "struct xen_hvm_evtchn_upcall_vector", members: []string{"vcpu", "vector"}, only: "x86"},

	{name: "struct sched_shutdown", members: []string{"reason"}},
	{name: "struct sched_poll", members: []string{"ports", "nr_ports", "timeout"}},
	{name: "struct sched_remote_shutdown", members: []string{"domain_id", "reason"}},
	{name: "struct sched_watchdog", members: []string{"id", "timeout"}},

	{name: "struct vcpu_runstate_info", members: []string{"state", "state_entry_time", "time[0]", "time[1]", "time[2]", "time[3]"}},
	{name: "struct vcpu_set_periodic_timer", members: []string{"period_ns"}},
	{name: "struct vcpu_set_singleshot_timer", members: []string{"timeout_abs_ns", "flags"}},
	{name: "struct vcpu_register_vcpu_info", members: []string{"mfn", "offset"}},
	{name: "struct vcpu_get_physid", members: []string{"phys_id"}},

	{name: "struct xen_feature_info", members: []string{"submap_idx", "submap"}},
	{name: "struct xen_compile_info", members: []string{"compiler", "compile_by", "compile_domain", "compile_date"}},

	{name: "struct multicall_entry", members: []string{
		"op", "result", "args[0]", "args[1]", "args[2]", "args[3]", "args[4]", "args[5]"}},

	{name: "struct vcpu_time_info", members: []string{
		"version", "tsc_timestamp", "system_time", "tsc_to_system_mul", "tsc_shift", "flags"}},
	{name: "struct vcpu_info", members: []string{
		"evtchn_upcall_pending", "x86:evtchn_upcall_mask", "evtchn_pending_sel", "time"}},
	{name: "struct shared_info", members: []string{
		"vcpu_info", "evtchn_pending", "evtchn_pending[0]", "evtchn_mask", "wc_version", "wc_sec", "wc_nsec", "xen_wc_sec_hi"}},
}

// prefixed returns the constants whose names are prefix followed by each of names.
func prefixed(prefix string, names ...string) []constant {
	cs := make([]constant, len(names))
	for i, n := range names {
		cs[i] = constant{name: prefix + n}
	}
	return cs
}

// onlyOn marks constants that one family of architectures has.
func onlyOn(family string, cs []constant) []constant {
	for i := range cs {
		cs[i].only = family
	}
	return cs
}

// constants is what package hypercall has constants for, in groups.
var constants = [][]constant{
	prefixed("__HYPERVISOR_", "memory_op", "multicall", "set_timer_op", "xen_version", "console_io", "grant_table_op", "vm_assist",
		"vcpu_op", "xsm_op", "sched_op", "event_channel_op", "physdev_op", "hvm_op", "sysctl", "domctl", "argo_op", "dm_op",
		"hypfs_op"),
	prefixed("DOMID_", "FIRST_RESERVED", "SELF", "IO", "XEN", "COW", "INVALID", "IDLE", "MASK"),
	prefixed("XEN_", "EPERM", "ENOENT", "ESRCH", "EIO", "ENXIO", "E2BIG", "ENOEXEC", "EBADF", "ECHILD", "EAGAIN", "ENOMEM", "EACCES",
		"EFAULT", "EBUSY", "EEXIST", "EXDEV", "ENODEV", "ENOTDIR", "EISDIR", "EINVAL", "ENFILE", "EMFILE", "ENOSPC", "EROFS",
		"EMLINK", "EDOM", "ERANGE", "EDEADLK", "ENAMETOOLONG", "ENOLCK", "ENOSYS", "ENOTEMPTY", "ENODATA", "ETIME", "EBADMSG",
		"EOVERFLOW", "EILSEQ", "ENOTSOCK", "EMSGSIZE", "EOPNOTSUPP", "EADDRINUSE", "EADDRNOTAVAIL", "ENOBUFS", "EISCONN",
		"ENOTCONN", "ETIMEDOUT", "ECONNREFUSED"),
	prefixed("GNTTABOP_", "map_grant_ref", "unmap_grant_ref", "setup_table", "dump_table", "transfer", "copy", "query_size",
		"unmap_and_replace", "set_version", "get_status_frames", "get_version", "swap_grant_ref", "cache_flush"),
	prefixed("GNTST_", "okay", "general_error", "bad_domain", "bad_gntref", "bad_handle", "bad_virt_addr", "bad_dev_addr",
		"no_device_space", "permission_denied", "bad_page", "bad_copy_arg", "address_too_big", "eagain", "no_space"),
	prefixed("GNTMAP_", "device_map", "host_map", "readonly", "application_map", "contains_pte"),
	prefixed("GNTCOPY_", "source_gref", "dest_gref"),
	prefixed("GTF_", "invalid", "permit_access", "accept_transfer", "transitive", "type_mask", "readonly", "reading", "writing"),
	prefixed("GNTTAB_", "NR_RESERVED_ENTRIES", "RESERVED_CONSOLE", "RESERVED_XENSTORE"),
	prefixed("EVTCHNOP_", "bind_interdomain", "bind_virq", "bind_pirq", "close", "send", "status", "alloc_unbound", "bind_ipi",
		"bind_vcpu", "unmask", "reset", "init_control", "expand_array", "set_priority"),
	prefixed("EVTCHNSTAT_", "closed", "unbound", "interdomain", "pirq", "virq", "ipi"),
	prefixed("EVTCHN_2L_", "NR_CHANNELS"),
	prefixed("VIRQ_", "TIMER", "DEBUG", "CONSOLE", "DOM_EXC", "TBUF", "DEBUGGER", "XENOPROF", "CON_RING", "PCPU_STATE", "MEM_EVENT",
		"ARGO", "ENOMEM", "XENPMU"),
	prefixed("NR_", "VIRQS"),
	prefixed("XENMEM_", "increase_reservation", "decrease_reservation", "maximum_ram_page", "current_reservation",
		"maximum_reservation", "populate_physmap", "add_to_physmap", "memory_map", "maximum_gpfn", "remove_from_physmap",
		"add_to_physmap_batch"),
	prefixed("XENMAPSPACE_", "shared_info", "grant_table", "gmfn", "gmfn_range", "gmfn_foreign", "dev_mmio"),
	prefixed("XENMAPIDX_", "grant_table_status"),
	prefixed("HVMOP_", "set_param", "get_param", "get_time"),
	onlyOn("x86", prefixed("HVMOP_", "set_evtchn_upcall_vector")),
	prefixed("HVM_PARAM_", "CALLBACK_IRQ", "STORE_PFN", "STORE_EVTCHN", "IOREQ_PFN", "BUFIOREQ_PFN", "TIMER_MODE", "HPET_ENABLED",
		"CONSOLE_PFN", "CONSOLE_EVTCHN", "PAGING_RING_PFN", "MONITOR_RING_PFN", "SHARING_RING_PFN", "VM_GENERATION_ID_ADDR",
		"CALLBACK_TYPE_GSI", "CALLBACK_TYPE_PCI_INTX"),
	onlyOn("x86", prefixed("HVM_PARAM_", "CALLBACK_TYPE_VECTOR")),
	onlyOn("arm", prefixed("HVM_PARAM_", "CALLBACK_TYPE_PPI")),
	prefixed("HVM_", "NR_PARAMS"),
	prefixed("SCHEDOP_", "yield", "block", "shutdown", "poll", "remote_shutdown", "shutdown_code", "watchdog", "pin_override"),
	prefixed("SHUTDOWN_", "poweroff", "reboot", "suspend", "crash", "watchdog", "soft_reset"),
	prefixed("VCPUOP_", "initialise", "up", "down", "is_up", "get_runstate_info", "register_runstate_memory_area",
		"set_periodic_timer", "stop_periodic_timer", "set_singleshot_timer", "stop_singleshot_timer", "register_vcpu_info",
		"send_nmi", "get_physid", "register_vcpu_time_memory_area"),
	prefixed("VCPU_SSHOTTMR_", "future"),
	prefixed("RUNSTATE_", "running", "runnable", "blocked", "offline"),
	prefixed("XENVER_", "version", "extraversion", "compile_info", "capabilities", "changeset", "platform_parameters", "get_features",
		"pagesize", "guest_handle", "commandline", "build_id"),
	prefixed("XENFEAT_", "writable_page_tables", "auto_translated_physmap", "pae_pgdir_above_4gb", "hvm_callback_vector",
		"hvm_safe_pvclock", "hvm_pirqs", "dom0", "ARM_SMCCC_supported", "not_direct_mapped", "direct_mapped"),
	prefixed("CONSOLEIO_", "write", "read"),
	prefixed("XEN_PVCLOCK_", "TSC_STABLE_BIT", "GUEST_STOPPED"),
	prefixed("XEN_", "LEGACY_MAX_VCPUS"),
	prefixed("sizeof", "(xen_extraversion_t)", "(xen_capabilities_info_t)", "(xen_changeset_info_t)", "(xen_commandline_t)",
		"(xen_pfn_t)", "(xen_ulong_t)"),
}
