package catalogue

import (
	"regexp"
	"strings"
)

// Row is one way in which a peer misbehaves.
type Row struct {
	ID     string // letters, a dash, two digits
	Attack string // what the peer does, or what happens to it
	Source string // where it was seen: an advisory, a CVE, a project; "" where it follows from the protocol
	// NoTest is why no test of this module stands for the row; "" for one that has a test, or shall get one.
	NoTest string
	// NoPatch is why a row with a test has no patch: there is no defence in our code that could be taken away.
	NoPatch string
}

// Section is a part of the catalogue.
type Section struct {
	Title string
	Rows  []Row
}

// Sections returns the catalogue.
func Sections() []Section {
	return []Section{
		{"Grants", grantRows},
		{"Event channels", eventRows},
		{"Xenstore: a hostile client, our server", storeServerRows},
		{"Xenstore: a hostile or odd server, our client", storeClientRows},
		{"vchan", vchanRows},
	}
}

// withoutTestYet names the rows whose tests are still to be written. A row that has a test must leave the list, so that it can only become
// shorter; it shall be empty.
var withoutTestYet = []string{}

// withoutPatchYet is the same for rows that have a test but neither a patch nor a reason why there is none.
var withoutPatchYet = []string{}

var idForm = regexp.MustCompile(`^[A-Z]{1,3}-[0-9]{2}$`)

// TestPrefix is how the names of the tests of the row with that id begin.
func TestPrefix(id string) string { return "Test" + strings.ReplaceAll(id, "-", "") + "_" }

// testForm takes the names of tests of rows apart: the letters, the digits, the underscore if it is there, and the rest.
var testForm = regexp.MustCompile(`^Test([A-Z]{1,3})([0-9]{2})(_?)([A-Z].*)$`)

// rowOf returns the id that a test's name begins with, "" if it begins with none, and whether the underscore follows it.
func rowOf(test string) (id string, wellFormed bool) {
	m := testForm.FindStringSubmatch(test)
	if m == nil {
		return "", false
	}
	return m[1] + "-" + m[2], m[3] == "_"
}
