// Package evtchn is Xen's event channels: the way by which domains, and Xen itself, tell each other that something has happened.
//
// A channel has an end, called a port, in each of two domains. An event carries nothing: it says "look", and the two sides have
// agreed on where, as a rule in shared memory. Events coalesce, so that a hundred of them may arrive as one; an event that nobody has
// looked for yet is kept, so that none is lost; and one may arrive for no reason. Hence the loop of everybody who waits: look, and
// wait only where there was nothing.
//
//	for {
//		for there is something to do {
//			do it
//		}
//		if err := ch.Wait(ctx); err != nil {
//			return err
//		}
//	}
//
// # The life of a channel
//
//	domain 1                                     domain 2
//	AllocUnbound(2) ─▶ port 5, unbound
//	        └─ 5 ──── told through Xenstore ────▶ BindInterdomain(1, 5) ─▶ port 7
//	port 5, interdomain ◀───────────────────────▶ port 7, interdomain
//	        Notify ─────────────────────────────▶ Wait returns, or the handler runs
//	        Wait   ◀───────────────────────────── Notify
//	port 5, unbound ◀──────────────────────────── Close
//	Close: port 5 is free
//
// A domain may have a channel to itself ([Table.BindIPI], or both ends of an interdomain one), and hears of Xen's own events through
// VIRQs ([Table.BindVIRQ]). The toolstack makes two ports for a domain before it runs, for Xenstore and for the console: those are
// taken over with [Table.Adopt].
//
// Public event_channel.h is the protocol; Xen's common/event_channel.c and common/event_2l.c are what happens.
//
// # Arrival
//
// With 2-level channels Xen sets a bit for the port in a page that it shares with the domain, shared_info, and interrupts the domain
// if the port is not masked. [TwoLevel] is the core: it reads and clears these bits, and knows the race of unmasking. [Native] is the
// shell: [Native.Upcall], which the platform calls on that interrupt, hands arrivals to whoever waits, and [NewNative] makes the
// [Table] that drivers use. [OpenLinux] makes one for a program on a Linux kernel, whose device evtchn does the work. The suite in
// evtchntest says what every Table must do.
//
// A peer can send as fast as it likes. Where its target waits with Wait, an event that comes before the one before it has been taken
// masks the port until the waiter comes back, so that a flood costs one arrival for each Wait, and others nothing.
//
// A handler (see [Channel].Handle) cannot say when it is done with what it was called for, so there the clock decides. It runs at once,
// but where it has run more than 256 times within a millisecond, not counting one run for each Notify of its own side, the port is
// masked for what is left of that millisecond. So a flood costs at most some 260 thousand short runs a second, and one for each
// notification that this side chose to send; request and response are never held up, and one-way traffic that comes faster than that is
// coalesced, and is late by a millisecond at most. The last event is never lost: it stays pending, and arrives when the mask is lifted.
//
// With [Linux] a port stays masked in the kernel from when its event was read until Wait has returned or the handler has run; the rest is
// the same.
//
// Both are counted in [Stats].Throttled. An event for a port that nobody has open is counted as spurious, and masks that port.
//
// # Suspend and resume
//
// A domain that was suspended and resumed has no channel open. Those of before answer [hypercall.ErrStale], and whoever waits on them
// wakes with it: make new ones. What opens a port while that happens answers the same. Port numbers are given anew, and Xen lets the
// domain run before it is told ([Native.Resume]), so each channel makes its hypercalls as the incarnation that it is of
// ([hypercall.Incarnations]): none opens or closes a port of another.
package evtchn
