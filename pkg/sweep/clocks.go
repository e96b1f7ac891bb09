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
	lladdr   uint64        // hash of the last link-layer address, 0 for none
	scan     uint32        // the scan that last saw it
	pending  bool          // renewed, and its answer not seen yet
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

// begin starts a scan.
func (c *clocks) begin() {
	c.scan++
	c.seen = 0
}

// see updates the clock of e. It returns the age of the clock, the age that
// decides whether e is due, and whether e has come back from a renewal with
// another link-layer address. spread returns how early an entry first seen at
// the given age is due.
func (c *clocks) see(e *neigh.Entry, now time.Time, spread func(age time.Duration) time.Duration) (age, due time.Duration, corrected bool) {
	t := now.Sub(c.base)
	k, known := c.m[e.Key]
	if !known || k.absent {
		// Whoever created the entry had it resolved: the agent's clock starts
		// where the kernel's stands.
		k.resolved, k.early, k.absent = t-e.Updated, 0, false
		if !known {
			k.early = spread(e.Updated)
		}
	}
	if e.State.Valid() {
		lladdr := c.hash(&e.LLAddr)
		switch {
		case k.pending && k.lladdr != 0 && lladdr != k.lladdr:
			corrected, k.pending = true, false
		case k.pending && e.Confirmed < t-k.resolved:
			k.pending = false
		}
		k.lladdr = lladdr
	}
	if k.scan != c.scan {
		k.scan = c.scan
		c.seen++
	}
	c.m[e.Key] = k
	return t - k.resolved, t - k.resolved + k.early, corrected
}

// renewed restarts the clock of an entry that was asked for afresh.
func (c *clocks) renewed(key neigh.Key, now time.Time) {
	if k, ok := c.m[key]; ok {
		k.resolved, k.early, k.pending = now.Sub(c.base), 0, true
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
		case !k.pending || t-k.resolved > keep:
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
