// Package spin decides how long to look for something before sleeping until it comes.
//
// One who waits for another processor can look at memory again and again, or sleep until an event. Looking sees a change within a
// fraction of a microsecond but keeps a processor busy. Sleeping is free, but to be woken takes tens of microseconds, above all on a
// virtual machine whose processor has gone idle. And it spreads: where both ends of a ring sleep whenever there is nothing to do, each
// sleeps through the other's wake-up, and both go on in lockstep, one wake-up for each step.
//
//	both sleep:   A works, rings │ B wakes ........ works, rings │ A wakes ........ works, rings │ B wakes ...
//	both look:    A works │ B works │ A works │ B works ...
//
// A [Waiter] looks for a time, its window, before it sleeps. It finds the window by itself, as Linux's KVM does for the halts of a guest
// (halt polling, virt/kvm/kvm_main.c): a sleep that turned out short, so that looking would have done, makes the window larger, and
// a long one makes it smaller, as does a look in vain that was followed by a very short one. Who waits for a busy peer soon looks and never
// sleeps; who waits on an idle connection sleeps at once:
//
//	for !ready() {
//		again, wait := w.Spin(ready, wake)
//		if again {
//			continue
//		}
//		if armed() { // asks for the event, then looks once more
//			continue
//		}
//		<-wake
//		w.Slept(wait)
//	}
//
// Looking must not take the processor from the one who is waited for. So at most GOMAXPROCS-1 waiters of a process look for longer than
// [Free] at a time, and others sleep at once; those that look let other goroutines run now and then; and on a machine with one
// processor nobody looks.
package spin
