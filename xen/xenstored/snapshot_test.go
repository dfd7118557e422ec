package xenstored_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// TestSince: what a change says of itself is what a comparison of all nodes finds.
func TestSince(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var changes []xenstored.Change
		s := xenstored.New(&xenstored.Config{Changed: func(c xenstored.Change) { changes = append(changes, c) }})
		defer s.Close()
		c := s.LocalClient()
		defer c.Close()
		ctx := t.Context()
		first := s.Snapshot()
		path := rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf("/%d/%d", rapid.IntRange(0, 20).Draw(t, "a"), rapid.IntRange(0, 20).Draw(t, "b"))
		})
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			p := path.Draw(t, "path")
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				_ = c.Remove(ctx, p) // which may not be there
			case 1:
				_ = c.Remove(ctx, xenstore.Parent(p))
			case 2:
				require.NoError(t, c.Write(ctx, p, []byte(p)))
			case 3:
				require.NoError(t, c.Transaction(ctx, func(tx *xenstore.Tx) error {
					if err := tx.Write(ctx, p, []byte("tx")); err != nil {
						return err
					}
					return tx.Write(ctx, p+"/below", []byte("tx"))
				}))
			}
		}
		last := first
		for _, ch := range changes {
			require.Equal(t, last, ch.Before, "changes follow each other without a gap")
			require.Equal(t, compared(ch.Before, ch.After), ch.After.Since(ch.Before))
			require.NotEmpty(t, ch.After.Since(ch.Before))
			last = ch.After
		}
		require.Equal(t, last, s.Snapshot())
		require.Equal(t, compared(first, last), last.Since(first))
		require.Empty(t, last.Since(last))
	})
}

// compared compares all nodes of two snapshots.
func compared(a, b xenstored.Snapshot) []xenstored.Difference {
	paths := map[string]bool{}
	for _, s := range []xenstored.Snapshot{a, b} {
		for n := range s.All("/") {
			paths[n.Path] = true
		}
	}
	var out []xenstored.Difference
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		d := xenstored.Difference{Path: p}
		d.Was, d.Existed = a.Node(p)
		d.Is, d.Exists = b.Node(p)
		if d.Existed != d.Exists || d.Was.Generation != d.Is.Generation {
			out = append(out, d)
		}
	}
	return out
}
