package xenstored_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// long reports whether tests are to take minutes for what they do in seconds otherwise.
func long() bool { return os.Getenv("HVKIT_LONG") != "" }

// seed returns what HVKIT_SEED says, or a new one.
func seed(t *testing.T) uint64 {
	s := os.Getenv("HVKIT_SEED")
	if s == "" {
		return rand.Uint64()
	}
	n, err := strconv.ParseUint(s, 0, 64)
	require.NoError(t, err, "HVKIT_SEED")
	return n
}

// TestXS20_Histories has many clients work at once, over every kind of connection and as domain 0 or as guests, and holds what they were
// told against what the store promises: committed transactions are serialisable, and conflict where the rule says so and nowhere else;
// single requests take effect at one moment each; who watches, and reads again on each event, ends with what is there; and the books are
// right after every step. Its seed gives the same choices again, though not the same order of the goroutines.
//
// It takes about two seconds, or with HVKIT_LONG a minute.
//
// +checklocksignore: what is looked at here, nobody else has any more.
func TestXS20_Histories(t *testing.T) {
	begin := seed(t)
	end := time.Now().Add(2 * time.Second)
	if long() {
		end = time.Now().Add(time.Minute)
	}
	var txns, conflicts, singles, rounds int
	for ; time.Now().Before(end); rounds++ {
		r := newRound(t, begin+uint64(rounds))
		r.run()
		if t.Failed() {
			t.Fatalf("HVKIT_SEED=%d", begin+uint64(rounds))
		}
		if err := errors.Join(checkSerial(r.final, r.txns), checkLinear(r.singles)); err != nil {
			t.Fatalf("HVKIT_SEED=%d: %v", begin+uint64(rounds), err)
		}
		if r.converge(); t.Failed() {
			t.Fatalf("HVKIT_SEED=%d", begin+uint64(rounds))
		}
		r.close()
		txns, singles = txns+len(r.txns), singles+len(r.singles)
		for i := range r.txns {
			if r.txns[i].outcome == conflicted {
				conflicts++
			}
		}
	}
	t.Logf("HVKIT_SEED=%d: %d rounds, %d transactions, of which %d conflicted, %d single requests", begin, rounds, txns, conflicts, singles)
	require.NotZero(t, conflicts)
}

// A round is what clients do at once with a new store: each of a few connections is used by two clients.
const (
	lists       = 4 // that transactions append to; the even ones are values, the odd ones directories
	trees       = 3 // that single requests work in
	stepsOfEach = 40
)

type round struct {
	*testing.T
	s       *xenstored.Server
	host    *xenstore.Client
	clients []*xenstore.Client
	ends    []<-chan error
	clock   atomic.Int64
	names   atomic.Int64
	rng     *rand.Rand
	watched []*watched

	final map[string][]string

	mu sync.Mutex
	// +checklocks:mu
	txns []txn
	// +checklocks:mu
	singles []porcupine.Operation
}

func newRound(t *testing.T, seed uint64) *round {
	r := &round{T: t, rng: rand.New(rand.NewPCG(seed, 0)), final: map[string][]string{}}
	r.s = xenstored.New(nil)
	r.host = r.s.LocalClient()
	ctx := t.Context()
	require.NoError(t, r.host.Mkdir(ctx, "/h"))
	require.NoError(t, r.host.SetPerms(ctx, "/h", xenstore.Perm{Access: xenstore.AccessReadWrite}))
	for i := range lists {
		require.NoError(t, r.host.Mkdir(ctx, list(i)))
	}
	for i := range trees {
		require.NoError(t, r.host.Mkdir(ctx, tree(i)))
	}
	for i, l := range append(links, links...) {
		near, far := l.pair(t)
		dom := hypercall.DomID(0)
		if seed%2 == 1 {
			dom = hypercall.DomID(1 + i%2) // two, for the sake of their quotas of transactions
		}
		end := make(chan error, 1)
		go func() { end <- r.s.ServeConn(context.Background(), far, dom) }()
		r.ends = append(r.ends, end)
		r.clients = append(r.clients, xenstore.NewClient(near, &xenstore.Config{MaxAttempts: 1}))
	}
	for i := range lists {
		for _, c := range []*xenstore.Client{r.clients[i%len(r.clients)], r.clients[(i+3)%len(r.clients)]} {
			r.watched = append(r.watched, r.watch(c, list(i)))
		}
	}
	return r
}

func list(i int) string { return fmt.Sprintf("/h/list%d", i) }
func tree(i int) string { return fmt.Sprintf("/h/tree%d", i) }

// directory reports whether a list is a directory, to which one can append without a look at it.
func directory(path string) bool { return strings.HasSuffix(path, "1") || strings.HasSuffix(path, "3") }

func (r *round) close() {
	for _, c := range append(r.clients, r.host) {
		require.NoError(r, c.Close())
	}
	for _, w := range r.watched {
		<-w.done
	}
	require.NoError(r, r.s.Close())
	for _, end := range r.ends {
		<-end
	}
	require.NoError(r, r.s.Recount())
	now := r.s.Stats()
	require.Zero(r, now.Connections+now.Watches+now.Transactions)
}

// now is a time that nothing else has.
func (r *round) now() int64 { return r.clock.Add(1) }

// run has the clients work, and looks at what is there in the end.
func (r *round) run() {
	var work sync.WaitGroup
	for i := range 2 * len(r.clients) {
		rng := rand.New(rand.NewPCG(r.rng.Uint64(), uint64(i)))
		c := r.clients[i%len(r.clients)]
		work.Go(func() {
			for range stepsOfEach {
				var err error
				switch rng.IntN(10) {
				case 0, 1, 2, 3, 4:
					err = r.transaction(c, rng)
				case 5:
					err = r.lookOrAppend(c, rng)
				default:
					err = r.single(c, i, rng)
				}
				if err = errors.Join(err, r.s.Recount()); err != nil {
					r.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	if r.Failed() {
		return
	}
	for i := range lists {
		names, err := read(r.Context(), r.host, list(i))
		require.NoError(r, err)
		r.final[list(i)] = names
	}
}

// converge waits until all who watch have seen what is there in the end.
func (r *round) converge() {
	for _, w := range r.watched {
		if !w.converges(r.T, r.final[w.path], r.lastChange(w.path)) {
			return
		}
	}
}

// lastChange returns when the last change of a list was to be made.
func (r *round) lastChange(path string) (at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.txns {
		if x := &r.txns[i]; x.outcome == committed && x.appends[path] != "" {
			if names := r.final[path]; x.appends[path] == names[len(names)-1] {
				at = x.end
			}
		}
	}
	return at
}

// read returns the names in a list.
func read(ctx context.Context, s xenstore.Store, path string) ([]string, error) {
	if directory(path) {
		return s.List(ctx, path)
	}
	v, err := s.Read(ctx, path)
	names := strings.Split(string(v), ",")
	return names[:len(names)-1], err
}

// transaction looks at a few lists, appends to some, and records what it saw.
func (r *round) transaction(c *xenstore.Client, rng *rand.Rand) error {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	x := txn{name: fmt.Sprint("t", r.names.Add(1)), start: r.now(), appends: map[string]string{}}
	errAbort := errors.New("given up")
	err := c.Transaction(ctx, func(tx *xenstore.Tx) error {
		for range 1 + rng.IntN(4) {
			if err := r.touch(ctx, tx, &x, list(rng.IntN(lists)), rng.IntN(4)); err != nil {
				return err
			}
			if rng.IntN(3) == 0 {
				runtime.Gosched()
			}
		}
		x.end = r.now()
		if rng.IntN(10) == 0 {
			return errAbort
		}
		return nil
	})
	x.ret = r.now()
	switch {
	case err == nil:
	case errors.Is(err, xenstore.ErrConflict):
		x.outcome = conflicted
	case errors.Is(err, errAbort):
		x.outcome = aborted
	default:
		return err
	}
	r.record(x)
	return nil
}

// touch looks at a list in a transaction, and perhaps appends to it. To a directory it also appends without a look.
func (r *round) touch(ctx context.Context, tx *xenstore.Tx, x *txn, path string, what int) error {
	blind := what == 3 && directory(path)
	var names []string
	if !blind {
		var err error
		if names, err = read(ctx, tx, path); err != nil {
			return err
		}
		seen := names
		if name := x.appends[path]; name != "" {
			if len(seen) == 0 || seen[len(seen)-1] != name {
				return fmt.Errorf("%s does not see in %s what it appended: %v", x.name, path, seen)
			}
			seen = seen[:len(seen)-1]
		}
		x.looks = append(x.looks, look{path, slices.Clone(seen)})
	}
	if what < 2 || x.appends[path] != "" {
		return nil
	}
	x.appends[path] = x.name
	if directory(path) {
		return tx.Mkdir(ctx, path+"/"+x.name)
	}
	return tx.Write(ctx, path, []byte(strings.Join(append(names, x.name, ""), ",")))
}

// lookOrAppend is a single request that works on a list.
func (r *round) lookOrAppend(c *xenstore.Client, rng *rand.Rand) error {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	x := txn{name: fmt.Sprint("s", r.names.Add(1)), appends: map[string]string{}}
	path := list(rng.IntN(lists))
	x.start = r.now()
	x.end = r.now()
	var err error
	if rng.IntN(3) == 0 && directory(path) {
		x.appends[path] = x.name
		err = c.Mkdir(ctx, path+"/"+x.name)
	} else {
		var names []string
		names, err = read(ctx, c, path)
		x.looks = []look{{path, names}}
	}
	x.ret = r.now()
	r.record(x)
	return err
}

func (r *round) record(x txn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.txns = append(r.txns, x)
}

// single makes a request outside of transactions, and records its answer.
func (r *round) single(c *xenstore.Client, id int, rng *rand.Rand) error {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	q := single{
		tree: tree(rng.IntN(trees)),
		path: []string{"/a", "/b", "/a/x", "/a/x/y"}[rng.IntN(4)],
		typ: []xenstore.MsgType{xenstore.MsgRead, xenstore.MsgRead, xenstore.MsgWrite, xenstore.MsgWrite, xenstore.MsgMkdir,
			xenstore.MsgRemove, xenstore.MsgDirectory}[rng.IntN(7)],
	}
	if q.typ == xenstore.MsgDirectory && rng.IntN(2) == 0 {
		q.path = ""
	}
	var value []byte
	var names []string
	var err error
	call := r.now()
	switch path := q.tree + q.path; q.typ {
	case xenstore.MsgRead:
		value, err = c.Read(ctx, path)
	case xenstore.MsgWrite:
		q.value = fmt.Sprint("v", r.names.Add(1))
		err = c.Write(ctx, path, []byte(q.value))
	case xenstore.MsgMkdir:
		err = c.Mkdir(ctx, path)
	case xenstore.MsgRemove:
		err = c.Remove(ctx, path)
	case xenstore.MsgDirectory:
		names, err = c.List(ctx, path)
	}
	ret := r.now()
	answer, err := q.answer(string(value), names, err)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.singles = append(r.singles, porcupine.Operation{ClientId: id, Input: q, Call: call, Output: answer, Return: ret})
	return nil
}

// watched is somebody who watches a list and reads it again on each event.
type watched struct {
	path string
	done chan struct{}

	mu sync.Mutex
	// +checklocks:mu
	names []string // as last read
	// +checklocks:mu
	event int64 // when the last event was taken
}

func (r *round) watch(c *xenstore.Client, path string) *watched {
	w := &watched{path: path, done: make(chan struct{})}
	events, err := c.Watch(r.Context(), path, nil)
	require.NoError(r, err)
	go func() {
		defer close(w.done)
		for {
			if _, err := events.Next(context.Background()); err != nil {
				return // the client was closed
			}
			at := r.now()
			names, err := read(context.Background(), c, path)
			if err != nil {
				return
			}
			w.mu.Lock()
			w.names, w.event = names, at
			w.mu.Unlock()
		}
	}()
	return w
}

// converges waits until the watcher has read what is there, on an event that it took after the last change was asked for.
func (w *watched) converges(t *testing.T, final []string, change int64) bool {
	t.Helper()
	var names []string
	var event int64
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		w.mu.Lock()
		names, event = w.names, w.event
		w.mu.Unlock()
		if event > change && slices.Equal(names, final) {
			return true
		}
		if time.Now().After(end) {
			t.Errorf("who watches %s read %v last, on an event of time %d; it was changed at %d, and is %v", w.path, names, event, change, final)
			return false
		}
	}
}
