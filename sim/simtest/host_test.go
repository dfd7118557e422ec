package simtest_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen/grant"
)

// fakeTB is a test that can fail without failing this one.
type fakeTB struct {
	testing.TB // nil: a method that is not below is not expected
	out        bytes.Buffer
	errors     []string
	cleanups   []func()
}

func (f *fakeTB) Helper()          {}
func (f *fakeTB) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }
func (f *fakeTB) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}
func (f *fakeTB) Failed() bool      { return len(f.errors) > 0 }
func (f *fakeTB) Output() io.Writer { return &f.out }

func (f *fakeTB) end() {
	for len(f.cleanups) > 0 {
		last := len(f.cleanups) - 1
		c := f.cleanups[last]
		f.cleanups = f.cleanups[:last]
		c()
	}
}

func TestCleanHost(t *testing.T) {
	fake := new(fakeTB)
	h := simtest.NewHost(fake, nil)
	d := simtest.NewDomain(fake, h, "a")
	s, err := d.Xen().Grants().Share(7, 1, grant.ReadWrite)
	require.NoError(t, err)
	fake.Cleanup(func() { s.End() })
	fake.end()
	require.Empty(t, fake.errors)
	require.Empty(t, fake.out.String())
	require.Equal(t, "dead", d.State())
	_, err = h.NewDomain(nil)
	require.ErrorIs(t, err, sim.ErrHostClosed)
}

func TestLeakFailsTheTestAndPrintsTheTrace(t *testing.T) {
	fake := new(fakeTB)
	h := simtest.NewHost(fake, nil)
	d := simtest.NewDomain(fake, h, "leaky")
	_, err := d.Xen().Events().AllocUnbound(9)
	require.NoError(t, err)
	fake.end()
	require.Len(t, fake.errors, 1)
	require.Contains(t, fake.errors[0], "domain 1 (leaky): port 2 is open (unbound)")
	require.Contains(t, fake.out.String(), `domain "leaky" created`)
	require.Contains(t, fake.out.String(), "alloc_unbound for d9: port 2")
}

func TestCheckLeaksBeforeADestroy(t *testing.T) {
	fake := new(fakeTB)
	h := simtest.NewHost(fake, nil)
	d := simtest.NewDomain(fake, h, "leaky")
	_, err := d.Xen().Grants().Share(9, 2, grant.ReadOnly)
	require.NoError(t, err)
	simtest.CheckLeaks(fake, h)
	require.Len(t, fake.errors, 1)
	require.Contains(t, fake.errors[0], "grant 8 to domain 9 is in force")
	require.Contains(t, fake.errors[0], "2 pages of memory")
	require.NoError(t, d.Destroy())
	fake.end()
	require.Len(t, fake.errors, 1)
}
