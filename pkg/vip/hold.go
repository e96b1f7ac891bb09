package vip

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
)

const (
	// maxRestores is how often a second the entry is put back. A holder that
	// announces itself more often than that is left to people.
	maxRestores = 10
	// resubscribe is how long to wait after notifications have failed.
	resubscribe = time.Second
	// anewAfter is how long a rejected holder must have left the entry alone before it
	// takes it anew. kube-vip announces itself every 3 s, and two in a row may be lost.
	anewAfter = 10 * time.Second
)

// hold keeps the entry of a VIP with a holder that serves, against others that
// announce themselves and do not. It uses nothing that would outlive the agent:
// whenever the kernel reports that a rejected holder has taken the entry, it is
// written back, which takes a fraction of a millisecond.
//
// A rejected holder that announces itself all the time says nothing about the held one.
// One that takes the entry anew may do so because the VIP has gone back to it: then the
// held one is asked at once, and if it is silent the rejected one may prove itself
// without delay.
type hold struct {
	worker
	key      neigh.Key
	held     neigh.LLAddr
	rejected []neigh.LLAddr
	anew     chan neigh.LLAddr // a rejected holder that has taken the entry anew
	quiet    int               // rounds in which no rejected holder answered
	gaveUp   bool              // why the goroutine has ended by itself: the entry was taken too often
}

func (h *hold) rejects(lladdr neigh.LLAddr) bool { return slices.Contains(h.rejected, lladdr) }

// keep starts to hold the entry.
func (v *watch) keep(held neigh.LLAddr, rejected []neigh.LLAddr) {
	v.guard(held, rejected)
	v.happened(Change{Event: Held, New: held, Holders: v.tracker.holders})
}

// guard starts the goroutine of a hold.
func (v *watch) guard(held neigh.LLAddr, rejected []neigh.LLAddr) {
	h := &hold{key: v.key(), held: held, rejected: rejected, anew: make(chan neigh.LLAddr, 1)}
	g := guard{cfg: &v.cfg, hold: h, foreign: v.foreign(), began: time.Now(), taken: make(map[neigh.LLAddr]time.Time)}
	h.worker = work(context.Background(), g.run) // until release
	v.hold = h
}

// release ends the hold, and returns it, if there is one.
func (v *watch) release() *hold {
	h := v.hold
	if h != nil {
		h.stop()
		v.hold = nil
	}
	return h
}

// takenAnew receives a rejected holder that has taken the entry anew.
func (v *watch) takenAnew() <-chan neigh.LLAddr {
	if v.hold == nil {
		return nil
	}
	return v.hold.anew
}

// claims notes that a rejected holder has taken the entry anew.
func (v *watch) claims(h neigh.LLAddr) {
	v.holders.claimant = h
	v.attempts.again(h)
	v.attempts.askSoon()
}

// heed notes whether a rejected holder has taken the entry anew during a round. If it has
// answered the round, that means nothing: in Neighbor Discovery an answer takes the entry.
func (v *watch) heed(r *Round) {
	select {
	case h := <-v.takenAnew():
		if !r.heard(h) {
			v.claims(h)
		}
	default:
	}
}

// endHold ends a hold whose goroutine has ended by itself: the entry could not be kept,
// or it names another holder, which was not rejected.
func (v *watch) endHold(now time.Time) {
	h := v.hold
	if h == nil || !h.ended() {
		return
	}
	v.release()
	if h.gaveUp {
		v.happened(Change{Event: Contested, Old: v.tracker.holder, Holders: v.tracker.holders})
		v.holders.contested = now
	}
}

// guard is the goroutine of a hold.
type guard struct {
	cfg     *Config
	hold    *hold
	foreign func(*neigh.Entry) bool

	began    time.Time
	taken    map[neigh.LLAddr]time.Time // by a rejected holder, last
	restored []time.Time                // within the last second
	missed   time.Time                  // when notifications were last lost
	warned   bool
	over     bool // there is nothing left to guard
}

func (g *guard) run(ctx context.Context) {
	for ctx.Err() == nil && !g.over {
		err := g.watch(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if !g.warned {
			g.warned = true
			g.cfg.Log.Warn("notifications of changed entries fail: meanwhile the entry is put back when it is looked at",
				"vip", g.hold.key.Addr, "err", err)
		}
		pace.Sleep(ctx, resubscribe)
	}
}

// watch subscribes, and restores until that fails.
func (g *guard) watch(ctx context.Context) error {
	changes, err := g.cfg.Subscribe()
	if err != nil {
		return err
	}
	defer changes.Close()
	for {
		// What happened before the subscription, or was missed since, shows in the
		// entry itself. After an overrun the kernel queues nothing new before all
		// that is old has been read (netlink_overrun), so then it is looked at again
		// with each.
		g.restore()
		for err = nil; err == nil && !g.over; {
			if err = changes.Next(ctx, g.changed); time.Since(g.missed) < time.Second {
				break
			}
		}
		switch {
		case errors.Is(err, neigh.ErrOverrun):
			g.missed = time.Now()
		case err != nil, g.over:
			return err
		}
	}
}

// changed looks at the entry if it is the one that has changed.
func (g *guard) changed(e *neigh.Entry) {
	if e.Key == g.hold.key && e.LLAddr != g.hold.held {
		g.restore()
	}
}

// restore puts the entry back if it names a rejected holder, as it is now: a
// notification may be old, and the entry somebody else's since.
func (g *guard) restore() {
	h := g.hold
	e, err := g.cfg.Table.Get(h.key)
	if err != nil || e.LLAddr == h.held || !e.State.Valid() || g.over || g.foreign(&e) {
		return
	}
	if !h.rejects(e.LLAddr) {
		g.over = true
		return
	}
	now := time.Now()
	g.took(now, e.LLAddr)
	g.restored = slices.DeleteFunc(g.restored, func(t time.Time) bool { return now.Sub(t) >= time.Second })
	if len(g.restored) >= maxRestores {
		h.gaveUp, g.over = true, true
	} else if err := g.cfg.Table.Give(h.key, h.held, e.Flags); err != nil {
		g.cfg.Log.Debug("putting back the entry of the VIP", "err", err)
	}
	g.restored = append(g.restored, now)
}

// took notes that a rejected holder has taken the entry.
func (g *guard) took(now time.Time, h neigh.LLAddr) {
	last, ok := g.taken[h]
	if !ok {
		last = g.began
	}
	g.taken[h] = now
	if now.Sub(last) >= anewAfter {
		select {
		case g.hold.anew <- h:
		default: // the holder is about to be asked
		}
	}
}
