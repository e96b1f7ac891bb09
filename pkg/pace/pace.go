// Package pace spreads solicitations (ARP requests and Neighbor Solicitations), and
// announcements, over time, device by device. Switches that inspect ARP shut down a port
// that carries too many in a second (Dynamic ARP Inspection: 15 by default), and the port
// of a hypervisor carries those of all its virtual machines.
package pace

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// PerSecond is how many solicitations may be sent on a device in any second,
	// unless Set allows more.
	PerSecond = 10
	// second is what counts as a second: a solicitation may leave some time after
	// its turn, and the ones behind it must not make up for that.
	second = 1050 * time.Millisecond
	// reserve is how many in a second are kept for those that do not go first.
	reserve = 2
)

// Pacer gives out turns to send solicitations. The zero value is ready to use. It
// is safe for concurrent use.
type Pacer struct {
	mu      sync.Mutex
	devices map[int]*device // by interface index; only those in use
}

// Wait returns when n solicitations may be sent on the device; they must then be sent
// at once. Those with first go before everything else that waits, but never take all
// turns of a second: two are kept for the others, which are spread evenly, and should
// ask for one or two at a time. Within each class, turns go in the order of arrival.
// Wait returns the error of ctx if that is done before. An n of more than may be sent
// in a second waits for a second without any.
func (p *Pacer) Wait(ctx context.Context, device, n int, first bool) error {
	if err := ctx.Err(); err != nil || n <= 0 {
		return err
	}
	p.mu.Lock()
	d := p.find(device)
	w := &waiter{n: n, first: first, ready: make(chan struct{})}
	d.waiting[class(first)] = append(d.waiting[class(first)], w)
	p.grant(d)
	p.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d.waiting[class(first)] = slices.DeleteFunc(d.waiting[class(first)], func(o *waiter) bool { return o == w })
	p.grant(d)
	return ctx.Err()
}

// Spend takes a turn at once, for what the kernel sends by itself: those that wait have
// to wait longer.
func (p *Pacer) Spend(device int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.find(device)
	d.take(1, false, time.Now())
	p.grant(d)
}

// Set allows perSecond solicitations in a second on the device, if that is more
// than PerSecond.
func (p *Pacer) Set(device int, perSecond float64) {
	limit := PerSecond
	if perSecond > PerSecond {
		limit = int(math.Ceil(perSecond * second.Seconds()))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.devices[device]; d == nil && limit == PerSecond || d != nil && d.limit == limit {
		return
	}
	d := p.find(device)
	d.limit = limit
	p.grant(d)
}

// find returns the state of a device, and forgets that of those without any.
func (p *Pacer) find(index int) *device {
	if d := p.devices[index]; d != nil {
		return d
	}
	if p.devices == nil {
		p.devices = make(map[int]*device)
	}
	now := time.Now()
	for i, d := range p.devices { // devices come and go
		if d.forget(now); d.limit == PerSecond && len(d.sent)+len(d.waiting[0])+len(d.waiting[1]) == 0 {
			delete(p.devices, i)
		}
	}
	d := &device{limit: PerSecond}
	d.timer = time.AfterFunc(math.MaxInt64, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.grant(d)
	})
	d.timer.Stop()
	p.devices[index] = d
	return d
}

// grant gives turns to those that may send now, and sets the timer for the next one.
func (p *Pacer) grant(d *device) {
	now := time.Now()
	d.forget(now)
	d.timer.Stop()
	for w, at := d.next(now); w != nil; w, at = d.next(now) {
		if at.After(now) {
			d.timer.Reset(at.Sub(now))
			return
		}
		d.waiting[class(w.first)] = d.waiting[class(w.first)][1:]
		d.take(w.n, w.first, now)
		close(w.ready)
	}
}

// device is what is known of one.
type device struct {
	limit   int          // how many solicitations may be sent in a second
	sent    []turn       // in the last second, oldest first
	even    time.Time    // when the next one that is not first may be sent, so that they are even
	waiting [2][]*waiter // by class
	timer   *time.Timer  // of the next turn
}

// waiter waits for its turn.
type waiter struct {
	n     int
	first bool
	ready chan struct{} // closed when it may send
}

// turn is when one solicitation could be sent.
type turn struct {
	at    time.Time
	first bool
}

// class is 0 for what goes first, and 1 for the rest.
func class(first bool) int {
	if first {
		return 0
	}
	return 1
}

// forget drops what was sent longer than a second ago.
func (d *device) forget(now time.Time) {
	d.sent = slices.DeleteFunc(d.sent, func(t turn) bool { return now.Sub(t.at) >= second })
}

// take notes n turns.
func (d *device) take(n int, first bool, now time.Time) {
	for range n {
		d.sent = append(d.sent, turn{now, first})
	}
	if first {
		return
	}
	if d.even.Before(now) {
		d.even = now
	}
	d.even = d.even.Add(second / time.Duration(d.limit) * time.Duration(n))
}

// next returns who goes next, and when; nil if nobody waits.
func (d *device) next(now time.Time) (next *waiter, at time.Time) {
	for _, waiting := range d.waiting {
		if len(waiting) == 0 {
			continue
		}
		if turn := d.turn(waiting[0].n, waiting[0].first, now); next == nil || turn.Before(at) {
			next, at = waiting[0], turn
		}
	}
	return next, at
}

// turn returns when n solicitations may be sent, if nobody waits.
func (d *device) turn(n int, first bool, now time.Time) time.Time {
	at := later(now, free(d.sent, n, d.limit))
	if !first {
		return later(at, d.even)
	}
	firsts := slices.DeleteFunc(slices.Clone(d.sent), func(t turn) bool { return !t.first })
	return later(at, free(firsts, n, d.limit-reserve))
}

// free returns when n more may be sent, where limit may be in a second.
func free(sent []turn, n, limit int) time.Time {
	over := min(len(sent)+n-limit, len(sent)) // so many have to be over a second ago
	if over <= 0 {
		return time.Time{}
	}
	return sent[over-1].at.Add(second)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
