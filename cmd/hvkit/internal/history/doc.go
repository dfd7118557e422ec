// Package history keeps the changes of a Xenstore as commits of a Git repository, one for each transaction or single request, so that
// `git log` shows who did what when, and a store can begin again with what any commit has.
//
//	xenstored.Server --Changed--> Log: queue --> trees, blobs, commit --> repository (bare)      <-- git log, git diff
//	xenstored.Restore <---------- State --------- Read(dir, "HEAD~3") <-----/
//
// A node is a directory with its children, and files whose names no node can have:
//
//	local/domain/1/name/.perms      the permissions, one a line: "n1", "r2"
//	local/domain/1/name/.value      the value; none where it is empty
//	local/domain/1/.order           names of children in the order of their creation, where that is not the alphabet's
//	.special/@releaseDomain/.perms  the nodes that are not in the tree
//
// Only what changed is written: a commit costs a blob and a tree for each level of the path.
package history
