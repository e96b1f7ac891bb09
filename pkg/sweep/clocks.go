package sweep

import (
	"hash/maphash"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// clock is what the agent remembers of one learned entry.
type clock struct {
	resolved time.Duration // when it was last asked for afresh, on the store's time line
	early    time.Duration // how much sooner than its age says it is due: the spread of the first interval
	hold     time.Duration // until when it is not due at all: the spread of what is overdue at start
	lladdr   uint64        // hash of the last link-layer address, 0 for none
	scan     uint32        // the scan that last saw it
	asked    time.Duration // when its renewal began
	pending  bool          // its renewal has begun, and the answer has not been seen yet
	absent   bool          // not seen since a scan: it was deleted and may come back
}

// clocks is the store. Times are durations since its base, so that a clock
// holds no time.Time.
type clocks struct {
	base time.Time
	seed maphash.Seed
	m    map[neigh.Key]clock
	scan uint32
	seen int
}

func newClocks(now time.Time) *clocks {
	return &clocks{base: now, seed: maphash.MakeSeed(), m: make(map[neigh.Key]clock)}
}

// advance makes everything older.
func (c *clocks) advance(d time.Duration) { c.base = c.base.Add(-d) }

// begin starts a scan.
func (c *clocks) begin() {
	c.scan++
	c.seen = 0
}

// sight is what see found.
type sight struct {
	age       time.Duration // of the agent's clock
	due       time.Duration // the age that decides whether the entry is due
	held      bool          // it is not due yet, whatever its ages
	again     bool          // this scan has seen it before: a dump may show an entry twice
	corrected bool          // it has come back from a renewal with another link-layer address
}

// see updates the clock of e. spread returns, for an entry first seen at the
// given age, how early it is due, and how long it is held back.
func (c *clocks) see(e *neigh.Entry, now time.Time, spread func(age time.Duration) (early, hold time.Duration)) (s sight) {
	t := now.Sub(c.base)
	k, known := c.m[e.Key]
	if !known || k.absent {
		// Whoever created the entry had it resolved: the agent's clock starts
		// where the kernel's stands.
		k.resolved, k.early, k.absent = t-e.Updated, 0, false
		if !known {
			k.early, k.hold = spread(e.Updated)
			k.hold += t
		}
	}
	if e.State.Valid() {
		lladdr := c.hash(&e.LLAddr)
		switch {
		case k.pending && k.resolved < k.asked:
			// The renewal is under way. An answer may have confirmed the entry
			// without changing it (__neigh_update does so under locktime), or
			// have changed it until it is put back.
			lladdr = k.lladdr
		case k.pending && k.lladdr != 0 && lladdr != k.lladdr:
			s.corrected, k.pending = true, false
		case k.pending && e.Confirmed < t-k.asked:
			k.pending = false
		}
		k.lladdr = lladdr
	}
	s.again = known && k.scan == c.scan
	if k.scan != c.scan {
		k.scan = c.scan
		c.seen++
	}
	c.m[e.Key] = k
	s.age, s.due, s.held = t-k.resolved, t-k.resolved+k.early, t < k.hold
	return s
}

// has reports whether the entry is remembered.
func (c *clocks) has(key neigh.Key) bool {
	_, ok := c.m[key]
	return ok
}

// ask notes that the renewal of an entry begins: a link-layer address that is
// seen from now on, and differs, is its answer.
func (c *clocks) ask(key neigh.Key, now time.Time) {
	if k, ok := c.m[key]; ok {
		k.asked, k.pending = now.Sub(c.base), true
		c.m[key] = k
	}
}

// forgo notes that a renewal came to nothing.
func (c *clocks) forgo(key neigh.Key) {
	if k, ok := c.m[key]; ok {
		k.pending = false
		c.m[key] = k
	}
}

// renewed restarts the clock of an entry that was asked for afresh.
func (c *clocks) renewed(key neigh.Key, at time.Time) {
	if k, ok := c.m[key]; ok {
		k.resolved, k.early = at.Sub(c.base), 0
		c.m[key] = k
	}
}

// end forgets entries that a complete scan did not see. One that the agent
// deleted is remembered for as long as keep, so that a correction shows when
// it comes back.
func (c *clocks) end(now time.Time, keep time.Duration) {
	if c.seen == len(c.m) {
		return
	}
	t := now.Sub(c.base)
	for key, k := range c.m {
		switch {
		case k.scan == c.scan:
		case !k.pending || t-k.asked > keep:
			delete(c.m, key)
		case !k.absent:
			k.absent = true
			c.m[key] = k
		}
	}
}

func (c *clocks) hash(a *neigh.LLAddr) uint64 {
	if a.Len() == 0 {
		return 0
	}
	return maphash.Comparable(c.seed, *a) | 1
}
