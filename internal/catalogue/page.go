package catalogue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// pageFile is made from the catalogue.
const pageFile = "docs/hostile-peers.md"

const pageHead = `# Hostile peers

What a peer can do to a program that shares memory, events and Xenstore with it, and what here answers each. "Peer" is the domain at the
other end of a protocol, the host's Xenstore server as its clients see it, its clients as the server sees them, and Xen itself where it
answers unexpectedly.

Every row's test implies the same things beside what it is about: nothing outside what was granted is touched; what the peer can write is
fetched once and then used from the copy; memory, goroutines and log lines stay within named bounds; other domains and devices go on; the
attacked one ends with a typed error; nothing leaks; the peer sees no byte that was not meant for it.

A test that cannot fail proves nothing. So each defence has a patch that takes it away ("removed"), and the row's test fails with that
patch ("caught"). The patches are in [internal/catalogue/testdata/defences](../internal/catalogue/testdata/defences); this runs them:

    go run ./internal/catalogue/check -row V-07
    go run ./internal/catalogue/check -all

The page is made from [internal/catalogue](../internal/catalogue); ` + "`go run ./internal/catalogue/check -all -write`" + ` makes it anew.
`

// Page returns docs/hostile-peers.md as it ought to be.
func (c *Catalogue) Page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	rows, tested, patches, caught := 0, 0, 0, 0
	for _, s := range c.Sections {
		for _, r := range s.Rows {
			rows++
			if len(c.testsOf(r.ID)) > 0 {
				tested++
			}
		}
	}
	for _, p := range c.Patches {
		if p.Row == "" {
			continue
		}
		patches++
		if c.Record.Proved(p) {
			caught++
		}
	}
	fmt.Fprintf(&b, "\n%d rows, %d with a test; %d defences removed, %d removals caught.\n", rows, tested, patches, caught)
	for _, s := range c.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n", s.Title)
		b.WriteString("| row | what the peer does | source | test | removed | caught |\n|---|---|---|---|---|---|\n")
		for _, r := range s.Rows {
			c.writeRow(&b, r)
		}
	}
	return b.String()
}

func (c *Catalogue) writeRow(b *strings.Builder, r Row) {
	var tests, removed, caught []string
	for _, t := range c.testsOf(r.ID) {
		tests = append(tests, fmt.Sprintf("[%s](../%s)", t.Name, t.Path()))
	}
	if len(tests) == 0 {
		tests = append(tests, "none: "+orElse(r.NoTest, "not written yet"))
	}
	for _, p := range c.PatchesOf(r.ID) {
		removed = append(removed, fmt.Sprintf("[%s](../%s)", escape(p.Removes), p.Path()))
		answer := "not yet"
		if c.Record.Proved(p) {
			answer = "yes"
		}
		caught = append(caught, answer)
	}
	if len(removed) == 0 && r.NoPatch != "" {
		removed = append(removed, "nothing: "+r.NoPatch)
	}
	fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", r.ID, r.Attack, r.Source,
		strings.Join(tests, "<br>"), strings.Join(removed, "<br>"), strings.Join(caught, "<br>"))
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// escape keeps a text from ending a table's cell or a link.
func escape(s string) string {
	return strings.NewReplacer("|", "\\|", "[", "\\[", "]", "\\]").Replace(s)
}

// explorationFile has a table of the planted bugs between two marks.
const explorationFile = "docs/exploration.md"

const (
	bugsBegin = "<!-- planted bugs: made by internal/catalogue/check -->\n"
	bugsEnd   = "<!-- end of planted bugs -->\n"
)

// BugTable returns the table of planted bugs.
func (c *Catalogue) BugTable() string {
	var b strings.Builder
	b.WriteString("| bug | what is wrong then | test | found after runs |\n|---|---|---|---|\n")
	for _, p := range c.Patches {
		if p.Bug == "" {
			continue
		}
		runs := "not yet"
		if c.Record.Proved(p) {
			runs = fmt.Sprint(c.Record[p.Path()].Runs)
		}
		fmt.Fprintf(&b, "| [%s](../%s) | %s | %s | %s |\n", p.Bug, p.Path(), escape(p.Removes), c.link(p), runs)
	}
	return b.String()
}

// link returns a link to the test of a patch.
func (c *Catalogue) link(p *Patch) string {
	for _, t := range c.Tests {
		if t.Name == p.Test && t.Package() == p.Package {
			return fmt.Sprintf("[%s](../%s)", t.Name, t.Path())
		}
	}
	return p.Test
}

// withBugTable returns the page about exploration with the table in its place.
func (c *Catalogue) withBugTable(page string) (string, error) {
	before, rest, ok1 := strings.Cut(page, bugsBegin)
	_, after, ok2 := strings.Cut(rest, bugsEnd)
	if !ok1 || !ok2 {
		return "", fmt.Errorf("%s has no place for the table of planted bugs, which is between the lines\n%s%s",
			explorationFile, bugsBegin, bugsEnd)
	}
	return before + bugsBegin + "\n" + c.BugTable() + "\n" + bugsEnd + after, nil
}

// CheckPages returns which pages below root are not what they ought to be.
func (c *Catalogue) CheckPages(root fs.FS) []string {
	var wrong []string
	again := `: differs from what it is made of: run "go run ./internal/catalogue/check -pages"`
	if text, err := fs.ReadFile(root, pageFile); err != nil || string(text) != c.Page() {
		wrong = append(wrong, pageFile+again)
	}
	text, err := fs.ReadFile(root, explorationFile)
	if errors.Is(err, fs.ErrNotExist) {
		return wrong
	}
	if err == nil {
		var want string
		if want, err = c.withBugTable(string(text)); err == nil && want != string(text) {
			err = errors.New(explorationFile + again)
		}
	}
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// WritePages writes the pages into the module in the directory root. The page about exploration is left out where it does not exist.
func (c *Catalogue) WritePages(root string) error {
	page := filepath.Join(root, filepath.FromSlash(pageFile))
	if err := os.WriteFile(page, []byte(c.Page()), 0o644); err != nil {
		return err
	}
	page = filepath.Join(root, filepath.FromSlash(explorationFile))
	text, err := os.ReadFile(page)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	changed, err := c.withBugTable(string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(page, []byte(changed), 0o644)
}
