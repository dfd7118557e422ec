package sim

// Limits bound what one domain can take of a host. Zero fields are defaults.
type Limits struct {
	Pages       int // of memory; default 262144 (1 GiB)
	Extents     int // allocations of memory, each a descriptor of the host where HostConfig.Shared is set; default 4096
	GrantFrames int // of the grant table, with 512 entries each; default 64, as Xen's gnttab_max_frames
	MapTrack    int // grants of others mapped at once; default 524288, as Xen's gnttab_max_maptrack_frames of 1024
	Ports       int // event channels; default 1023 as for guests that xl makes, at most what the ABI's bitmaps hold
}

var defaultLimits = Limits{Pages: 1 << 18, Extents: 4096, GrantFrames: 64, MapTrack: 1 << 19, Ports: 1023}

// or returns l with the zero fields filled in from def.
func (l Limits) or(def Limits) Limits {
	fill := func(a *int, b int) {
		if *a <= 0 {
			*a = b
		}
	}
	fill(&l.Pages, def.Pages)
	fill(&l.Extents, def.Extents)
	fill(&l.GrantFrames, def.GrantFrames)
	fill(&l.MapTrack, def.MapTrack)
	fill(&l.Ports, def.Ports)
	return l
}
