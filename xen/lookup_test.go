package xen_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen"
)

func TestLookup(t *testing.T) {
	h := simtest.NewHost(t, nil)
	a, b := simtest.NewDomain(t, h, "alpha"), simtest.NewDomain(t, h, "beta")
	ctx, d := t.Context(), a.Xen()

	id, err := d.Lookup(ctx, "beta")
	require.NoError(t, err)
	require.Equal(t, b.ID(), id)
	id, err = d.Lookup(ctx, "alpha")
	require.NoError(t, err)
	require.Equal(t, a.ID(), id)
	id, err = d.Lookup(ctx, "31000")
	require.NoError(t, err, "a number is taken at its word")
	require.EqualValues(t, 31000, id)

	for _, none := range []string{"gamma", "-1", "0x1", "70000", "1 "} {
		_, err = d.Lookup(ctx, none)
		require.ErrorIs(t, err, fs.ErrNotExist, "%q", none)
	}
	_, err = d.Lookup(ctx, "32752")
	require.Error(t, err, "DOMID_SELF is not a domain")
	_, err = d.Lookup(ctx, "")
	require.Error(t, err)
	done, cancel := context.WithCancel(ctx)
	cancel()
	_, err = d.Lookup(done, "beta")
	require.ErrorIs(t, err, context.Canceled)
}

func ExampleDomain_Lookup() {
	host := sim.NewHost(nil)
	defer host.Close()
	dom, err := host.NewDomain(&sim.DomainConfig{Name: "web"})
	if err != nil {
		fmt.Println(err)
		return
	}
	var d *xen.Domain = dom.Xen() // on Xen itself: xen.Open
	ctx := context.Background()
	fmt.Println(d.Lookup(ctx, "web"))
	fmt.Println(d.Lookup(ctx, "7"))
	_, err = d.Lookup(ctx, "nobody")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// 1 <nil>
	// 7 <nil>
	// true
}
