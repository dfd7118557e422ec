package xenstore

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The queue against the obvious one: a slice of events that is searched from the front.
func TestEventQueueAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 6).Draw(t, "limit")
		q := newEventQueue("base", limit)
		var model []Event
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "op") == 0 {
				e, ok := q.pop()
				require.Equal(t, len(model) > 0, ok)
				if ok {
					require.Equal(t, model[0], e)
					model = model[1:]
				}
				continue
			}
			path := fmt.Sprintf("/%d", rapid.IntRange(0, 9).Draw(t, "path"))
			first := q.push([]byte(path))
			require.Equal(t, len(model) == 0, first)
			model = modelPush(model, path, limit)
		}
		require.Equal(t, len(model), q.len())
		require.LessOrEqual(t, q.len(), limit+1)
	})
}

func modelPush(model []Event, path string, limit int) []Event {
	paths, marker := 0, -1
	for i := range model {
		if model[i].Missed > 0 {
			marker = i
			continue
		}
		if model[i].Path == path {
			model[i].Merged++
			return model
		}
		paths++
	}
	if paths < limit {
		return append(model, Event{Path: path})
	}
	if marker < 0 {
		return append(model, Event{Path: "base", Missed: 1})
	}
	model[marker].Missed++
	return model
}

func TestEventQueueDoesNotAllocateForWhatItMerges(t *testing.T) {
	q := newEventQueue("base", 4)
	path := []byte("/a")
	q.push(path)
	require.Zero(t, testing.AllocsPerRun(100, func() { q.push(path) }))
}

// The core against any server: it never panics, ends no request twice, and loses no slot.
func FuzzCore(f *testing.F) {
	f.Add([]byte{2, 1, 0, 2, 1, 0}, []byte("/a\x00hv1\x00"))
	f.Add([]byte{15, 0, 0, 16, 1, 1}, []byte("ENOENT\x00"))
	f.Fuzz(func(t *testing.T, script, payload []byte) {
		c := newCore(4)
		require.NoError(t, c.watch(&Watch{}))
		var live []*request
		for ; len(script) >= 3; script = script[3:] {
			if len(c.free) > 0 && script[2]&1 == 0 {
				req := &request{}
				require.NoError(t, c.begin(req, MsgType(script[0]%28)))
				if live = append(live, req); script[2]&2 != 0 {
					c.abandon(req)
				}
			}
			o, err := c.receive(Header{Type: MsgType(script[0]), ReqID: uint32(script[1]) | uint32(script[2]>>4)<<slotBits}, payload)
			if err != nil {
				require.Equal(t, outcome{}, o)
				break
			}
			if o.done != nil {
				require.True(t, o.done.finished && o.freed)
			}
		}
		busy := 0
		for _, s := range c.slots {
			if s.busy {
				busy++
			}
		}
		require.Equal(t, busy, c.outstanding())
		ended := c.fail(EIO)
		require.LessOrEqual(t, len(ended), busy)
		for _, req := range live {
			require.False(t, !req.finished && c.slots[req.id&slotMask].req == req)
		}
		require.Empty(t, c.fail(EIO))
	})
}
