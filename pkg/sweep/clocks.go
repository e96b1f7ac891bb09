package sweep

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// id is a neigh.Key without a pointer: the garbage collector need not look at
// the clocks at all.
type id struct {
	high, low uint64 // the address
	dev       uint32 // the interface index, and in the lowest bit whether the address is IPv4; 0 for none
}

func idOf(k *neigh.Key) id {
	dev := uint32(k.Index) << 1 //nolint:gosec // an int32 by origin
	if k.Addr.Is4() {
		a := k.Addr.As4()
		return id{low: uint64(binary.NativeEndian.Uint32(a[:])), dev: dev | 1}
	}
	a := k.Addr.As16()
	return id{binary.NativeEndian.Uint64(a[:]), binary.NativeEndian.Uint64(a[8:]), dev}
}

// clock is what the agent remembers of one learned entry, in 56 bytes. Times
// are durations since the store's base.
type clock struct {
	high, low uint64 // this and dev are its id, which alone would be padded
	dev       uint32
	scan      uint32        // the scan that last saw it
	resolved  time.Duration // when it was last asked for afresh
	asked     time.Duration // when its renewal began
	spread    time.Duration // of the first interval: how much sooner than its age says it is due; negative: until when it is not due at all
	lladdr0   uint32        // the digest of the last link-layer address
	lladdr1   uint16        // and the upper part of it: one number alone would be padded
	pending   bool          // its renewal has begun, and the answer has not been seen yet
	absent    bool          // not seen since a scan: it was deleted and may come back
}

func (k *clock) id() id         { return id{k.high, k.low, k.dev} }
func (k *clock) is(of *id) bool { return k.low == of.low && k.high == of.high && k.dev == of.dev }

// lladdr is the digest of the link-layer address, 0 where none has been seen.
func (k *clock) lladdr() uint64 { return uint64(k.lladdr0) | uint64(k.lladdr1)<<32 }

func (k *clock) setLLAddr(digest uint64) {
	k.lladdr0, k.lladdr1 = uint32(digest), uint16(digest>>32) //nolint:gosec // digestOf has 48 bits
}

// digestOf is an Ethernet address, or a longer one folded into 48 bits.
func digestOf(a *neigh.LLAddr) uint64 {
	d := a.Digest()
	return (d ^ d>>48) & (1<<48 - 1)
}

// clocks is the store: the clocks in the order in which they were first seen,
// and a hash table of their places.
//
// The kernel dumps its table in the same order each time, as long as it does not
// grow. The clock of an entry is therefore the one behind that of the entry
// before it, nearly always, and memory is walked from one end to the other.
type clocks struct {
	base time.Time
	seed maphash.Seed
	scan uint32
	seen int // by this scan
	next int // the place that the scan has come to

	absent int           // how many are remembered although their entries are gone
	until  time.Duration // none of them is forgotten before

	chunks  []*[chunk]clock // they grow without leaving garbage behind
	places  int             // that have been given out
	free    int             // of them, that are not in use any more: their id is zero
	buckets []bucket        // open addressing, a power of two in length, a quarter of them empty
}

// chunk is how many clocks are allocated at a time: 56 KB.
const chunk = 1024

// at returns the clock in a place.
func (c *clocks) at(i int) *clock { return &c.chunks[i/chunk][i%chunk] }

// bucket holds the place of a clock, counted from 1, and the hash of its id,
// which spares a look at most of the wrong ones.
type bucket struct{ hash, place uint32 }

func newClocks(now time.Time) *clocks {
	return &clocks{base: now, seed: maphash.MakeSeed()}
}

// len is the number of entries remembered.
func (c *clocks) len() int { return c.places - c.free }

// advance makes everything older.
func (c *clocks) advance(d time.Duration) { c.base = c.base.Add(-d) }

// begin starts a scan.
func (c *clocks) begin() {
	c.scan++
	c.seen, c.next = 0, 0
}

// sight is what see found.
type sight struct {
	place     int           // of the clock, for find
	age       time.Duration // of the agent's clock
	due       time.Duration // the age that decides whether the entry is due
	held      bool          // it is not due yet, whatever its ages
	fresh     bool          // it was not remembered
	again     bool          // this scan has seen it before: a dump may show an entry twice
	corrected bool          // it has come back from a renewal with another link-layer address
}

// since is a time as the clocks keep it.
func (c *clocks) since(at time.Time) time.Duration { return at.Sub(c.base) }

// see updates the clock of e, which was read at t, and says in s what it found (in
// place: a struct that is returned is copied once more, for each entry).
func (c *clocks) see(e *neigh.Entry, t time.Duration, s *sight) {
	id := idOf(&e.Key)
	i, known := c.lookup(&id, c.next)
	if !known {
		i = c.add(&id)
	}
	c.next = i + 1
	k := c.at(i)
	if !known || k.absent {
		// Whoever created the entry had it resolved: the agent's clock starts
		// where the kernel's stands.
		k.resolved, k.spread = t-e.Updated, min(k.spread, 0)
		if k.absent {
			k.absent = false
			c.absent--
		}
	}
	s.corrected = false
	if e.State.Valid() {
		switch lladdr := digestOf(&e.LLAddr); {
		case k.pending && k.resolved < k.asked:
			// The renewal is under way. An answer may have confirmed the entry
			// without changing it (__neigh_update does so under locktime), or
			// have changed it until it is put back.
		case k.pending && k.lladdr() != 0 && lladdr != k.lladdr():
			s.corrected, k.pending = true, false
			k.setLLAddr(lladdr)
		default:
			k.pending = k.pending && e.Confirmed >= t-k.asked
			k.setLLAddr(lladdr)
		}
	}
	s.fresh, s.again = !known, known && k.scan == c.scan
	if k.scan != c.scan {
		k.scan = c.scan
		c.seen++
	}
	s.place, s.age = i, t-k.resolved
	s.due, s.held = k.due(t)
}

// due is the age that decides whether the entry is due, unless it is held back.
func (k *clock) due(t time.Duration) (age time.Duration, held bool) {
	return t - k.resolved + max(k.spread, 0), t < -k.spread
}

// putOff makes an entry that was seen at t due that much sooner than its age says,
// or holds it back.
func (c *clocks) putOff(s *sight, t, early, hold time.Duration) {
	k := c.at(s.place)
	if k.spread = early; hold > 0 {
		k.spread = -(t + hold)
	}
	s.due, s.held = k.due(t)
}

// has reports whether the entry is remembered.
func (c *clocks) has(key neigh.Key) bool { return c.find(&key, 0) != nil }

// find returns the clock of an entry, nil if it is not remembered. It is quick
// where the entry is in the place where it was last seen.
func (c *clocks) find(key *neigh.Key, place int) *clock {
	id := idOf(key)
	if i, ok := c.lookup(&id, place); ok {
		return c.at(i)
	}
	return nil
}

// ask notes that the renewal of an entry begins: a link-layer address that is
// seen from now on, and differs, is its answer.
func (c *clocks) ask(k *clock, now time.Time) {
	if k != nil {
		k.asked, k.pending = c.since(now), true
	}
}

// forgo notes that a renewal came to nothing.
func (c *clocks) forgo(k *clock) {
	if k != nil {
		if k.pending = false; k.absent {
			c.until = 0 // nobody waits for it to come back
		}
	}
}

// renewed restarts the clock of an entry that was asked for afresh.
func (c *clocks) renewed(k *clock, at time.Time) {
	if k != nil {
		k.resolved, k.spread = c.since(at), min(k.spread, 0)
	}
}

// end forgets entries that a complete scan did not see. One that the agent
// deleted is remembered for as long as keep, so that a correction shows when
// it comes back. Where there is nothing to forget it looks at no clock.
func (c *clocks) end(t, keep time.Duration) {
	if c.seen+c.absent == c.len() && t <= c.until {
		return
	}
	c.absent, c.until = 0, math.MaxInt64
	for i := range c.places {
		k := c.at(i)
		switch {
		case k.dev == 0 || k.scan == c.scan:
		case !k.pending || t-k.asked > keep:
			*k = clock{}
			c.free++
		default:
			k.absent = true
			c.absent++
			c.until = min(c.until, k.asked+keep)
		}
	}
	if c.free > c.places/4 {
		c.compact()
	}
}

// lookup returns the place of the clock with the given id. It looks at one place
// first.
func (c *clocks) lookup(k *id, first int) (place int, ok bool) {
	if first < c.places && c.at(first).is(k) {
		return first, true
	}
	if len(c.buckets) == 0 {
		return 0, false
	}
	hash := c.hash(k)
	for b := hash; ; b++ {
		switch at := c.buckets[c.mask(b)]; {
		case at.place == 0:
			return 0, false
		case at.hash == hash && c.at(int(at.place-1)).is(k):
			return int(at.place - 1), true
		}
	}
}

// add makes a clock for an id that has none.
func (c *clocks) add(k *id) (place int) {
	if c.places == len(c.chunks)*chunk {
		c.chunks = append(c.chunks, new([chunk]clock))
	}
	place = c.places
	c.places++
	*c.at(place) = clock{high: k.high, low: k.low, dev: k.dev}
	if 4*c.places > 3*len(c.buckets) {
		old := c.buckets
		c.buckets = make([]bucket, max(128, 2*len(old)))
		for _, b := range old {
			c.enter(b)
		}
	}
	c.enter(bucket{c.hash(k), uint32(c.places)}) //nolint:gosec // the kernel counts entries in 32 bits as well
	return place
}

// enter puts a place into the hash table. It stays there until compact, even
// when it falls out of use.
func (c *clocks) enter(new bucket) {
	if new.place == 0 {
		return
	}
	b := new.hash
	for c.buckets[c.mask(b)].place != 0 {
		b++
	}
	c.buckets[c.mask(b)] = new
}

// mask maps a hash to a bucket.
func (c *clocks) mask(b uint32) int { return int(b) & (len(c.buckets) - 1) }

// hash is seeded at random: whoever is on the link chooses addresses, and must
// not be able to make them collide.
func (c *clocks) hash(k *id) uint32 {
	return uint32(maphash.Comparable(c.seed, *k)) //nolint:gosec // half of it will do
}

// compact gives back the places that are not in use.
func (c *clocks) compact() {
	old := *c
	c.chunks, c.places, c.free, c.buckets = nil, 0, 0, nil
	for i := range old.places {
		if k := old.at(i); k.dev != 0 {
			id := k.id()
			*c.at(c.add(&id)) = *k
		}
	}
}
