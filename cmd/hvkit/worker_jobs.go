package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// send writes blocks for some time and closes the connection, which waits until the peer has read all.
func (w *worker) send(j job) (result, error) {
	block := make([]byte, j.Size)
	start := time.Now()
	var n int64
	for time.Since(start) < j.For {
		k, err := w.conn.Write(block)
		n += int64(k)
		if err != nil {
			return result{Bytes: n}, err
		}
	}
	conn := w.conn
	err := conn.Close()
	return result{Bytes: n, Took: time.Since(start), Notifications: conn.Stats().NotificationsSent}, err
}

// receive reads until the peer closes. With j.Bytes it expects so many, and an earlier end is a peer that was lost.
func (w *worker) receive(j job) (result, error) {
	block := make([]byte, j.Size)
	start := time.Now()
	var n int64
	var err error
	for err == nil {
		var k int
		k, err = w.conn.Read(block)
		n += int64(k)
		w.progress(n)
	}
	r := result{Bytes: n, Took: time.Since(start), Notifications: w.conn.Stats().NotificationsSent}
	switch {
	case n < j.Bytes:
		_, writeErr := w.conn.Write(block[:1])
		if writeErr == nil {
			return r, errors.New("writing to a peer that has gone worked")
		}
		r.Lost = fmt.Sprintf("Read: %v, Write: %v", lastCause(err), lastCause(writeErr))
	case err != io.EOF:
		return r, err
	}
	return r, nil
}

// A message of the ping-pong says in its first byte whether it is the last one.
const (
	pingMore byte = iota
	pingLast
)

// ping sends messages for some time and waits for the answer to each.
func (w *worker) ping(j job) (result, error) {
	msg := make([]byte, j.Size)
	var s samples
	for start := time.Now(); msg[0] == pingMore; {
		begin := time.Now()
		if begin.Sub(start) >= j.For {
			msg[0] = pingLast
		}
		if _, err := w.conn.Write(msg); err != nil {
			return result{}, err
		}
		if _, err := io.ReadFull(w.conn, msg); err != nil {
			return result{}, err
		}
		s.add(time.Since(begin))
	}
	return result{Latency: s.latency()}, nil
}

// echo sends back what comes until the last message of a ping.
func (w *worker) echo(j job) (result, error) {
	msg := make([]byte, j.Size)
	for msg[0] == pingMore {
		if _, err := io.ReadFull(w.conn, msg); err != nil {
			return result{}, err
		}
		if _, err := w.conn.Write(msg); err != nil {
			return result{}, err
		}
	}
	return result{}, nil
}

// latency sums up how long operations took.
type latency struct {
	N    int           `json:"n"`
	Mean time.Duration `json:"mean_ns"`
	P50  time.Duration `json:"p50_ns"`
	P99  time.Duration `json:"p99_ns"`
}

// maxSamples bounds what is kept; further operations count for the mean only.
const maxSamples = 1 << 20

// samples collects how long operations took.
type samples struct {
	all []time.Duration
	n   int
	sum time.Duration
}

func (s *samples) add(d time.Duration) {
	s.n++
	s.sum += d
	if len(s.all) < maxSamples {
		s.all = append(s.all, d)
	}
}

func (s *samples) merge(o *samples) {
	s.n += o.n
	s.sum += o.sum
	s.all = append(s.all, o.all...)
}

func (s *samples) latency() *latency {
	if s.n == 0 {
		return &latency{}
	}
	slices.Sort(s.all)
	at := func(percent int) time.Duration { return s.all[min(len(s.all)*percent/100, len(s.all)-1)] }
	return &latency{N: s.n, Mean: s.sum / time.Duration(s.n), P50: at(50), P99: at(99)}
}
