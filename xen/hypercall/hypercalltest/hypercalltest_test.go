package hypercalltest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/hypercall/hypercalltest"
)

// session makes calls of every shape: numbers only, a structure, a list behind a handle, an error of Xen's and another one.
func session(t *testing.T, c hypercall.Caller) {
	t.Helper()
	major, minor, err := hypercall.Version(c)
	require.NoError(t, err)
	require.Equal(t, []uint16{4, 17}, []uint16{major, minor})
	port, err := hypercall.AllocUnbound(c, hypercall.DomSelf, 3)
	require.NoError(t, err)
	require.Equal(t, hypercall.Port(7), port)
	gfns, err := hypercall.SetupTable(c, hypercall.DomSelf, 1)
	require.NoError(t, err)
	require.Equal(t, []hypercall.GFN{0x99}, gfns)
	require.ErrorIs(t, hypercall.Yield(c), hypercall.ENOSYS)
	require.ErrorContains(t, hypercall.Block(c), "the wire broke")
}

// xen answers what session asks.
func xen(c *hypercall.Call) (uint64, error) {
	const abi = hypercall.ARM64
	switch c.Name() {
	case "XENVER_version":
		return 4<<16 | 17, nil
	case "EVTCHNOP_alloc_unbound":
		return 0, c.Encode(abi, 0, &hypercall.EvtchnAllocUnbound{Port: 7})
	case "GNTTABOP_setup_table":
		var op hypercall.SetupGrantTable
		if err := c.Decode(abi, 0, &op); err != nil {
			return 0, err
		}
		op.Status = hypercall.StatusOkay
		hypercall.PutWords(abi, c.Ref(op.FrameListOffset(abi)), []hypercall.GFN{0x99})
		return 0, c.Encode(abi, 0, &op)
	case "SCHEDOP_block":
		return 0, errors.New("the wire broke")
	}
	return 0, hypercall.ENOSYS
}

func record(t *testing.T) []hypercalltest.Exchange {
	rec := hypercalltest.NewRecorder(&hypercalltest.Func{Layout: hypercall.ARM64, Answer: xen})
	require.Equal(t, hypercall.ARM64, rec.ABI())
	session(t, rec)
	exchanges := rec.Exchanges()
	rec.Reset()
	require.Empty(t, rec.Exchanges())
	return exchanges
}

func TestPlaybackAnswersAsRecorded(t *testing.T) {
	p := hypercalltest.NewPlayback(hypercall.ARM64, record(t)...)
	session(t, p)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
}

// TestRecordsAreData writes a record as text, reads it and plays it back.
func TestRecordsAreData(t *testing.T) {
	want := record(t)
	var text bytes.Buffer
	require.NoError(t, hypercalltest.WriteRecord(&text, want))
	require.Equal(t, len(want), bytes.Count(text.Bytes(), []byte("\n")))
	cut := text.Bytes()[:text.Len()-10]
	got, err := hypercalltest.ReadRecord(&text)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, got))
	p := hypercalltest.NewPlayback(hypercall.ARM64, got...)
	session(t, p)
	require.NoError(t, p.Close())

	_, err = hypercalltest.ReadRecord(bytes.NewReader(cut))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorContains(t, err, "exchange 4")
}

// TestCallerOnRecordedXen plays back what a real Xen (Debian's 4.17.7 on x86-64, under QEMU, asked by a PV dom0 through privcmd)
// answered to TestCaller behind a Recorder. When TestCaller asks more, it is to be recorded again.
func TestCallerOnRecordedXen(t *testing.T) {
	f, err := os.Open("testdata/xen-4.17.7-pv-dom0.jsonl")
	require.NoError(t, err)
	defer f.Close()
	record, err := hypercalltest.ReadRecord(f)
	require.NoError(t, err)
	p := hypercalltest.NewPlayback(hypercall.X86_64, record...)
	hypercalltest.TestCaller(t, p)
	require.NoError(t, p.Close())
}

func TestRecordsDoNotChangeAfterwards(t *testing.T) {
	rec := hypercalltest.NewRecorder(&hypercalltest.Func{Layout: hypercall.X86_64})
	for port := range hypercall.Port(3) {
		require.NoError(t, hypercall.SendEvent(rec, port))
	}
	for i, e := range rec.Exchanges() {
		require.Equal(t, fmt.Sprintf("EVTCHNOP_send [0%d000000] = 0x0", i), e.String())
	}
}

func TestPlaybackRefusesAnotherCall(t *testing.T) {
	send := func(c hypercall.Caller) error { return hypercall.SendEvent(c, 1) }
	others := map[string]func(c hypercall.Caller) error{
		"other memory":  func(c hypercall.Caller) error { return hypercall.SendEvent(c, 2) },
		"other command": func(c hypercall.Caller) error { return hypercall.ClosePort(c, 1) },
		"other number":  func(c hypercall.Caller) error { return hypercall.Yield(c) },
		"other address": func(c hypercall.Caller) error { return hypercall.Poll(c, []hypercall.Port{1}, 0) },
	}
	rec := hypercalltest.NewRecorder(&hypercalltest.Func{Layout: hypercall.X86_64})
	require.NoError(t, send(rec))
	for name, other := range others {
		p := hypercalltest.NewPlayback(hypercall.X86_64, rec.Exchanges()...)
		var unexpected *hypercalltest.UnexpectedError
		require.ErrorAs(t, other(p), &unexpected, name)
		require.Zero(t, unexpected.Index)
		require.NotNil(t, unexpected.Want)
		require.ErrorAs(t, send(p), &unexpected, "once wrong, it stays wrong")
		require.ErrorAs(t, p.Close(), &unexpected)
		require.Contains(t, p.Close().Error(), "the record has EVTCHNOP_send [01000000]")
	}
}

func TestPlaybackRefusesAnotherList(t *testing.T) {
	rec := hypercalltest.NewRecorder(&hypercalltest.Func{Layout: hypercall.X86_64})
	require.NoError(t, hypercall.Poll(rec, []hypercall.Port{1}, 0))
	p := hypercalltest.NewPlayback(hypercall.X86_64, rec.Exchanges()...)
	require.Error(t, hypercall.Poll(p, []hypercall.Port{2}, 0))
}

func TestPlaybackEnds(t *testing.T) {
	p := hypercalltest.NewPlayback(hypercall.X86_64)
	require.NoError(t, p.Close())
	require.ErrorContains(t, hypercall.Yield(p), "past the end of the record")
	require.Error(t, p.Close())
}

func TestPlaybackMustBeUsedUp(t *testing.T) {
	rec := hypercalltest.NewRecorder(&hypercalltest.Func{Layout: hypercall.X86_64})
	require.NoError(t, hypercall.SendEvent(rec, 1))
	require.NoError(t, hypercall.SendEvent(rec, 2))
	p := hypercalltest.NewPlayback(hypercall.X86_64, rec.Exchanges()...)
	require.NoError(t, hypercall.SendEvent(p, 1))
	require.ErrorContains(t, p.Close(), "1 of 2 calls of the record were not made; the next is EVTCHNOP_send [02000000]")
}

func TestRecorderIsSafeForConcurrentUse(t *testing.T) {
	rec := hypercalltest.NewRecorder(&hypercalltest.Func{Layout: hypercall.X86_64})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if err := hypercall.SendEvent(rec, 1); err != nil {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, rec.Exchanges(), 400)
}

func ExamplePlayback() {
	// Recorded once, against the simulator or a real Xen ...
	rec := hypercalltest.NewRecorder(&hypercalltest.Func{
		Layout: hypercall.X86_64,
		Answer: func(*hypercall.Call) (uint64, error) { return 4<<16 | 17, nil },
	})
	if _, _, err := hypercall.Version(rec); err != nil {
		fmt.Println(err)
	}
	for _, e := range rec.Exchanges() {
		fmt.Println(e)
	}
	// ... played back ever after.
	p := hypercalltest.NewPlayback(rec.ABI(), rec.Exchanges()...)
	fmt.Println(hypercall.Version(p))
	fmt.Println(p.Close())
	// Output:
	// XENVER_version 0x0 = 0x40011
	// 4 17 <nil>
	// <nil>
}
