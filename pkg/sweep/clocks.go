package sweep

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// id is a neigh.Key without pointers, and of 24 bytes without a gap: Go hashes it in
// one go, and the garbage collector does not look at it.
type id struct {
	addr [16]byte
	bits uint32 // of the address, 32 or 128
	dev  uint32 // the interface index
}

func idOf(k *neigh.Key) id {
	return id{k.Addr.As16(), uint32(k.Addr.BitLen()), uint32(k.Index)} //nolint:gosec // an int32 by origin
}

// clock is what the agent remembers of one learned entry. Times are durations since
// the base of the clocks.
type clock struct {
	id        id
	next      *clock        // of the entry that the scan before saw after this one
	resolved  time.Duration // when it was last asked for afresh
	asked     time.Duration // when its renewal began
	dueEarly  time.Duration // how much sooner than its age says it is due
	heldUntil time.Duration // it is not due before, whatever its age
	lladdr    uint64        // the digest of the last link-layer address, 0 where none has been seen
	scan      uint32        // the scan that last saw it
	method    Method        // of the last renewal, 0 before the first
	pending   bool          // its renewal has begun, and the answer has not been seen yet
	absent    bool          // a complete scan has not seen it: it was deleted, and may come back
}

// clocks are the clocks of all learned entries.
//
// The kernel dumps its table in the same order each time, as long as it does not
// grow. So the clock of an entry is nearly always the one behind that of the entry
// before it, and is found without a look into the map: for a large table that is a
// quarter of the cost of a scan.
type clocks struct {
	base   time.Time
	missed time.Duration // that the base allows for
	scan   uint32
	seen   int // by this scan
	all    map[id]*clock
	head   clock  // before the first one
	last   *clock // that this scan has seen
}

func newClocks(now time.Time) *clocks {
	return &clocks{base: now, all: make(map[id]*clock)}
}

// catchUp makes everything older by the time that was missed since the last call, and
// returns that time. missed is the total so far.
func (c *clocks) catchUp(missed time.Duration) time.Duration {
	gap := max(0, missed-c.missed)
	c.base, c.missed = c.base.Add(-gap), missed
	return gap
}

// since is a time as the clocks keep it.
func (c *clocks) since(at time.Time) time.Duration { return at.Sub(c.base) }

// begin starts a scan.
func (c *clocks) begin() {
	c.scan++
	c.seen, c.last = 0, &c.head
}

// sight is what see found.
type sight struct {
	*clock
	age       time.Duration // of the agent's clock
	fresh     bool          // it was not remembered
	again     bool          // this scan has seen it before: a dump may show an entry twice
	corrected bool          // it has come back from a renewal with another link-layer address
	old       uint64        // the digest of the one before, where it is corrected
}

// see updates the clock of e, which was read at t.
func (c *clocks) see(e *neigh.Entry, t time.Duration) sight {
	id := idOf(&e.Key)
	k, known := c.last.next, true
	if k == nil || k.id != id {
		if k, known = c.all[id]; !known {
			k = &clock{id: id}
			c.all[id] = k
		}
		c.last.next = k
	}
	c.last = k
	if !known || k.absent {
		// Whoever created the entry had it resolved: the agent's clock starts
		// where the kernel's stands.
		k.resolved, k.dueEarly, k.absent = t-e.Updated, 0, false
	}
	s := sight{clock: k, age: t - k.resolved, fresh: !known, again: known && k.scan == c.scan}
	if e.State.Valid() {
		s.old = k.lladdr
		s.corrected = k.names(e, t)
	}
	if k.scan != c.scan {
		k.scan = c.scan
		c.seen++
	}
	return s
}

// names notes the link-layer address that e has at t, and reports whether a renewal has
// changed it.
func (k *clock) names(e *neigh.Entry, t time.Duration) (corrected bool) {
	lladdr := e.LLAddr.Digest()
	if k.pending {
		if k.resolved < k.asked {
			// The renewal is under way. An answer may have confirmed the entry
			// without changing it (__neigh_update does so under locktime), or
			// have changed it until it is put back.
			return false
		}
		corrected = k.lladdr != 0 && lladdr != k.lladdr
		k.pending = !corrected && e.Confirmed >= t-k.asked
	}
	k.lladdr = lladdr
	return corrected
}

// due is the age at t that decides whether the entry is due, unless it is held back.
func (k *clock) due(t time.Duration) (age time.Duration, held bool) {
	return t - k.resolved + k.dueEarly, t < k.heldUntil
}

// find returns the clock of an entry, nil if it is not remembered.
func (c *clocks) find(key *neigh.Key) *clock { return c.all[idOf(key)] }

// ask notes that the renewal of an entry begins: a link-layer address that is
// seen from now on, and differs, is its answer.
func (c *clocks) ask(k *clock, now time.Time) {
	if k != nil {
		k.asked, k.pending = c.since(now), true
	}
}

// renewed restarts the clock of an entry that was asked for afresh.
func (c *clocks) renewed(k *clock, at time.Time) {
	if k != nil {
		k.resolved, k.dueEarly = c.since(at), 0
	}
}

// end forgets entries that a complete scan, which ended at t, did not see. One that the
// agent deleted is remembered for as long as keep, so that a correction shows when it
// comes back.
func (c *clocks) end(t, keep time.Duration) {
	if c.seen == len(c.all) {
		return
	}
	for id, k := range c.all {
		switch {
		case k.scan == c.scan:
		case !k.pending || t-k.asked > keep:
			delete(c.all, id)
			*k = clock{} // others may lead to it
		default:
			k.absent = true
		}
	}
}
