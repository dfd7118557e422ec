// Package catalogue is the list of what a hostile or failing peer can do to this module, and of what answers each.
//
// A row is one attack: an id (V-07), what the peer does, and where it was seen in the wild. Its tests are the functions whose names begin
// with the id (TestV07_...), in whatever package they are; [ReadTests] finds them by reading the source. A row without a test says why.
//
// A test that cannot fail proves nothing. So each defence has a patch in testdata/defences that takes it away, and the row's test must
// fail with it. The same form, in testdata/bugs, plants bugs that an exploration of schedules must find. A patch is text:
//
//	Row: V-07
//	Test: ./xen/vchan TestV07_CloseLosesNothing
//	Removes: the look at the index after the peer has closed
//
//	--- xen/vchan/core.go
//	@@
//	 	n, err = r.look()
//	-	r.final = true
//	+	r.final = false
//
// It is a unified diff without numbers: a hunk begins with "@@" alone on a line, and its old text (the lines that begin with a space or
// a minus) must occur once and only once in the file. An empty line is an empty line of context, except at the end of a hunk, where it
// counts for nothing. "--- " always begins a file. A header line that begins with a space goes on with the one before. A planted bug has
// "Bug: name" in place of the row; its file is called name.patch. A row's patch is called V-07.patch, or V-07.what-it-is.patch where there
// are several. Patches change source, not tests; what they make of it must compile and pass go vet.
//
// The commands are
//
//	go run ./internal/catalogue/check -row V-07           applies the row's patches, one after the other, and runs their tests
//	go run ./internal/catalogue/check -all -write         all patches; writes what was found to testdata/caught.txt and to the pages
//	go run ./internal/catalogue/fuzzall -time 1m          runs each fuzz target of the module for a minute
//
// Patches are applied through go's -overlay: no file of the tree is changed. testdata/caught.txt says which version of each patch was
// caught, so that one that was changed since counts as unproved. docs/hostile-peers.md is made of the rows, the tests and that file, and
// a test compares them.
package catalogue
