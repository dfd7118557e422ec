package xenstored

// Stats are counters of a [Server] since it was made, and what it holds now.
type Stats struct {
	Requests      uint64 // messages handled
	Errors        uint64 // of them, answered with an error
	Events        uint64 // watch events queued
	EventsMerged  uint64 // not queued because the same event was waiting
	EventsDropped uint64 // not delivered: over a quota, too long, or not taken in time
	Commits       uint64 // transactions that took effect, empty ones included
	Conflicts     uint64 // transactions that were answered EAGAIN
	Violations    uint64 // connections that were ended because the peer broke the protocol or did not read
	BytesIn       uint64
	BytesOut      uint64

	Connections  int
	Domains      int // introduced, domain 0 included
	Nodes        int // @introduceDomain and @releaseDomain included
	Watches      int
	Transactions int // open
}

// current returns the statistics with what the store holds now.
func (c *core) current() Stats {
	s := c.stats
	s.Connections, s.Nodes, s.Watches, s.Transactions = len(c.conns), c.live.n, c.nwatches, c.ntxs
	for _, d := range c.domains {
		if d.introduced {
			s.Domains++
		}
	}
	return s
}
