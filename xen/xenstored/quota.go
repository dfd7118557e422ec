package xenstored

import (
	"fmt"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// Quota is what an unprivileged domain may use. A zero field is the default, which is the C server's; a negative one is no limit. The
// names in parentheses are those of the C server's options. Domain 0 is exempt from all but PathLength.
//
// The size of a node is that of the C server's record: 24 bytes, 8 for each permission, the value, and the names of the children with a NUL
// each. So a guest's node with one permission and no children holds at most 2015 bytes.
type Quota struct {
	Nodes            int // nodes that a domain owns (nodes): 1000
	NodeSize         int // bytes of a node, which must be fewer; see below (node-size): 2048
	Watches          int // watches of a domain; one more is let through, as by the C server (watches): 128
	Transactions     int // transactions open at a time; one more is let through, as by the C server (transactions): 10
	TransactionNodes int // nodes that one transaction has touched (transaction-nodes): 1024
	Permissions      int // permissions of a node (node-permissions): 5
	PathLength       int // bytes of a canonical path, "/local/domain/<domid>/" not counted, at most 3072 (path-max): 2048
	Outstanding      int // requests whose reply, or events they caused, are not yet taken by their receivers (outstanding): 20
	Memory           int // bytes of nodes, watches, transactions and queued messages of a domain; less than (memory): 2.5 MiB
}

// DefaultQuota returns the C server's defaults (xenstored_core.c).
func DefaultQuota() Quota {
	return Quota{
		Nodes: 1000, NodeSize: 2048, Watches: 128, Transactions: 10, TransactionNodes: 1024, Permissions: 5,
		PathLength: xenstore.MaxRelPath, Outstanding: 20, Memory: 2<<20 + 512<<10,
	}
}

// unlimited stands for no limit: far above what fits into memory, and safe to add to.
const unlimited = 1 << 30

// resolve fills in the defaults.
func (q Quota) resolve() Quota {
	d := DefaultQuota()
	for _, f := range []struct{ v, def *int }{
		{&q.Nodes, &d.Nodes}, {&q.NodeSize, &d.NodeSize}, {&q.Watches, &d.Watches}, {&q.Transactions, &d.Transactions},
		{&q.TransactionNodes, &d.TransactionNodes}, {&q.Permissions, &d.Permissions}, {&q.PathLength, &d.PathLength},
		{&q.Outstanding, &d.Outstanding}, {&q.Memory, &d.Memory},
	} {
		switch {
		case *f.v == 0:
			*f.v = *f.def
		case *f.v < 0:
			*f.v = unlimited
		}
	}
	q.PathLength = min(q.PathLength, xenstore.MaxAbsPath) // clients take no longer path in an event
	return q
}

// report is the text that CONTROL "quota" answers.
func (q Quota) report() string {
	return fmt.Sprintf("nodes %d, node-size %d, watches %d, transactions %d, transaction-nodes %d, node-permissions %d, path-max %d, "+
		"outstanding %d, memory %d\n", q.Nodes, q.NodeSize, q.Watches, q.Transactions, q.TransactionNodes, q.Permissions,
		q.PathLength, q.Outstanding, q.Memory)
}
