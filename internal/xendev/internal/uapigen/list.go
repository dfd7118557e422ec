package main

import "github.com/hvkit/hvkit/internal/clayout"

// structures is what package xendev has codecs for, under the names of the C types.
var structures = []clayout.Structure{
	{Name: "struct ioctl_evtchn_bind_virq", Members: []string{"virq"}},
	{Name: "struct ioctl_evtchn_bind_interdomain", Members: []string{"remote_domain", "remote_port"}},
	{Name: "struct ioctl_evtchn_bind_unbound_port", Members: []string{"remote_domain"}},
	{Name: "struct ioctl_evtchn_unbind", Members: []string{"port"}},
	{Name: "struct ioctl_evtchn_notify", Members: []string{"port"}},
	{Name: "struct ioctl_evtchn_restrict_domid", Members: []string{"domid"}},

	{Name: "struct ioctl_gntalloc_alloc_gref", Members: []string{"domid", "flags", "count", "index", "gref_ids"}},
	{Name: "struct ioctl_gntalloc_dealloc_gref", Members: []string{"index", "count"}},
	{Name: "struct ioctl_gntalloc_unmap_notify", Members: []string{"index", "action", "event_channel_port"}},

	{Name: "struct ioctl_gntdev_grant_ref", Members: []string{"domid", "ref"}},
	{Name: "struct ioctl_gntdev_map_grant_ref", Members: []string{"count", "index", "refs"}},
	{Name: "struct ioctl_gntdev_unmap_grant_ref", Members: []string{"index", "count"}},
	{Name: "struct ioctl_gntdev_unmap_notify", Members: []string{"index", "action", "event_channel_port"}},
	{Name: "struct ioctl_gntdev_grant_copy", Members: []string{"count", "segments"}},
	{Name: "struct gntdev_grant_copy_segment", Members: []string{
		"source.virt", "source.foreign.ref", "source.foreign.offset", "source.foreign.domid",
		"dest.virt", "dest.foreign.ref", "dest.foreign.offset", "dest.foreign.domid", "len", "flags", "status"}},

	{Name: "struct privcmd_hypercall", Members: []string{"op", "arg[0]", "arg[1]", "arg[2]", "arg[3]", "arg[4]"}},
	{Name: "struct privcmd_mmapbatch_v2", Members: []string{"num", "dom", "addr", "arr", "err"}},
	{Name: "struct privcmd_mmap_resource", Members: []string{"dom", "type", "id", "idx", "num", "addr"}},
}

// constants is what package xendev has constants for, in groups.
var constants = [][]clayout.Constant{
	clayout.Prefixed("IOCTL_EVTCHN_", "BIND_VIRQ", "BIND_INTERDOMAIN", "BIND_UNBOUND_PORT", "UNBIND", "NOTIFY", "RESET", "RESTRICT_DOMID"),
	clayout.Prefixed("IOCTL_GNTALLOC_", "ALLOC_GREF", "DEALLOC_GREF", "SET_UNMAP_NOTIFY"),
	clayout.Prefixed("IOCTL_GNTDEV_", "MAP_GRANT_REF", "UNMAP_GRANT_REF", "SET_UNMAP_NOTIFY", "GRANT_COPY"),
	clayout.Prefixed("IOCTL_PRIVCMD_", "HYPERCALL", "MMAPBATCH_V2", "MMAP_RESOURCE"),
	clayout.Prefixed("GNTALLOC_FLAG_", "WRITABLE"),
	clayout.Prefixed("UNMAP_NOTIFY_", "CLEAR_BYTE", "SEND_EVENT"),
}
