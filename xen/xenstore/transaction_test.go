package xenstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/stretchr/testify/require"
)

// serveTx serves transactions; commit says what the nth TRANSACTION_END answers, and log gets every message.
func serveTx(s *xenstoretest.Script, log *[]string, commit func(n int) string) {
	n := 0
	s.Serve(func(m xenstoretest.Message) (string, string) {
		*log = append(*log, fmt.Sprintf("%s %d %q", m.Type, m.TxID, m.Payload))
		switch m.Type {
		case xenstore.MsgTransactionStart:
			n++
			return fmt.Sprintf("%d\x00", 100+n), ""
		case xenstore.MsgTransactionEnd:
			return "OK\x00", commit(n)
		}
		return "OK\x00", ""
	})
}

func TestTransactionIsRepeated(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	var log []string
	go serveTx(s, &log, func(n int) string {
		if n < 3 {
			return "EAGAIN"
		}
		return ""
	})
	calls := 0
	err := c.Transaction(t.Context(), func(tx *xenstore.Tx) error {
		calls++
		return tx.Write(t.Context(), "/a", []byte{byte('0' + calls)})
	})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, []string{
		`TRANSACTION_START 0 "\x00"`, `WRITE 101 "/a\x001"`, `TRANSACTION_END 101 "T\x00"`,
		`TRANSACTION_START 0 "\x00"`, `WRITE 102 "/a\x002"`, `TRANSACTION_END 102 "T\x00"`,
		`TRANSACTION_START 0 "\x00"`, `WRITE 103 "/a\x003"`, `TRANSACTION_END 103 "T\x00"`,
	}, log)
	require.EqualValues(t, 2, c.Stats().Retries)
}

func TestXC04_ConflictForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := xenstoretest.NewScript(t, &xenstore.Config{MaxAttempts: 20})
		var log []string
		go serveTx(s, &log, func(int) string { return "EAGAIN" })
		start, calls := time.Now(), 0
		err := c.Transaction(t.Context(), func(*xenstore.Tx) error { calls++; return nil })
		require.ErrorIs(t, err, xenstore.ErrConflict)
		require.Equal(t, 20, calls)
		require.NotZero(t, time.Since(start), "it waited between attempts")
		require.Less(t, time.Since(start), 20*xenstore.DefaultMaxBackoff)
	})
}

func TestTransactionIsAborted(t *testing.T) {
	boom := errors.New("boom")
	s, c := xenstoretest.NewScript(t, nil)
	var log []string
	go serveTx(s, &log, func(int) string { return "" })
	var kept *xenstore.Tx
	require.Equal(t, boom, c.Transaction(t.Context(), func(tx *xenstore.Tx) error { kept = tx; return boom }))
	_, err := kept.Read(t.Context(), "/a")
	require.ErrorIs(t, err, xenstore.ErrTxDone)
	require.PanicsWithValue(t, "oh", func() { _ = c.Transaction(t.Context(), func(*xenstore.Tx) error { panic("oh") }) })
	ctx, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, c.Transaction(ctx, func(*xenstore.Tx) error { cancel(); return nil }), context.Canceled)
	require.NoError(t, c.Close())
	require.Equal(t, []string{
		`TRANSACTION_START 0 "\x00"`, `TRANSACTION_END 101 "F\x00"`,
		`TRANSACTION_START 0 "\x00"`, `TRANSACTION_END 102 "F\x00"`,
		`TRANSACTION_START 0 "\x00"`, `TRANSACTION_END 103 "F\x00"`,
	}, log)
}

func TestTransactionWaitsForTheQuotaOfOthers(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	n := 0
	go s.Serve(func(m xenstoretest.Message) (string, string) {
		if n++; m.Type == xenstore.MsgTransactionStart && n < 5 {
			return "", "ENOSPC"
		}
		if m.Type == xenstore.MsgTransactionStart {
			return "7\x00", ""
		}
		return "OK\x00", ""
	})
	require.NoError(t, c.Transaction(t.Context(), func(*xenstore.Tx) error { return nil }))
	require.EqualValues(t, 4, c.Stats().Retries)
}

// A hundred at once are never more than the server allows.
func TestTransactionsAreBounded(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	open, most := 0, 0
	go s.Serve(func(m xenstoretest.Message) (string, string) {
		switch m.Type {
		case xenstore.MsgTransactionStart:
			open++
			most = max(most, open)
		case xenstore.MsgTransactionEnd:
			open--
			return "OK\x00", ""
		case xenstore.MsgMkdir:
			return "OK\x00", ""
		}
		return "9\x00", ""
	})
	wait := results(100, func(int) string {
		return fmt.Sprint(c.Transaction(t.Context(), func(tx *xenstore.Tx) error { return tx.Mkdir(t.Context(), "/a") }))
	})
	for _, got := range wait() {
		require.Equal(t, "<nil>", got)
	}
	require.NoError(t, c.Close())
	require.LessOrEqual(t, most, xenstore.DefaultTransactions)
}

func TestTransactionBadAnswers(t *testing.T) {
	for _, answer := range []string{"", "\x00", "0\x00", "-1\x00", "x\x00", "4294967296\x00"} {
		s, c := xenstoretest.NewScript(t, nil)
		go s.Serve(func(xenstoretest.Message) (string, string) { return answer, "" })
		err := c.Transaction(t.Context(), func(*xenstore.Tx) error { return nil })
		_, ok := errors.AsType[*xenstore.OpError](err)
		require.True(t, ok, "%q: %v", answer, err)
	}
}

// A server that answers nothing holds a transaction up for no longer than its context, be it at the start, in the middle, or at the end.
func TestTransactionWithADeafServer(t *testing.T) {
	for deaf := range 3 {
		synctest.Test(t, func(t *testing.T) {
			s, c := xenstoretest.NewScript(t, nil)
			go func() {
				for n := 0; ; n++ {
					m := s.Next()
					if m == (xenstoretest.Message{}) {
						return
					}
					switch {
					case n >= deaf:
					case m.Type == xenstore.MsgTransactionStart:
						s.Reply(m, "7\x00")
					default:
						s.Reply(m, "OK\x00")
					}
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			start := time.Now()
			err := c.Transaction(ctx, func(tx *xenstore.Tx) error { return tx.Mkdir(ctx, "/a") })
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, time.Since(start), time.Hour+time.Second)
			require.NoError(t, c.Close())
		})
	}
}

// A transaction that the server begins for a caller who has left is ended, and its place is free again only then.
func TestTransactionStartIsTakenBack(t *testing.T) {
	s, c := xenstoretest.NewScript(t, &xenstore.Config{MaxTransactions: 1})
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { errs <- c.Transaction(ctx, func(*xenstore.Tx) error { return nil }) }()
	start := s.Next()
	cancel()
	require.ErrorIs(t, <-errs, context.Canceled)
	next := results(1, func(int) string {
		return fmt.Sprint(c.Transaction(t.Context(), func(*xenstore.Tx) error { return nil }))
	})
	s.Reply(start, "7\x00")
	end := s.Next()
	require.Equal(t, xenstore.MsgTransactionEnd, end.Type, "before the next one begins")
	require.Equal(t, "F\x00", end.Payload)
	require.EqualValues(t, 7, end.TxID)
	s.Reply(end, "OK\x00")
	s.Reply(s.Next(), "8\x00")
	s.Reply(s.Next(), "OK\x00")
	require.Equal(t, []string{"<nil>"}, next())
}
