// Check takes the defences of the module away, one after the other, and sees whether the tests of the catalogue notice:
//
//	go run ./internal/catalogue/check -row V-07     the patches of a row, or of a planted bug by its name
//	go run ./internal/catalogue/check -new          the patches that were not caught as they are now
//	go run ./internal/catalogue/check -part 5/8     every eighth patch, from the sixth on; 13/8 are the same
//	go run ./internal/catalogue/check -all          all
//	go run ./internal/catalogue/check -pages        none; only makes the pages anew
//
// It prints a line for each patch and exits with status 1 if one is not caught. -write records what was caught and makes the pages anew.
// Before, the tests run as the tree is: they must pass. It leaves the tree as it is but for -write and -pages.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/hvkit/hvkit/internal/catalogue"
)

type options struct {
	all, fresh, pages, write, unpatched, verbose bool
	row, part                                    string
}

func main() {
	var o options
	flag.BoolVar(&o.all, "all", false, "check all patches")
	flag.BoolVar(&o.fresh, "new", false, "check the patches that were not caught as they are now")
	flag.StringVar(&o.row, "row", "", "check the patches of these rows or bugs, with commas between")
	flag.StringVar(&o.part, "part", "", "check the k-th of n parts (k/n), counted from 0 and around")
	flag.BoolVar(&o.pages, "pages", false, "make the pages anew")
	flag.BoolVar(&o.write, "write", false, "record what was caught, and make the pages anew")
	flag.BoolVar(&o.unpatched, "unpatched", true, "first run the tests without patches")
	flag.BoolVar(&o.verbose, "v", false, "print what the tests say")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	root, err := catalogue.Root()
	if err != nil {
		return err
	}
	c, err := catalogue.Load(os.DirFS(root))
	if err != nil {
		return err
	}
	patches, err := o.choose(c)
	if err != nil {
		return err
	}
	if o.unpatched && len(patches) > 0 {
		if err := catalogue.CheckUnpatched(ctx, root, patches); err != nil {
			return err
		}
	}
	failed := checkAll(ctx, c, root, patches, o.verbose)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if o.write {
		c.Record.Prune(c.Patches)
		err = errors.Join(err, c.Record.Write(root))
	}
	if o.write || o.pages {
		err = errors.Join(err, c.WritePages(root))
	}
	if failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d patches were not caught", failed, len(patches)))
	}
	return err
}

// checkAll runs the patches, prints what became of them, notes it in the record, and returns how many were not caught.
func checkAll(ctx context.Context, c *catalogue.Catalogue, root string, patches []*catalogue.Patch, verbose bool) int {
	failed := 0
	for _, p := range patches {
		o, err := p.Check(ctx, root)
		if ctx.Err() != nil {
			return failed
		}
		verdict := "caught: " + o.How
		switch {
		case err != nil:
			verdict = "ERROR: " + err.Error()
		case !o.Caught:
			verdict = "NOT CAUGHT: " + o.How
		case p.Bug != "":
			verdict = fmt.Sprintf("found after %d runs", o.Runs)
		}
		fmt.Printf("%-28s %-50s %6.1fs  %s\n", p.Name, p.Test, o.Took.Round(time.Millisecond).Seconds(), verdict)
		if verbose {
			fmt.Println(o.Output)
		}
		if err != nil || !o.Caught {
			failed++
		}
		c.Record.Note(p, o)
	}
	return failed
}

// choose returns the patches that were asked for.
func (o options) choose(c *catalogue.Catalogue) ([]*catalogue.Patch, error) {
	asked := 0
	for _, is := range []bool{o.all, o.fresh, o.row != "", o.part != ""} {
		if is {
			asked++
		}
	}
	switch {
	case asked == 0 && o.pages:
		return nil, nil
	case asked != 1:
		return nil, errors.New("one of -all, -new, -row and -part says what to check, and -pages alone that nothing is")
	case o.all:
		return c.Patches, nil
	case o.fresh:
		return c.Unproved(), nil
	case o.part != "":
		k, n, err := parsePart(o.part)
		if err != nil {
			return nil, err
		}
		return c.Part(k, n), nil
	}
	var patches []*catalogue.Patch
	for name := range strings.SplitSeq(o.row, ",") {
		of := c.PatchesOf(name)
		if len(of) == 0 {
			return nil, fmt.Errorf("%s has no patch", name)
		}
		patches = append(patches, of...)
	}
	return patches, nil
}

// parsePart reads k/n.
func parsePart(s string) (k, n uint64, err error) {
	a, b, ok := strings.Cut(s, "/")
	if !ok {
		return 0, 0, fmt.Errorf("-part %s: want k/n", s)
	}
	if k, err = strconv.ParseUint(a, 10, 64); err != nil {
		return 0, 0, fmt.Errorf("-part %s: %w", s, err)
	}
	if n, err = strconv.ParseUint(b, 10, 64); err != nil || n == 0 {
		return 0, 0, fmt.Errorf("-part %s: the number of parts is at least 1 (%w)", s, err)
	}
	return k, n, nil
}
