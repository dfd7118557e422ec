package mailbox

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim/explore"
)

// delivery is the scenario: two messages are put and taken. sleep is how the receiver goes to sleep.
func delivery(sleep func(*Receiver) (may bool, err error)) explore.Scenario {
	return func(w *explore.World) {
		page := shm.New(1)
		w.Watch("page", page, Field)
		wake := w.Event("wake")
		messages := []string{"one", "two"}
		w.Go("sender", func(t *explore.Task) {
			s := NewSender(page)
			for _, m := range messages {
				ok, notify, err := s.Put([]byte(m))
				require.NoError(t, err)
				require.True(t, ok)
				if notify {
					wake.Notify()
				}
			}
		})
		w.Go("receiver", func(t *explore.Task) {
			r, buf := NewReceiver(page), make([]byte, MaxMessage)
			for at := 0; at < len(messages); {
				n, ok, err := r.Take(buf)
				require.NoError(t, err)
				if ok {
					require.Equal(t, messages[at], string(buf[:n]))
					at++
				} else if may, err := sleep(r); may {
					require.NoError(t, err)
					t.WaitFor(wake, func() bool { return !page.Load32(offPut).Is(r.taken) })
					r.Wake()
				}
			}
		})
	}
}

func TestEveryOrder(t *testing.T) {
	explore.Check(t, &explore.Config{Delays: 4}, delivery((*Receiver).Sleep))
}

// hasty is the planted mistake: it asks, and sleeps without another look.
func hasty(r *Receiver) (may bool, err error) {
	r.page.Store8(offAsleep, 1)
	return true, nil
}

// The mistake is found, and the page shows what comes out.
func TestThePlantedMistakeIsFound(t *testing.T) {
	r, err := explore.Explore(&explore.Config{Delays: 4}, delivery(hasty))
	f, ok := errors.AsType[*explore.Failure](err)
	require.True(t, ok, "found nothing: %v", err)
	require.Equal(t, explore.LostWakeup, f.Kind)
	t.Logf("found after %d runs", r.Runs)

	text, err := os.ReadFile("../../docs/testing-a-driver.md")
	require.NoError(t, err)
	require.Contains(t, string(text), indent(f.Listing), "docs/testing-a-driver.md shows another diagram")
}

func indent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return "    " + strings.Join(lines, "\n    ") + "\n"
}

func TestFullAndHostile(t *testing.T) {
	page := shm.New(1)
	s, r := NewSender(page), NewReceiver(page)
	for range slots {
		ok, _, err := s.Put([]byte("x"))
		require.NoError(t, err)
		require.True(t, ok)
	}
	ok, _, err := s.Put([]byte("x"))
	require.NoError(t, err)
	require.False(t, ok)
	_, _, err = s.Put(make([]byte, MaxMessage+1))
	require.Error(t, err)

	page.Store32(slot(0), MaxMessage+1)
	_, _, err = r.Take(make([]byte, MaxMessage))
	require.ErrorContains(t, err, "length of message 0")
	page.Store32(offPut, slots+1)
	_, _, err = r.Take(make([]byte, MaxMessage))
	require.ErrorContains(t, err, "put")
	page.Store32(offTaken, 100)
	_, _, err = s.Put([]byte("x"))
	require.ErrorContains(t, err, "taken")
}
