package sweep

import (
	"context"
	"maps"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

// stillTable is a table that shows the same entries in parts, as the kernel
// does, at no cost of its own, and takes every deletion.
type stillTable struct {
	*fakeTable
	entries []neigh.Entry
	age     time.Duration // of all of them
}

func newStill(n int) *stillTable {
	t := &stillTable{fakeTable: newFake(), age: time.Second}
	for i := range n {
		t.entries = append(t.entries, neigh.Entry{Key: idleKey(i), LLAddr: mac(byte(i)), State: neigh.Stale})
	}
	t.nextHop(idleKey(n), true) // a table without one is no node's
	return t
}

func (t *stillTable) DumpParts(visit func(*neigh.Entry), part func(since time.Time)) error {
	var e neigh.Entry
	for i := range t.entries {
		e = t.entries[i]
		e.Used, e.Confirmed, e.Updated = t.age, t.age, t.age
		if visit(&e); i%batchSize == batchSize-1 {
			part(time.Now())
		}
	}
	part(time.Now())
	return nil
}

func (t *stillTable) Delete([]neigh.Key) ([]neigh.Failure, error) { return nil, nil }

// A node is scanned for years, and may hold many entries: neither a scan nor the
// renewal of what is idle may allocate for each of them.
func TestScanDoesNotAllocatePerEntry(t *testing.T) {
	measure := func(n int, age time.Duration) float64 {
		table := newStill(n)
		s := sweeper(table.fakeTable, func(c *Config) { c.Table = table })
		s.report.Store(&report.Report{}) // it is not the first scan
		pass := func() {
			a := actor{Sweeper: s, once: age >= interval, deletes: n, verifies: n} // without pauses
			if err := s.scan(t.Context(), &a); err != nil || a.err != nil || a.more {
				t.Fatal(err, a.err, a.more)
			}
			if want := map[bool]int{true: n}[age >= interval]; s.found.idle != want {
				t.Fatalf("%d entries were due, want %d", s.found.idle, want)
			}
		}
		table.age = age
		pass() // the clocks are made
		if age < interval && len(s.clocks.all) != n {
			t.Fatalf("%d clocks of %d entries", len(s.clocks.all), n)
		}
		return testing.AllocsPerRun(10, pass)
	}
	for _, tt := range []struct {
		name string
		age  time.Duration
	}{{"nothing due", time.Second}, {"all due", interval}} {
		t.Run(tt.name, func(t *testing.T) {
			few, many := measure(2*batchSize, tt.age), measure(20*batchSize, tt.age)
			if many > few {
				t.Errorf("%v allocations for %d entries, %v for %d: want no more", many, 20*batchSize, few, 2*batchSize)
			}
		})
	}
}

// The kernel shows its table in parts, and each may hold a few entries that are due:
// they are deleted in whole batches, and not part by part.
func TestDeletionsOfManyPartsAreOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const parts, each = 30, 20
		table := newFake()
		for i := range parts * each {
			table.add(&fakeEntry{Entry: neigh.Entry{Key: idleKey(i), LLAddr: mac(1), State: neigh.Stale}})
		}
		s := sweeper(table, func(c *Config) { c.Table = partsTable{table, each} })
		begun := time.Now()
		s.pass(t.Context())
		sizes := make(map[int]int)
		for _, o := range table.log() {
			sizes[o.batch]++
		}
		if want := map[int]int{1: batchSize, 2: batchSize, 3: batchSize}; !maps.Equal(sizes, want) || table.size() != 0 {
			t.Errorf("batches of %v, %d entries left, want %v and none", sizes, table.size(), want)
		}
		if took := time.Since(begun); took != 3*batchPause {
			t.Errorf("it took %v, want a pause of %v for each whole batch", took, batchPause)
		}
	})
}

// partsTable is a table that shows its entries in parts of so many.
type partsTable struct {
	*fakeTable
	each int
}

func (t partsTable) DumpParts(visit func(*neigh.Entry), part func(since time.Time)) error {
	n := 0
	return t.fakeTable.DumpParts(func(e *neigh.Entry) {
		if visit(e); n%t.each == t.each-1 {
			t.mu.Unlock() // as the kernel does, which lets the table be changed meanwhile
			part(time.Now())
			t.mu.Lock()
		}
		n++
	}, part)
}

func BenchmarkScan(b *testing.B) {
	const n = 10000
	table := newStill(n)
	s := sweeper(table.fakeTable, func(c *Config) { c.Table = table })
	s.report.Store(&report.Report{}) // it is not the first scan
	b.ReportAllocs()
	for b.Loop() {
		a := actor{Sweeper: s}
		if err := s.scan(context.Background(), &a); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}

func BenchmarkClocks(b *testing.B) {
	const n = 10000
	now := time.Now()
	entries := newStill(n).entries
	scan := func(c *clocks) {
		c.begin()
		for i := range entries {
			c.see(&entries[i], 0)
		}
		c.end(0, interval)
	}
	run := func(name string, prepare, turn func(c *clocks)) {
		b.Run(name, func(b *testing.B) {
			c := newClocks(now)
			prepare(c)
			b.ReportAllocs()
			for b.Loop() {
				turn(c)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
		})
	}
	run("in order", scan, scan)
	run("in another order", scan, func(c *clocks) {
		c.begin()
		for i := range entries {
			c.see(&entries[i*7919%n], 0)
		}
	})
	run("new", func(*clocks) {}, func(c *clocks) {
		*c = *newClocks(now)
		scan(c)
	})
}

// A deleted entry is remembered until it comes back or keep has passed, each on its
// own, however many scans there are meanwhile.
func TestClocksOfDeletedEntries(t *testing.T) {
	const n, keep = 4, 10 * period
	c := newClocks(time.Now())
	scan := func(at time.Duration, entries ...int) {
		c.begin()
		for _, i := range entries {
			c.see(&neigh.Entry{Key: idleKey(i), State: neigh.Stale, LLAddr: mac(1)}, at)
		}
		c.end(at, keep)
	}
	key := func(i int) *neigh.Key { k := idleKey(i); return &k }
	at := period
	scan(at, 0, 1, 2, 3)
	for i := range n - 1 { // 0, 1 and 2 are deleted one after the other
		c.ask(c.find(key(i)), c.base.Add(at+time.Duration(i)*period))
	}
	for i := 1; i < 30; i++ {
		at += period
		var back []int
		if i >= 5 {
			back = []int{1}
		}
		if i == 8 { // what became of it is known after all
			c.find(key(2)).pending = false
		}
		scan(at, append(back, 3)...)
		for entry, want := range []bool{i <= 10, true, i < 8, true} {
			if got := c.find(key(entry)) != nil; got != want {
				t.Errorf("scan %d: entry %d is remembered: %v, want %v", i, entry, got, want)
			}
		}
	}
	if len(c.all) != 2 {
		t.Errorf("%d clocks of 2 entries", len(c.all))
	}
}

// The clocks are where they are looked for, whatever comes and goes.
func TestClocksStore(t *testing.T) {
	const n = 5000
	c := newClocks(time.Now())
	at := c.base
	key := func(i int) neigh.Key {
		k := neigh.Key{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Index: 1 + i%3}
		if i%5 == 0 { // the same bytes in the other family
			k.Addr = netip.AddrFrom16(k.Addr.As16())
		}
		return k
	}
	live := make(map[int]time.Duration) // when they were last renewed
	for round := range 40 {
		at = at.Add(period)
		c.begin()
		seen := make(map[int]bool)
		for i := range n {
			// A window that moves, and holes that come and go.
			if i < 60*round || i > 60*round+2000 || (i*31+round)%7 == 0 {
				continue
			}
			seen[i] = true
			e := neigh.Entry{Key: key(i), State: neigh.Stale, LLAddr: mac(byte(i))}
			s := c.see(&e, c.since(at))
			was, known := live[i]
			if want := at.Sub(c.base) - was; known && s.age != want || !known && s.age != 0 || s.again {
				t.Fatalf("round %d, entry %d: %+v, want age %v (known: %v)", round, i, s, want, known)
			}
			if !known {
				live[i] = at.Sub(c.base)
			}
			if again := c.see(&e, c.since(at)); !again.again || again.clock != s.clock {
				t.Fatalf("round %d, entry %d seen twice: %+v after %+v", round, i, again, s)
			}
			if (i+round)%11 == 0 {
				c.renewed(s.clock, at)
				live[i] = at.Sub(c.base)
			}
		}
		c.end(c.since(at), interval)
		for i := range live {
			if !seen[i] {
				delete(live, i)
			}
		}
		if len(c.all) != len(live) {
			t.Fatalf("round %d: %d clocks, want %d", round, len(c.all), len(live))
		}
		for i := range n {
			k := key(i)
			if _, want := live[i]; (c.find(&k) != nil) != want {
				t.Fatalf("round %d: entry %d remembered: %v", round, i, !want)
			}
		}
	}
}
