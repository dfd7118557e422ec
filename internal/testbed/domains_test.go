package testbed_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/guest"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
	"github.com/stretchr/testify/require"
)

// create creates domains, at once, and destroys them when the test ends.
func create(t *testing.T, h *testbed.Host, kinds ...string) []*testbed.Domain {
	t.Helper()
	all := make([]*testbed.Domain, len(kinds))
	errs := make([]error, len(kinds))
	var wg sync.WaitGroup
	for i, k := range kinds {
		wg.Go(func() { all[i], errs[i] = h.Create(t.Context(), &testbed.DomainConfig{Kind: k}) })
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, d := range all {
			if d != nil {
				require.NoError(t, d.Destroy(context.Background()))
				require.NoError(t, d.Destroy(context.Background()))
			}
		}
		out, err := h.Dom0().Output(context.Background(), "xl", "list")
		require.NoError(t, err)
		require.Len(t, strings.Split(out, "\n"), 2, "the head of the table, and dom0:\n%s", out)
	})
	require.NoError(t, errors.Join(errs...))
	return all
}

func TestSeveralDomains(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	bin, err := testbed.BuildTest(t.Context(), "github.com/hvkit/hvkit/internal/testbed/guest", "amd64", t.TempDir())
	require.NoError(t, err)
	all := create(t, h, "pv", "pvh", "pv")
	require.Len(t, h.Domains(), 4)
	ids := map[int]bool{0: true}
	for _, d := range all {
		require.False(t, ids[d.ID()], "%s has number %d, which is another's", d.Name(), d.ID())
		ids[d.ID()] = true
		require.Same(t, d, h.Domain(d.Name()))
	}
	var wg sync.WaitGroup
	for _, d := range h.Domains() {
		wg.Go(func() {
			out, err := h.Run(t.Context(), d.Name(), bin.Path, "-test.run=^TestFrames$")
			if err != nil || !bytes.Contains(out, []byte("PASS")) {
				t.Errorf("%s: %v\n%s", d.Name(), err, out)
			}
			var where bytes.Buffer
			err = d.RunBinary(t.Context(), &testbed.Binary{Path: script(t)}, &guest.Cmd{Stdout: &where, Args: []string{"x"}})
			if err != nil || where.String() != d.Kind()+" x\n" {
				t.Errorf("%s: %v %q", d.Name(), err, where.String())
			}
		})
	}
	wg.Wait()
	_, err = h.Run(t.Context(), "nobody", bin.Path)
	require.ErrorContains(t, err, "nobody")
}

// script is a program that says where it is.
func script(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "where")
	require.NoError(t, os.WriteFile(name, []byte("#!/bin/sh\necho $"+testbed.EnvInside+" $1\n"), 0o755))
	return name
}

// Files come whole to every kind of domain, and from there. Together those of a guest are more than its kernel grants at once (4 MiB), so
// what was granted for them was given back.
func TestFiles(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	data := make([]byte, 5<<20+17)
	_, _ = rand.Read(data)
	sum := sha256.Sum256(data)
	want := hex.EncodeToString(sum[:])
	for _, d := range append(create(t, h, "pv"), h.Dom0()) {
		for i := range 2 {
			start := time.Now()
			path := fmt.Sprintf("/tmp/a/b/%d", i)
			require.NoError(t, d.Put(t.Context(), path, 0o600, bytes.NewReader(data)))
			t.Logf("%s: %.1f MB/s", d.Name(), float64(len(data))/1e6/time.Since(start).Seconds())
			got, err := d.Output(t.Context(), "busybox", "sha256sum", path)
			require.NoError(t, err)
			require.Equal(t, want, strings.Fields(got)[0])
		}
		require.NoError(t, d.Put(t.Context(), "/tmp/a/empty", 0o755, strings.NewReader("")))
		start := time.Now()
		r, err := d.Get(t.Context(), "/bin/busybox")
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, io.LimitReader(r, 200_000))
		require.NoError(t, err)
		require.EqualValues(t, 200_000, n)
		require.NoError(t, r.Close())
		t.Logf("%s: %.0f kB/s back", d.Name(), float64(n)/1e3/time.Since(start).Seconds())
	}
}

// A domain may end under a program. Then who waits for that program is told so, and what the kernel said last is there.
func TestKernelPanic(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	d := create(t, h, "pv")[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := d.Output(ctx, "busybox", "sh", "-c", "echo c > /proc/sysrq-trigger")
	require.Error(t, err)
	require.NoError(t, ctx.Err())
	require.Contains(t, d.Console(), "Kernel panic")
	require.Contains(t, h.Evidence(), "Kernel panic")
	_, err = h.Dom0().Output(ctx, "xl", "info")
	require.NoError(t, err, "the host goes on")
}

func TestDestroyedUnderAProgram(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	d := create(t, h, "pv")[0]
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- d.Run(t.Context(), &guest.Cmd{Path: "busybox", Args: []string{"sh", "-c", "echo on; sleep 1000"}, Stdout: w})
	}()
	_, err := io.ReadFull(r, make([]byte, 3))
	require.NoError(t, err)
	require.NoError(t, d.Destroy(t.Context()))
	require.Error(t, <-ended)
}

func TestUnknownKind(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	_, err := h.Create(t.Context(), &testbed.DomainConfig{Kind: "hvm"})
	require.ErrorContains(t, err, `"pv" "pvh"`)
	_, err = h.Create(t.Context(), &testbed.DomainConfig{Kind: "pv", Name: "big", Memory: 1 << 20})
	require.ErrorContains(t, err, "xl")
	require.Nil(t, h.Domain("big"))
	require.Error(t, h.Dom0().Destroy(t.Context()))
}

// A host that boots says so on its console, and ends with its context. Nothing of it is left: no process, no file.
func TestHostEndsWithItsContext(t *testing.T) {
	testbedtest.Need(t)
	before := children(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var console bytes.Buffer
	h, err := testbed.Boot(ctx, testbed.XenAMD64, &testbed.Config{Fresh: true, Console: &console, Log: t.Output()})
	require.NoError(t, err)
	require.Contains(t, h.Console(), "Done setting up Dom0")
	require.Len(t, children(t), len(before)+1)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left, "QEMU has read its files")
	cancel()
	_, err = h.Dom0().Output(t.Context(), "xl", "info")
	require.Error(t, err)
	require.Eventually(t, func() bool { return len(children(t)) == len(before) }, 20*time.Second, time.Millisecond)
	h.Close()
	h.Close()
	require.Contains(t, console.String(), "Xen version 4")
}

// children are the processes that this one has started and that have not ended.
func children(t *testing.T) []string {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	var all []string
	for _, l := range lists {
		text, err := os.ReadFile(l)
		if err == nil { // a thread may have ended
			all = append(all, strings.Fields(string(text))...)
		}
	}
	return all
}
