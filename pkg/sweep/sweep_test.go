package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

func TestIdleEntryIsDeletedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake()
		startSettled(t, sweeper(table))
		const n = 90
		for i := range n {
			time.Sleep(137 * time.Millisecond) // so that all phases of the scan occur
			e := aged(fmt.Sprintf("10.0.1.%d", i), []int{eth0, cali0}[i%2], neigh.Stale, time.Duration(2*i)*time.Second)
			switch i % 5 {
			case 1:
				e.State = neigh.Failed
			case 2: // never confirmed
				e.confirmed = e.confirmed.Add(-time.Minute)
			case 3: // used since
				e.used = time.Now()
			case 4: // probed in vain, then answered: only the agent's clock and updated are old
				e.used, e.confirmed = time.Now(), time.Now()
			}
			table.add(e)
		}
		for range 400 {
			time.Sleep(time.Second)
			table.checkAges(t, interval)
		}
		log := table.log()
		if len(log) != n || table.size() != 0 {
			t.Errorf("%d changes, %d entries left; want each of %d entries deleted once", len(log), table.size(), n)
		}
		for _, o := range log {
			if o.do != "delete" || o.oldest < threshold || o.oldest > threshold+calmPeriods*period+100*time.Millisecond {
				t.Errorf("%s of %s at age %v, want it deleted by the first scan after %v", o.do, o.key.Addr, o.oldest, threshold)
			}
		}
	})
}

// While nothing may have to be verified, the table is read half as often: what is idle
// can wait that long, because it is deleted at once.
func TestCalmTableIsReadHalfAsOften(t *testing.T) {
	const calm = 2 * period
	old := threshold - 2*period // it is due by then
	for _, tt := range []struct {
		name  string
		entry func() *fakeEntry
		want  time.Duration
	}{
		{"idle", func() *fakeEntry { return aged("10.0.0.2", eth0, neigh.Stale, old) }, calm},
		{"failed", func() *fakeEntry { return aged("10.0.0.2", eth0, neigh.Failed, old) }, calm},
		{"in use, not due by then", func() *fakeEntry { return talking("10.0.0.2", eth0, old-time.Second) }, calm},
		{"in use, due by then", func() *fakeEntry { return talking("10.0.0.2", eth0, old) }, period},
		{"in use on another device", func() *fakeEntry { return talking("10.0.0.2", cali0, old) }, period},
		{"the kernel is probing", func() *fakeEntry {
			e := aged("10.0.0.2", eth0, neigh.Probe, 0)
			e.silent = true
			return e
		}, period},
		{"the kernel is resolving", func() *fakeEntry { return aged("10.0.0.2", eth0, neigh.Incomplete, 0) }, calm},
		{"on a device that has just come", func() *fakeEntry { return aged("10.0.0.2", unknownDevice, neigh.Stale, 0) }, period},
		{"somebody else's", func() *fakeEntry { return aged("10.0.0.2", eth0, neigh.Permanent, old) }, calm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := newFake(tt.entry())
				s := sweeper(table)
				s.random = func() float64 { return 0 } // nobody is due early
				s.pass(t.Context())                    // the first has a time of its own
				if got := s.pass(t.Context()); got != tt.want {
					t.Errorf("the next scan comes after %v, want %v", got, tt.want)
				}
				table.dumpErr = func(int) error { return errors.New("broken") }
				if got := s.pass(t.Context()); got != period {
					t.Errorf("after a failed scan the next one comes after %v, want %v", got, period)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		table := newFake()
		for i := range 3000 { // many on an uplink that come due together, but not yet
			table.add(talking(fmt.Sprintf("10.1.%d.%d", i/250, i%250), eth0, threshold-3*period))
		}
		s := sweeper(table)
		s.random = func() float64 { return 0 }
		s.pass(t.Context())
		if got := s.pass(t.Context()); got != period {
			t.Errorf("with too many for the pace the next scan comes after %v, want %v", got, period)
		}
	})
}

// An entry that carries packets is verified where it stands: deleting it would
// lose some of them.
func TestEntryInUseIsVerifiedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake(
			talking("10.0.0.2", eth0, time.Minute), talking("2001:db8::2", eth0, 0), talking("10.4.0.2", cali0, 200*time.Second))
		start(t, sweeper(table))
		for range 10 * 300 {
			time.Sleep(time.Second)
			table.checkAges(t, interval)
		}
		log := table.log()
		for k, e := range table.entries {
			var at []time.Duration
			for _, o := range renewals(log) {
				if o.key != k {
					continue
				}
				at = append(at, o.at)
				if gap := o.at - at[max(len(at)-2, 0)]; len(at) > 1 && (gap < threshold || gap > interval) {
					t.Errorf("%s was left alone for %v, want %v to %v", k.Addr, gap, threshold, interval)
				}
			}
			if len(at) < 10 {
				t.Errorf("%s was verified %d times in 10 intervals", k.Addr, len(at))
			}
			if did := of(log, k); !slices.Equal(did, slices.Repeat([]string{"stale", "use"}, len(at))) {
				t.Errorf("%s, which is in use: %q, want rounds of stale and use", k.Addr, did)
			}
			if e.State != neigh.Reachable && e.State != neigh.Delay {
				t.Errorf("%s is %s in the end", k.Addr, e.State)
			}
		}
		if table.size() != 3 {
			t.Errorf("%d entries are left of 3", table.size())
		}
	})
}

// A next hop must be right even while no packet flows: forwarding by XDP or
// hardware uses it without the kernel seeing it used.
func TestNextHopIsVerifiedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle, busy, unconfirmed := aged("10.0.0.1", eth0, neigh.Stale, 0), talking("10.0.0.2", eth0, 0), neverConfirmed("fe80::1")
		table := newFake(idle, busy, unconfirmed)
		table.nextHop(idle.Key, true)
		table.nextHop(busy.Key, false)
		table.nextHop(unconfirmed.Key, true)
		start(t, sweeper(table))
		for range 10 * 300 {
			time.Sleep(time.Second)
			table.checkAges(t, interval)
		}
		log := table.log()
		for _, tt := range []struct {
			entry *fakeEntry
			want  []string // that recur, in this order
		}{
			{idle, []string{"use"}},          // STALE already: as the next packet would
			{busy, []string{"stale", "use"}}, // does not wait for it
			{unconfirmed, []string{"use"}},
		} {
			did := of(log, tt.entry.Key)
			if len(did) < 10*len(tt.want) {
				t.Errorf("%s: %q, want at least 10 rounds of %q", tt.entry.Addr, did, tt.want)
			}
			for i, do := range did {
				if do != tt.want[i%len(tt.want)] {
					t.Errorf("%s: %q, want rounds of %q", tt.entry.Addr, did, tt.want)
					break
				}
			}
		}
	})
}

// Promise 1 on a table where everything happens at once, for intervals below
// and above the kernel's own times.
func TestAgesStayBounded(t *testing.T) {
	for _, interval := range []time.Duration{2 * time.Second, 10 * time.Second, 90 * time.Second, 5 * time.Minute} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				period := interval / 60
				timing := policy.NewTiming(interval, period)
				table := newFake()
				r := rand.New(rand.NewPCG(3, 4))
				for i := range 200 {
					e := aged(fmt.Sprintf("10.0.0.%d", i), eth0+r.IntN(cali1-eth0+1), neigh.Stale, time.Duration(r.Int64N(int64(timing.Threshold()))))
					switch i % 6 {
					case 1:
						e.State, e.talks = neigh.Reachable, true
					case 2:
						e.talks, e.silent = true, true
					case 3:
						table.nextHop(e.Key, false)
					case 4:
						table.nextHop(e.Key, false)
						e.silent = true
					case 5:
						*e = *neverConfirmed(e.Addr.String())
					}
					table.add(e)
				}
				start(t, sweeper(table, func(c *Config) { c.Timing, c.ScanPeriod = timing, period }))
				for i := range 3000 { // 6 intervals
					time.Sleep(interval / 500)
					table.checkAges(t, interval)
					if i%50 == 0 {
						table.add(neverConfirmed(fmt.Sprintf("10.0.1.%d", i/50)))
					}
					if t.Failed() {
						return
					}
				}
			})
		})
	}
}

// neverConfirmed returns an entry as the kernel makes it when somebody asks for
// us: its confirmed age starts at 2 x base_reachable_time.
func neverConfirmed(addr string) *fakeEntry {
	e := aged(addr, eth0, neigh.Stale, 0)
	e.confirmed = e.confirmed.Add(-time.Minute)
	return e
}

// Promise 2, with the loop around the policy: whatever belongs to others is
// read, counted and left alone, interval after interval.
func TestOthersEntriesAreNeverTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake()
		for i, mark := range []func(*fakeEntry){
			func(e *fakeEntry) { e.State = neigh.Permanent },
			func(e *fakeEntry) { e.State = neigh.NoARP },
			func(e *fakeEntry) { e.State = neigh.None },
			func(e *fakeEntry) { e.State = neigh.Incomplete },
			func(e *fakeEntry) { e.State = neigh.Stale | neigh.Failed },
			func(e *fakeEntry) { e.State = 0x100 },
			func(e *fakeEntry) { e.State = 0x8000 },
			func(e *fakeEntry) { e.Flags = neigh.FlagProxy },
			func(e *fakeEntry) { e.Flags = neigh.FlagExtLearned },
			func(e *fakeEntry) { e.Flags, e.State = neigh.FlagExtLearned, neigh.Failed },
			func(e *fakeEntry) { e.Flags, e.State = neigh.FlagExtLearned, neigh.Reachable },
			func(e *fakeEntry) { e.Flags = neigh.FlagOffloaded },
			func(e *fakeEntry) { e.Flags = neigh.FlagSticky },
			func(e *fakeEntry) { e.Flags = 0x04 },
			func(e *fakeEntry) { e.FlagsExt = neigh.FlagManaged },
			func(e *fakeEntry) { e.FlagsExt = 0x80 },
			func(e *fakeEntry) { e.Protocol = 186 },
			func(e *fakeEntry) { e.Protocol, e.State = 4, neigh.Failed },
			func(e *fakeEntry) { e.Index = lo },
			func(e *fakeEntry) { e.Index = nlmon0 },
			func(e *fakeEntry) { e.Index = ppp0 },
			func(e *fakeEntry) { e.Index = unknownDevice },
		} {
			e := aged(fmt.Sprintf("10.0.0.%d", i), eth0, neigh.Stale, 10*interval)
			mark(e)
			table.add(e)
			e = aged(fmt.Sprintf("fe80::%d", i), eth0, neigh.Stale, 10*interval)
			mark(e)
			table.add(e)
			table.nextHop(e.Key, true) // it is a next hop: that changes nothing
		}
		others := table.size()
		// One that is the agent's business, to see that it is at work.
		learned := aged("10.0.0.254", eth0, neigh.Stale, 0)
		table.add(learned)
		start(t, sweeper(table))
		time.Sleep(10 * interval)
		if log := table.log(); len(log) != 1 || log[0].key != learned.Key || table.size() != others {
			t.Errorf("%d entries left of %d, changes: %+v", table.size(), others, log)
		}
	})
}

// Nodes that start together must not act together: what a starting agent finds
// is renewed evenly over the first interval.
func TestFirstIntervalIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, age, parts = 1000, 30 * time.Second, 3
		table := newFake()
		for i := range n {
			e := aged(fmt.Sprintf("10.0.%d.%d", i/250, i%250), eth0, neigh.Stale, age)
			if i%2 == 0 {
				e = talking(e.Addr.String(), eth0, age)
			}
			table.add(e)
		}
		start(t, sweeper(table))
		for range int((threshold - age + period).Seconds()) {
			time.Sleep(time.Second)
			table.checkAges(t, interval)
		}
		var perPart [parts + 1]int // the last is for scans after the threshold
		perScan := make(map[int]int)
		seen := make(map[neigh.Key]bool)
		for _, o := range table.log() {
			if seen[o.key] {
				continue // of the next interval
			}
			seen[o.key] = true
			perPart[int(o.at*parts/(threshold-age))]++
			perScan[o.dump]++
		}
		if len(seen) != n {
			t.Errorf("%d of %d entries were renewed in the first interval", len(seen), n)
		}
		for i, got := range perPart[:parts] {
			if got < n/parts/2 || got > n/parts*3/2 {
				t.Errorf("part %d of the first interval has %d of %d renewals, want about %d", i, got, n, n/parts)
			}
		}
		if most := slices.Max(slices.Collect(maps.Values(perScan))); most > n/8 {
			t.Errorf("one scan has %d of %d renewals", most, n)
		}
	})
}

func TestLargeSweepIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5000
		table := newFake()
		for i := range n {
			table.add(aged(fmt.Sprintf("10.1.%d.%d", i/250, i%250), eth0, neigh.Stale, interval))
		}
		start(t, sweeper(table))
		time.Sleep(period - time.Millisecond) // just before the second scan
		if table.size() != 0 {
			t.Errorf("%d of %d idle entries are left after %v", table.size(), n, period)
		}
		deletes := table.log()
		perBatch, perDump, begun := make(map[int]int), make(map[int]int), make(map[int]time.Duration)
		for _, o := range deletes {
			perBatch[o.batch]++
			perDump[o.dump]++
			begun[o.batch] = o.at
		}
		for batch, got := range perBatch {
			if got > 200 {
				t.Errorf("batch %d has %d deletions", batch, got)
			}
			if pause := begun[batch] - begun[batch-1]; batch > 1 && pause < batchPause {
				t.Errorf("batch %d came %v after the one before", batch, pause)
			}
		}
		if len(perBatch) != n/batchSize || len(perDump) != 1 {
			t.Errorf("%d batches in %d passes, want %d in one", len(perBatch), len(perDump), n/batchSize)
		}
		if took := deletes[n-1].at; took < 100*time.Millisecond || took > 2*time.Second {
			t.Errorf("%d deletions took %v", n, took)
		}
	})
}

// A sweep that takes several passes must not take an entry that it has just
// verified for an idle one: its connection has had no time to send. When nobody
// uses the entry, the kernel lets it go NUD_STALE by itself, and it is deleted
// an interval later.
func TestEntryJustVerifiedIsNotDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake()
		for i := range passLimit + 1000 { // more than one pass has verified
			table.add(talking(fmt.Sprintf("10.1.%d.%d", i/250, i%250), cali0, interval))
		}
		quiet := aged("10.0.0.1", eth0, neigh.Reachable, interval)
		quiet.confirmed = time.Now()
		table.add(quiet)
		s := sweeper(table)
		s.random = func() float64 { return 0 } // nothing is held back at start
		start(t, s)
		expect := func(when string, state neigh.State, did ...string) {
			t.Helper()
			if got := of(table.log(), quiet.Key); !slices.Equal(got, did) {
				t.Errorf("%s: %q, want %q", when, got, did)
			}
			if e, err := table.Get(quiet.Key); e.State != state || (err != nil) != (state == neigh.None) {
				t.Errorf("%s: the entry is %s, %v; want %s", when, e.State, err, state)
			}
		}
		time.Sleep(5*time.Second - time.Millisecond)
		if dumps, _ := table.counts(); dumps < 2 {
			t.Errorf("%d passes, want several", dumps)
		}
		expect("within 5 s", neigh.Delay, "stale", "use")
		time.Sleep(10 * time.Second)
		expect("without a packet for 10 s more", neigh.Reachable, "stale", "use")
		time.Sleep(time.Minute)
		expect("without a packet for a minute", neigh.Stale, "stale", "use")
		time.Sleep(threshold - time.Minute - 15*time.Second)
		expect("just before it is due again", neigh.Stale, "stale", "use")
		time.Sleep(2 * period)
		expect("an interval later", neigh.None, "stale", "use", "delete")
	})
}

// What is overdue when the agent starts is verified within a few seconds, but
// not at once: all nodes may have started together.
func TestOverdueAtStartIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, entries, n = 100, 6, 100 * 6
		var tables []*fakeTable
		for range nodes {
			table := newFake()
			for i := range entries {
				table.add(talking(fmt.Sprintf("10.1.0.%d", i), eth0, time.Hour))
			}
			s := sweeper(table, func(c *Config) { c.ScanPeriod = 100 * time.Millisecond })
			s.random, s.phase = evenly(rand.Float64()), rand.Float64
			start(t, s)
			tables = append(tables, table)
		}
		time.Sleep(startSpread + time.Second)
		perSecond := make(map[time.Duration]int)
		for _, table := range tables {
			seen := make(map[neigh.Key]bool)
			for _, o := range renewals(table.log()) {
				perSecond[o.at.Truncate(time.Second)]++
				seen[o.key] = true
			}
			if len(seen) != entries {
				t.Errorf("%d of %d entries were verified", len(seen), entries)
			}
		}
		for second := range startSpread / time.Second {
			if got := perSecond[second*time.Second]; got < n/6 || got > n/2 {
				t.Errorf("%d of %d verifications in second %d, want about a third", got, n, second)
			}
		}
	})
}

// Verifications on other devices than uplinks have no pause between them: it is the
// passes that are split.
func TestManyVerificationsAreSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5000
		table := newFake()
		for i := range n {
			table.add(talking(fmt.Sprintf("10.1.%d.%d", i/250, i%250), cali0, interval))
		}
		s := sweeper(table)
		s.random = func() float64 { return 0 } // nothing is held back at start
		startSettled(t, s)
		perDump, at := make(map[int]int), make(map[int]time.Duration)
		for _, o := range renewals(table.log()) {
			perDump[o.dump]++
			at[o.dump] = o.at
		}
		want := map[int]int{1: passLimit, 2: passLimit, 3: n - 2*passLimit}
		if !maps.Equal(perDump, want) {
			t.Errorf("verifications per dump: %v, want %v", perDump, want)
		}
		if at[2]-at[1] < batchPause || at[3]-at[2] < batchPause || at[3] > time.Second {
			t.Errorf("passes at %v, want a pause of %v between them", at, batchPause)
		}
	})
}

func TestInterruptedDumpIsRepeatedAtOnce(t *testing.T) {
	other := errors.New("something else")
	tests := []struct {
		name  string
		errs  []error // of the first dumps
		dumps int     // of the first scan
		want  error   // in the end
	}{
		{"interrupted once", []error{neigh.ErrInterrupted}, 2, nil},
		{"interrupted twice", []error{neigh.ErrInterrupted, neigh.ErrInterrupted}, 3, nil},
		{"interrupted three times", []error{neigh.ErrInterrupted, neigh.ErrInterrupted, neigh.ErrInterrupted}, 3, neigh.ErrInterrupted},
		{"overrun", []error{neigh.ErrOverrun, neigh.ErrInterrupted}, 3, nil},
		{"anything else is not repeated", []error{other}, 1, other},
		{"anything else after an interruption", []error{neigh.ErrInterrupted, other}, 2, other},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := aged("10.0.0.2", eth0, neigh.Stale, interval)
				table := newFake(e)
				table.dumpErr = func(n int) error {
					if n <= len(tt.errs) {
						return fmt.Errorf("dumping: %w", tt.errs[n-1])
					}
					return nil
				}
				s := sweeper(table)
				startSettled(t, s)
				if dumps, _ := table.counts(); dumps != tt.dumps {
					t.Errorf("%d dumps, want %d", dumps, tt.dumps)
				}
				if err := s.Ready(time.Now()); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
					t.Errorf("Ready() = %v, want %v", err, tt.want)
				}
				// Nothing is done on half a table, and nothing twice.
				if did := of(table.log(), e.Key); len(did) != map[bool]int{true: 1, false: 0}[tt.want == nil] {
					t.Errorf("after the first scan: %q", did)
				}
				if (s.Report() == nil) != (tt.want != nil) {
					t.Errorf("report %+v", s.Report())
				}
				time.Sleep(period)
				if err := s.Ready(time.Now()); err != nil {
					t.Errorf("after the next scan: %v", err)
				}
				if did := of(table.log(), e.Key); !slices.Equal(did, []string{"delete"}) {
					t.Errorf("after the next scan: %q, want it deleted once", did)
				}
			})
		})
	}
}

func TestFailureAndRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		table := newFake()
		fail := true
		table.dumpErr = func(int) error {
			if fail {
				return broken
			}
			return nil
		}
		var text strings.Builder
		var scans []error
		s := sweeper(table, func(c *Config) {
			c.Log = slog.New(slog.NewTextHandler(&text, nil))
			c.Events.Scanned = func(_ time.Duration, err error) { scans = append(scans, err) }
		})
		if err := s.Ready(time.Now()); !errors.Is(err, errNoScan) {
			t.Errorf("Ready() before the first scan: %v, want %v", err, errNoScan)
		}
		if err := s.Live(time.Now()); err != nil {
			t.Errorf("Live() before the first scan: %v", err)
		}
		if s.Report() != nil {
			t.Error("there is a report before the first scan")
		}
		stop := startSettled(t, s)
		for range 60 {
			time.Sleep(period)
			if err := s.Ready(time.Now()); !errors.Is(err, broken) {
				t.Fatalf("Ready() while the table cannot be read: %v", err)
			}
			// A restart of the agent would mend nothing.
			if err := s.Live(time.Now()); err != nil {
				t.Fatalf("Live() while the loop turns: %v", err)
			}
		}
		table.mu.Lock()
		fail = false
		table.mu.Unlock()
		time.Sleep(period)
		if err := s.Ready(time.Now()); err != nil {
			t.Errorf("Ready() when the table can be read again: %v", err)
		}
		if s.Report() == nil {
			t.Error("there is no report when the table can be read again")
		}
		stop()
		if len(scans) != 62 || !errors.Is(scans[60], broken) || scans[61] != nil {
			t.Errorf("%d scans were told of, the last two with %v", len(scans), scans[max(0, len(scans)-2):])
		}
		// Said when it begins and when it is over, not 61 times.
		if got := text.String(); strings.Count(got, "level=WARN msg=\"scan failed, trying again\" err=broken\n") != 1 || strings.Count(got, "scan succeeded again") != 1 {
			t.Errorf("log:\n%s", got)
		}
	})
}

// An error that names another entry each time does not fill the log.
func TestFailuresThatDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		s := sweeper(&fakeTable{}, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&text, nil)) })
		for i := range 121 { // ten minutes
			s.logFailure(fmt.Errorf("entry %d", i))
			time.Sleep(5 * time.Second)
		}
		s.logFailure(nil)
		s.logFailure(errors.New("entry 0"))
		if got := text.String(); strings.Count(got, "scan failed") != 12 || !strings.Contains(got, `err="entry 12"`) || strings.Count(got, "scan succeeded again") != 1 {
			t.Errorf("log:\n%s", got)
		}
	})
}

// A loop that stands is not ready after three scans, and to be restarted after
// five, whatever the last scan came to.
func TestLoopThatStands(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name        string
		period      time.Duration
		hangs       int   // the dump that does not end
		first       error // what the dump before came to
		ready, live time.Duration
	}{
		{"short period", time.Second, 2, nil, 10 * time.Second, time.Minute},
		{"default period", 20 * time.Second, 2, nil, time.Minute, 100 * time.Second},
		{"long period", 30 * time.Second, 2, nil, 90 * time.Second, 150 * time.Second},
		{"after a scan that failed", 20 * time.Second, 2, broken, 0, 100 * time.Second},
		{"from the start", 20 * time.Second, 1, nil, 0, 100 * time.Second},
		{"from the start, long period", 30 * time.Second, 1, nil, 0, 150 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := newFake()
				hang := make(chan struct{})
				table.dumpErr = func(n int) error {
					if n == tt.hangs {
						<-hang
					}
					return tt.first
				}
				s := sweeper(table, func(c *Config) { c.ScanPeriod = tt.period })
				start(t, s)
				defer close(hang)
				begun := time.Now()
				at := func(after time.Duration) time.Time {
					time.Sleep(time.Until(begun.Add(after)))
					return time.Now()
				}
				if tt.ready > 0 {
					if err := s.Ready(at(tt.ready)); err != nil {
						t.Errorf("Ready() after %v: %v", tt.ready, err)
					}
				}
				want := fmt.Sprintf("the last scan ended %v ago, the limit is %v", tt.ready+time.Second, tt.ready)
				switch {
				case tt.first != nil:
					want = tt.first.Error()
				case tt.hangs == 1:
					want = "the table has not been scanned yet"
				}
				if err := s.Ready(at(tt.ready + time.Second)); err == nil || err.Error() != want {
					t.Errorf("Ready() after %v: %v, want %s", tt.ready+time.Second, err, want)
				}
				if err := s.Live(at(tt.live)); err != nil {
					t.Errorf("Live() after %v: %v", tt.live, err)
				}
				want = fmt.Sprintf("no scan has ended for %v, the limit is %v", tt.live+time.Second, tt.live)
				if err := s.Live(at(tt.live + time.Second)); err == nil || err.Error() != want {
					t.Errorf("Live() after %v: %v, want %s", tt.live+time.Second, err, want)
				}
			})
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	tests := []struct {
		name    string
		call    string // during which the context ends
		nth     int
		changes int // that are carried out in all
	}{
		{"between two batches", "delete", 2, 3*2 + 2*batchSize},
		{"between two verifications", "stale", 2, 2 * 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				table := newFake()
				for i := range 3 {
					table.add(talking(fmt.Sprintf("10.0.0.%d", i), cali0, interval))
				}
				for i := range 1000 {
					table.add(aged(fmt.Sprintf("10.1.%d.%d", i/250, i%250), eth0, neigh.Stale, interval))
				}
				calls := 0
				table.before = func(call string, _ neigh.Key) {
					if call == tt.call {
						if calls++; calls == tt.nth {
							cancel()
						}
					}
				}
				if err := sweeper(table).Run(ctx); err != nil {
					t.Errorf("Run: %v", err)
				}
				if log := table.log(); len(log) != tt.changes {
					t.Errorf("%d changes, want %d", len(log), tt.changes)
				}
			})
		})
	}
	t.Run("while it waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			table := newFake()
			stop := start(t, sweeper(table))
			time.Sleep(period / 2)
			before := time.Now()
			stop()
			if took := time.Since(before); took != 0 {
				t.Errorf("Run took %v to end", took)
			}
			time.Sleep(interval)
			if dumps, _ := table.counts(); dumps != 1 {
				t.Errorf("%d dumps, want the first only", dumps)
			}
		})
	})
}

type renewal struct {
	device string
	m      Method
	r      Result
	age    time.Duration
}

// Without CAP_NET_ADMIN the agent can read and not write: that must not look
// like success.
func TestRefusedChangeIsNotReady(t *testing.T) {
	tests := []struct {
		name  string
		entry func() *fakeEntry
		says  string
		want  renewal
	}{
		{"deletion", func() *fakeEntry { return aged("10.0.0.2", eth0, neigh.Stale, interval) },
			"deleting entry 10.0.0.2 on eth0: not permitted", renewal{"eth0", ByDelete, Failed, interval}},
		{"verification", func() *fakeEntry { return talking("10.0.0.2", cali0, interval) },
			"not permitted", renewal{report.Other, ByStale, Failed, interval}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := newFake(tt.entry())
				refuse := true
				table.refuse = func(neigh.Key) error {
					if refuse {
						return neigh.ErrPermission
					}
					return nil
				}
				var renewals []renewal
				s := sweeper(table, func(c *Config) {
					c.Events.Renewed = func(device string, m Method, r Result, age time.Duration) {
						renewals = append(renewals, renewal{device, m, r, age.Round(time.Second)})
					}
				})
				stop := startSettled(t, s)
				if err := s.Ready(time.Now()); !errors.Is(err, neigh.ErrPermission) || err.Error() != tt.says {
					t.Errorf("Ready() = %v, want %s", err, tt.says)
				}
				if len(table.log()) != 0 {
					t.Errorf("changes: %+v", table.log())
				}
				table.mu.Lock()
				refuse = false
				table.mu.Unlock()
				time.Sleep(period)
				if err := s.Ready(time.Now()); err != nil {
					t.Errorf("Ready() when it is permitted: %v", err)
				}
				stop()
				ok := tt.want
				ok.r, ok.age = OK, interval+period
				if want := []renewal{tt.want, ok}; !slices.Equal(renewals, want) {
					t.Errorf("renewals %v, want %v", renewals, want)
				}
			})
		})
	}
}

// After a batch whose outcome is unknown the next scan shows what is left.
func TestLostBatchIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = passLimit + 500
		table := newFake()
		for i := range n {
			table.add(aged(fmt.Sprintf("10.1.%d.%d", i/250, i%250), eth0, neigh.Stale, interval))
		}
		table.batchErr = func(n int) error {
			if n == 2 {
				return fmt.Errorf("deleting: %w", neigh.ErrOverrun)
			}
			return nil
		}
		ok := 0
		s := sweeper(table, func(c *Config) {
			c.Events.Renewed = func(_ string, _ Method, r Result, _ time.Duration) {
				if r == OK {
					ok++
				}
			}
		})
		stop := startSettled(t, s)
		if err := s.Ready(time.Now()); !errors.Is(err, neigh.ErrOverrun) || table.size() != n-batchSize {
			t.Errorf("Ready() = %v with %d entries left, want %v with %d", err, table.size(), neigh.ErrOverrun, n-batchSize)
		}
		// There is more to do at once, but not while it fails.
		if dumps, _ := table.counts(); dumps != 1 {
			t.Errorf("%d dumps, want the next one after %v", dumps, period)
		}
		time.Sleep(period)
		stop()
		if err := s.Ready(time.Now()); err != nil || table.size() != 0 || ok != n {
			t.Errorf("Ready() = %v with %d entries left, %d counted as renewed; want all", err, table.size(), ok)
		}
	})
}

// Entries that go, or change, between two steps are nobody's failure. Failures
// of a batch are told of the entries they belong to.
func TestEachEntryHasItsOwnResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake()
		for i := range 6 {
			e := aged(fmt.Sprintf("10.0.0.%d", i), eth0, neigh.Stale, time.Minute)
			e.used = time.Now().Add(-interval - time.Duration(i)*time.Second)
			table.add(e)
		}
		at := func(i int) neigh.Key {
			return neigh.Key{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Index: eth0}
		}
		refused := errors.New("refused")
		table.refuse = func(k neigh.Key) error {
			if k == at(3) {
				return refused
			}
			return nil
		}
		table.before = func(call string, _ neigh.Key) {
			if call == "delete" {
				table.remove(at(1))
				table.remove(at(5))
			}
		}
		var got []renewal
		s := sweeper(table, func(c *Config) {
			c.Events.Renewed = func(device string, m Method, r Result, age time.Duration) {
				got = append(got, renewal{device, m, r, age})
			}
		})
		s.pass(t.Context())
		var want []renewal
		for i, r := range []Result{OK, Gone, OK, Failed, OK, Gone} {
			want = append(want, renewal{"eth0", ByDelete, r, interval + time.Duration(i)*time.Second})
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		if err := s.Ready(time.Now()); !errors.Is(err, refused) {
			t.Errorf("Ready() = %v, want %v", err, refused)
		}
	})
}

func TestRenewalsAreLoggedForDebugging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		s := sweeper(newFake(aged("10.0.0.2", eth0, neigh.Stale, interval)), func(c *Config) {
			c.Log = slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		s.pass(t.Context())
		const want = "address=10.0.0.2 device=eth0 lladdr=02:00:00:00:00:01 state=stale age=5m0s method=delete result=ok"
		if got := text.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, want) {
			t.Errorf("log:\n%s\nwant a line with %s", got, want)
		}
	})
}

// mixed returns a table with entries of every kind, all far too old.
func mixed() *fakeTable {
	hop, probed := aged("10.0.0.6", eth0, neigh.Stale, 2*interval), aged("10.0.0.9", eth0, neigh.Probe, time.Second)
	probed.silent = true
	table := newFake(
		aged("10.0.0.1", eth0, neigh.Stale, 2*interval),
		aged("10.0.0.2", cali0, neigh.Stale, 0),
		aged("10.0.0.3", eth0, neigh.Failed, 2*interval),
		talking("10.0.0.4", eth0, 2*interval),
		aged("fe80::5", eth0, neigh.Delay, 2*time.Second),
		hop,
		aged("10.0.0.7", eth0, neigh.Permanent, 2*interval),
		aged("10.0.0.8", eth0, neigh.Incomplete, time.Second),
		probed,
		aged("10.0.0.10", lo, neigh.Stale, 2*interval),
	)
	table.nextHop(hop.Key, true)
	return table
}

func TestDryRunWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := mixed()
		calls := 0
		table.before = func(string, neigh.Key) { calls++ }
		s := sweeper(table, func(c *Config) { c.DryRun = true })
		start(t, s)
		time.Sleep(3 * interval)
		synctest.Wait()
		if calls != 0 || len(table.log()) != 0 {
			t.Errorf("%d calls beside dumps, changes: %+v", calls, table.log())
		}
		if err := s.Ready(time.Now()); err != nil || s.Report() == nil {
			t.Errorf("Ready() = %v, report %v", err, s.Report())
		}
	})
}

func TestOnce(t *testing.T) {
	key := func(addr string, device int) neigh.Key {
		return neigh.Key{Addr: netip.MustParseAddr(addr), Index: device}
	}
	refused := errors.New("refused")
	tests := []struct {
		name    string
		prepare func(*fakeTable)
		dryRun  bool
		want    Summary
		err     error
		left    int
	}{
		{"renews whatever it may, whatever its age", func(*fakeTable) {}, false,
			Summary{Entries: 10, Kept: 4, Deleted: 3, Verified: 3}, nil, 7},
		{"dry run", func(*fakeTable) {}, true,
			Summary{Entries: 10, Kept: 4, Deleted: 3, Verified: 3}, nil, 10},
		{"some vanish or change meanwhile", func(f *fakeTable) {
			f.before = func(call string, k neigh.Key) {
				switch {
				case call == "delete":
					f.remove(key("10.0.0.1", eth0))
				case call == "get" && k == key("10.0.0.4", eth0):
					f.update(k, func(e *fakeEntry) { e.Flags = neigh.FlagExtLearned })
				}
			}
		}, false, Summary{Entries: 10, Kept: 4, Deleted: 2, Verified: 2, Gone: 2}, nil, 7},
		{"some are refused", func(f *fakeTable) {
			f.refuse = func(k neigh.Key) error {
				if k == key("10.0.0.3", eth0) || k == key("fe80::5", eth0) {
					return refused
				}
				return nil
			}
		}, false, Summary{Entries: 10, Kept: 4, Deleted: 2, Verified: 2, Failed: 2}, refused, 8},
		{"the table cannot be read", func(f *fakeTable) {
			f.dumpErr = func(int) error { return refused }
		}, false, Summary{}, refused, 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := mixed()
				tt.prepare(table)
				s := sweeper(table, func(c *Config) { c.DryRun = tt.dryRun })
				got, err := s.Once(t.Context())
				if got != tt.want || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
					t.Errorf("got  %v, %v\nwant %v, %v", got, err, tt.want, tt.err)
				}
				if table.size() != tt.left {
					t.Errorf("%d entries left, want %d", table.size(), tt.left)
				}
				if tt.dryRun && len(table.log()) != 0 {
					t.Errorf("changes in a dry run: %+v", table.log())
				}
			})
		})
	}
	const text = "entries 7, kept 6, deleted 5, verified in place 4, unanswered 3, undecided 8, gone meanwhile 2, failed 1"
	if got := (Summary{7, 6, 5, 4, 3, 8, 2, 1}).String(); got != text {
		t.Errorf("String() = %q, want %q", got, text)
	}
}

func TestCorrections(t *testing.T) {
	idle := func() *fakeEntry { return aged("10.0.0.2", eth0, neigh.Stale, 0) }
	busy := func() *fakeEntry { return talking("10.0.0.2", eth0, 0) }
	back := func(lladdr byte) func(*fakeTable) {
		return func(f *fakeTable) {
			e := aged("10.0.0.2", eth0, neigh.Reachable, 0)
			e.LLAddr = mac(lladdr)
			f.add(e)
		}
	}
	moved := func(f *fakeTable) {
		f.update(idle().Key, func(e *fakeEntry) { e.LLAddr, e.updated = mac(2), time.Now() })
	}
	tests := []struct {
		name    string
		entry   func() *fakeEntry
		renewed bool
		then    func(*fakeTable)
		after   time.Duration
		want    int
	}{
		{"deleted, back with the same address", idle, true, back(1), time.Second, 0},
		{"deleted, back with another before the next scan", idle, true, back(2), time.Second, 1},
		{"deleted, back with another some scans later", idle, true, back(2), 33 * time.Second, 1},
		{"deleted, back with the same some scans later", idle, true, back(1), 33 * time.Second, 0},
		{"deleted, back with another just within the interval", idle, true, back(2), interval - 2*period, 1},
		{"deleted, back with another after the interval", idle, true, back(2), interval + 2*period, 0},
		{"deleted, being resolved when it is seen again, then another", idle, true, func(f *fakeTable) {
			e := aged("10.0.0.2", eth0, neigh.Incomplete, 0)
			e.LLAddr = neigh.LLAddr{}
			f.add(e)
			time.Sleep(3 * period)
			back(2)(f)
		}, time.Second, 1},
		{"deleted, failed, then another", idle, true, func(f *fakeTable) {
			e := aged("10.0.0.2", eth0, neigh.Failed, 0)
			e.LLAddr = neigh.LLAddr{}
			f.add(e)
			time.Sleep(3 * period)
			back(2)(f)
		}, time.Second, 1},
		{"deleted without an address, back with one", func() *fakeEntry {
			e := idle()
			e.LLAddr = neigh.LLAddr{}
			return e
		}, true, back(2), time.Second, 0},
		{"deleted, then failed", idle, true, func(f *fakeTable) {
			e := aged("10.0.0.2", eth0, neigh.Failed, 0)
			e.LLAddr = neigh.LLAddr{}
			f.add(e)
		}, time.Second, 0},
		{"deleted, back with another unconfirmed, moves again", idle, true, func(f *fakeTable) {
			for lladdr := range byte(3) {
				e := neverConfirmed("10.0.0.2")
				e.LLAddr = mac(2 + lladdr)
				f.add(e)
				time.Sleep(2 * period)
			}
		}, time.Second, 1},
		{"verified, moves", busy, true, moved, time.Second, 1},
		{"verified, stays", busy, true, func(*fakeTable) {}, time.Second, 0},
		// By a gratuitous ARP, say: the agent has no part in it.
		{"moves long after it was verified", busy, true, moved, 100 * time.Second, 0},
		{"moves without the agent", busy, false, moved, 100 * time.Second, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := newFake()
				var corrected []string
				var log strings.Builder
				s := sweeper(table, func(c *Config) {
					c.Events.Corrected = func(device string) { corrected = append(corrected, device) }
					c.Log = slog.New(slog.NewTextHandler(&log, nil))
				})
				stop := startSettled(t, s)
				table.add(tt.entry())
				for tt.renewed && len(table.log()) == 0 {
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(tt.after)
				tt.then(table)
				time.Sleep(150 * time.Second) // not enough for another renewal
				stop()
				if want := slices.Repeat([]string{"eth0"}, tt.want); !slices.Equal(corrected, want) {
					t.Errorf("corrections on %q, want %q", corrected, want)
				}
				method := ByDelete
				if strings.HasPrefix(tt.name, "verified") {
					method = ByStale
				}
				line := regexp.MustCompile(`level=INFO msg="an entry was corrected" address=10.0.0.2 device=eth0 old_lladdr=02:00:00:00:00:01 new_lladdr=02:00:00:00:00:0[2-9] method=` + method.String() + `\n`)
				if got := line.FindAllString(log.String(), -1); len(got) != tt.want || strings.Count(log.String(), "corrected") != tt.want {
					t.Errorf("log: %s\nwant %d lines of corrections", log.String(), tt.want)
				}
			})
		})
	}
}

// Between the dump and its turn an entry may have become somebody else's. It is
// read again just before it is touched.
func TestVerifyReadsAgain(t *testing.T) {
	tests := []struct {
		name   string
		change func(*fakeTable, neigh.Key)
		want   Result
		did    []string
	}{
		{"unchanged", func(*fakeTable, neigh.Key) {}, OK, []string{"stale", "use"}},
		{"pinned", func(f *fakeTable, k neigh.Key) {
			f.update(k, func(e *fakeEntry) { e.State = neigh.Permanent })
		}, Changed, nil},
		{"claimed", func(f *fakeTable, k neigh.Key) {
			f.update(k, func(e *fakeEntry) { e.Flags = neigh.FlagExtLearned })
		}, Changed, nil},
		{"idle now", func(f *fakeTable, k neigh.Key) {
			f.update(k, func(e *fakeEntry) { e.State, e.talks = neigh.Stale, false })
		}, Changed, nil},
		{"gone", func(f *fakeTable, k neigh.Key) { f.remove(k) }, Gone, nil},
		{"unreadable", func(f *fakeTable, _ neigh.Key) { f.getErr = neigh.ErrTimeout }, Failed, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := talking("10.0.0.2", cali0, interval)
				table := newFake(e)
				table.before = func(call string, k neigh.Key) {
					if call == "get" {
						tt.change(table, k)
					}
				}
				var got []Result
				s := sweeper(table, func(c *Config) {
					c.Events.Renewed = func(_ string, _ Method, r Result, _ time.Duration) { got = append(got, r) }
				})
				s.pass(t.Context())
				if !slices.Equal(got, []Result{tt.want}) || !slices.Equal(of(table.log(), e.Key), tt.did) {
					t.Errorf("result %q, changes %q; want %q, %q", got, of(table.log(), e.Key), tt.want, tt.did)
				}
				if err := s.Ready(time.Now()); (err != nil) != (tt.want == Failed) {
					t.Errorf("Ready() = %v after result %q", err, tt.want)
				}
			})
		})
	}
}

// In a large sweep the dump grows old while earlier batches are deleted. What
// has been pinned or has come into use by then is not deleted.
func TestOldDecisionIsReadAgainBeforeDeletion(t *testing.T) {
	const n = 8 * batchSize
	pinned, used, gone, last := idleKey(n-1), idleKey(n-2), idleKey(n-3), idleKey(n-4)
	unreadable := errors.New("unreadable")
	tests := []struct {
		name   string
		change func(*fakeTable) // between the first batch and the others
		want   map[Result]int
		kept   []neigh.Key
		err    error
	}{
		{"nothing changed", func(*fakeTable) {}, map[Result]int{OK: n}, nil, nil},
		{"pinned, in use, gone", func(f *fakeTable) {
			f.update(pinned, func(e *fakeEntry) { e.State = neigh.Permanent })
			f.update(used, func(e *fakeEntry) { e.State, e.used, e.updated = neigh.Delay, time.Now(), time.Now() })
			f.remove(gone)
		}, map[Result]int{OK: n - 3, Changed: 2, Gone: 1}, []neigh.Key{pinned, used}, nil},
		{"claimed by a control plane", func(f *fakeTable) {
			f.update(last, func(e *fakeEntry) { e.Flags = neigh.FlagExtLearned })
		}, map[Result]int{OK: n - 1, Changed: 1}, []neigh.Key{last}, nil},
		// The first three batches are younger than freshFor.
		{"unreadable", func(f *fakeTable) { f.getErr = unreadable }, map[Result]int{OK: 3 * batchSize}, nil, unreadable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := newFake()
				for i := range n {
					table.add(&fakeEntry{Entry: neigh.Entry{Key: idleKey(i), LLAddr: mac(1), State: neigh.Stale}})
				}
				change, fresh := sync.OnceFunc(func() { tt.change(table) }), true
				table.before = func(call string, _ neigh.Key) {
					switch {
					case call == "get":
						fresh = fresh && time.Since(table.made) <= freshFor
					case table.size() < n:
						change()
					}
				}
				got := make(map[Result]int)
				s := sweeper(table, func(c *Config) {
					c.Events.Renewed = func(_ string, m Method, r Result, _ time.Duration) {
						if got[r]++; m != ByDelete {
							t.Errorf("renewed by %s", m)
						}
					}
				})
				s.pass(t.Context())
				if !maps.Equal(got, tt.want) {
					t.Errorf("results %v, want %v", got, tt.want)
				}
				if err := s.Ready(time.Now()); !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
					t.Errorf("Ready() = %v, want %v", err, tt.err)
				}
				if fresh {
					t.Error("nothing was read again, or what was fresh")
				}
				for _, k := range tt.kept {
					if _, err := table.Get(k); err != nil || len(of(table.log(), k)) > 0 {
						t.Errorf("%s: %q, %v; want it left alone", k.Addr, of(table.log(), k), err)
					}
				}
				if left := n - tt.want[OK] - tt.want[Gone]; table.size() != left {
					t.Errorf("%d entries left, want %d", table.size(), left)
				}
			})
		})
	}
}

// idleKey returns keys in the order of a dump.
func idleKey(i int) neigh.Key {
	return neigh.Key{Addr: netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(i % 250)}), Index: eth0}
}

// heldVerifier verifies nothing, and says that it did when it is released.
type heldVerifier struct {
	mu      sync.Mutex
	jobs    []neigh.Key
	release chan struct{}
	wg      sync.WaitGroup
}

func (v *heldVerifier) Verify(ctx context.Context, jobs []Job, report func(*Job, Outcome)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range jobs {
		v.jobs = append(v.jobs, jobs[i].Entry.Key)
	}
	v.wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-v.release:
		}
		for i := range jobs {
			report(&jobs[i], Outcome{Method: ByBroadcast})
		}
	})
}

func (v *heldVerifier) Wait() { v.wg.Wait() }

func (v *heldVerifier) handed() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.jobs)
}

// A verification may take longer than a scan period. Its entry is not due again
// until its outcome is known, and the loop goes on meanwhile.
func TestEntryInFlightIsNotDueAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake(talking("10.0.0.1", eth0, interval), talking("10.0.0.2", cali0, interval))
		v := &heldVerifier{release: make(chan struct{})}
		var renewed atomic.Int32
		s := sweeper(table, func(c *Config) {
			c.Verifier = v
			c.Events.Renewed = func(_ string, m Method, r Result, _ time.Duration) {
				if m == ByBroadcast && r == OK {
					renewed.Add(1)
				}
			}
		})
		s.random = func() float64 { return 0 }
		stop := startSettled(t, s)
		late := aged("10.0.0.3", eth0, neigh.Stale, interval)
		table.add(late)
		time.Sleep(10 * period)
		if dumps, _ := table.counts(); v.handed() != 2 || dumps != 11 || renewed.Load() != 0 {
			t.Errorf("%d jobs and %d outcomes after %d scans, want 2 and none after 11", v.handed(), renewed.Load(), dumps)
		}
		if did := of(table.log(), late.Key); !slices.Equal(did, []string{"delete"}) {
			t.Errorf("an idle entry meanwhile: %q", did)
		}
		close(v.release)
		time.Sleep(period)
		// The kernel's ages are as they were: they are due once more.
		if renewed.Load() != 2 || v.handed() != 4 {
			t.Errorf("%d renewals and %d jobs once they are released, want 2 and 4", renewed.Load(), v.handed())
		}
		stop()
	})
}

// Whoever asked for one sweep, or ends the loop, gets it whole.
func TestVerificationsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &heldVerifier{release: make(chan struct{})}
		s := sweeper(newFake(talking("10.0.0.1", eth0, interval)), func(c *Config) { c.Verifier = v })
		time.AfterFunc(time.Second, func() { close(v.release) })
		begun := time.Now()
		got, err := s.Once(t.Context())
		if want := (Summary{Entries: 1, Verified: 1}); got != want || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		if took := time.Since(begun); took != time.Second {
			t.Errorf("Once took %v, want %v", took, time.Second)
		}
	})
}

func TestInPlaceMethods(t *testing.T) {
	const young, old = time.Second, interval
	type ages struct{ used, confirmed, updated time.Duration }
	tests := []struct {
		name    string
		state   neigh.State
		ages    ages
		nextHop bool
		did     []string
		method  Method
	}{
		{"in use", neigh.Reachable, ages{old, young, old}, false, []string{"stale", "use"}, ByStale},
		{"in use, being verified", neigh.Delay, ages{young, young, young}, false, []string{"stale", "use"}, ByStale},
		// Packets flow, but nothing has vouched for the entry: it cannot wait.
		{"in use, unconfirmed", neigh.Delay, ages{young, old, young}, false, []string{"stale", "use", "probe"}, ByProbe},
		{"unconfirmed, and nobody uses it", neigh.Delay, ages{old, old, young}, false, []string{"stale", "use", "probe"}, ByProbe},
		{"just below the threshold", neigh.Delay, ages{young, threshold - time.Second, young}, false, []string{"stale", "use"}, ByStale},
		{"next hop", neigh.Reachable, ages{old, young, old}, true, []string{"stale", "use"}, ByStale},
		{"next hop, unconfirmed", neigh.Delay, ages{young, old, young}, true, []string{"stale", "use", "probe"}, ByProbe},
		{"stale next hop", neigh.Stale, ages{old, young, old}, true, []string{"use"}, ByStale},
		{"stale next hop, unconfirmed", neigh.Stale, ages{old, old, old}, true, []string{"use", "probe"}, ByProbe},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := aged("10.0.0.2", eth0, tt.state, 0)
				e.used, e.confirmed, e.updated = e.used.Add(-tt.ages.used), e.confirmed.Add(-tt.ages.confirmed), e.updated.Add(-tt.ages.updated)
				e.talks = tt.state == neigh.Reachable
				table := newFake(e)
				v := &InPlace{Table: table, Scope: &policy.Scope{}, Timing: policy.NewTiming(interval, period)}
				verify := func() (got Outcome) {
					jobs := []Job{{Entry: e.Entry, Link: table.topology.Links[eth0], NextHop: tt.nextHop}}
					v.Verify(t.Context(), jobs, func(_ *Job, o Outcome) { got = o })
					return got
				}
				if got := verify(); got.Err != nil || got.Method != tt.method {
					t.Errorf("got %+v, want %q", got, tt.method)
				}
				if did := of(table.log(), e.Key); !slices.Equal(did, tt.did) {
					t.Errorf("did %q, want %q", did, tt.did)
				}

				// Whichever step is refused, the refusal is told.
				for i := range tt.did {
					table := newFake(e)
					e.State, e.used = tt.state, time.Now().Add(-tt.ages.used)
					calls, refused := 0, errors.New("refused")
					table.refuse = func(neigh.Key) error {
						if calls++; calls == i+1 {
							return refused
						}
						return nil
					}
					v.Table = table
					if got := verify(); !errors.Is(got.Err, refused) {
						t.Errorf("step %d refused: got %v", i+1, got.Err)
					}
				}
			})
		})
	}
}

// A pod's device is newer than the snapshot of devices: what is on it is kept
// for the moment, and not for half a minute.
func TestUnknownDeviceRefreshesTopology(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake()
		startSettled(t, sweeper(table))
		expect := func(when string, topologies, left int) {
			t.Helper()
			if _, got := table.counts(); got != topologies || table.size() != left {
				t.Errorf("%s: topology read %d times with %d entries left, want %d and %d", when, got, table.size(), topologies, left)
			}
		}
		expect("at first", 1, 0)
		table.mu.Lock()
		table.topology.Links[unknownDevice] = neigh.Link{Index: unknownDevice, Name: "cali9"}
		table.mu.Unlock()
		table.add(aged("10.4.0.9", unknownDevice, neigh.Stale, 2*interval))
		time.Sleep(period)
		expect("after the scan that meets it", 1, 1)
		time.Sleep(period)
		expect("after the next scan", 2, 0)
		// From then on it is read as often as before: by the first scan after 30 s.
		const every = (topologyAge + period - 1) / period * period
		time.Sleep(every - period)
		expect("until it is 30 s old", 2, 0)
		time.Sleep(period)
		expect("when it is 30 s old", 3, 0)
		time.Sleep(10 * every)
		expect("ten times as long later", 13, 0)
	})
}

// Without devices and routes nothing can be decided.
func TestTopologyFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake(aged("10.0.0.2", eth0, neigh.Stale, interval))
		broken := errors.New("broken")
		table.topologyErr = broken
		s := sweeper(table)
		s.pass(t.Context())
		if err := s.Ready(time.Now()); !errors.Is(err, broken) || len(table.log()) != 0 || s.Report() != nil {
			t.Errorf("Ready() = %v, changes %+v, report %+v", err, table.log(), s.Report())
		}
		table.topologyErr = nil
		s.pass(t.Context()) // at once: a failed reading does not count as one
		if err := s.Ready(time.Now()); err != nil || table.size() != 0 {
			t.Errorf("Ready() = %v with %d entries left", err, table.size())
		}
	})
}

// With short intervals the routes must be known as freshly as the entries.
func TestTopologyIsReadTenTimesAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFake()
		start(t, sweeper(table, func(c *Config) {
			c.Timing, c.ScanPeriod = policy.NewTiming(10*time.Second, 500*time.Millisecond), 500*time.Millisecond
		}))
		time.Sleep(10*time.Second - time.Millisecond)
		if dumps, topologies := table.counts(); topologies != 10 || dumps != 11 {
			t.Errorf("topology read %d times in %d scans, want 10 in 11", topologies, dumps)
		}
	})
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		table := newFake()
		hop := func(i int) string { return fmt.Sprintf("10.0.0.%d", i) }
		for i := range 40 {
			e := aged(hop(i), eth0, neigh.Stale, 10*s)
			table.add(e)
			table.nextHop(e.Key, i == 20 || i == 39)
		}
		failed, oldest := aged("10.0.1.2", eth0, neigh.Failed, 20*s), aged("10.0.1.1", eth0, neigh.Stale, 0)
		oldest.used, oldest.confirmed, oldest.updated = oldest.used.Add(-110*s), oldest.confirmed.Add(-130*s), oldest.updated.Add(-120*s)
		table.add(
			oldest,
			failed,
			aged("10.0.1.3", eth0, neigh.Stale|neigh.Failed, 999*s),
			aged("10.0.1.6", eth0, 0x200, 999*s),           // of a kernel to come
			aged("10.0.1.4", eth0, neigh.Permanent, 999*s), // its age is nobody's business
			aged("10.0.1.5", eth0, neigh.Incomplete, 999*s),
			aged("2001:db8::1", eth0, neigh.Stale, 30*s),
			aged("fe80::1", eth1, neigh.NoARP, 999*s),
			aged("10.4.0.1", cali0, neigh.Stale, interval+s), // overdue, the only one
			aged("10.4.0.2", cali1, neigh.Stale, 40*s),
			aged("0.0.0.0", lo, neigh.NoARP, 999*s),
		)
		// A dump may show an entry twice. It is counted once.
		table.dumped = func(visit func(*neigh.Entry)) {
			for _, again := range []*fakeEntry{table.entries[neigh.Key{Addr: netip.MustParseAddr(hop(39)), Index: eth0}], failed} {
				e := again.snapshot()
				visit(&e)
			}
		}
		now := time.Now()
		sw := sweeper(table, func(c *Config) { c.DryRun, c.PerEntry = true, 3 })
		if _, err := sw.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := sw.Report()

		if !got.At.Equal(now) {
			t.Errorf("at %v, want %v", got.At, now)
		}
		kept := map[policy.Reason]int{policy.IsPermanent: 1, policy.IsNoARP: 1, policy.OtherState: 2, policy.Resolving: 1, policy.Loopback: 1}
		for r, n := range got.Kept {
			if n != kept[policy.Reason(r)] {
				t.Errorf("%d entries kept because %v, want %d", n, policy.Reason(r), kept[policy.Reason(r)])
			}
		}

		if got.Overdue != 1 {
			t.Errorf("%d entries overdue, want 1", got.Overdue)
		}
		state := func(s neigh.State) int { return slices.Index(neigh.States[:], s) }
		all := func(age time.Duration) neigh.Ages { return neigh.Ages{age, age, age, age} }
		var v4, v6, noarp, other report.Family
		v4.States[state(neigh.Stale)] = 41
		v4.States[state(neigh.Failed)] = 1
		v4.States[state(neigh.Permanent)] = 1
		v4.States[state(neigh.Incomplete)] = 1
		v4.States[len(neigh.States)] = 2
		v4.Learned = 42
		v4.Oldest = neigh.Ages{neigh.Used: 110 * s, neigh.Confirmed: 130 * s, neigh.Updated: 120 * s, neigh.Resolved: 120 * s}
		v6.States[state(neigh.Stale)], v6.Learned, v6.Oldest = 1, 1, all(30*s)
		noarp.States[state(neigh.NoARP)] = 1
		other.States[state(neigh.Stale)], other.States[state(neigh.NoARP)] = 2, 1
		other.Learned, other.Oldest = 2, all(interval+s)
		var hops [len(neigh.States) + 1]int
		hops[state(neigh.Stale)] = 40
		want := map[string]report.Device{
			"eth0":  {Name: "eth0", Families: [2]report.Family{v4, v6}, NextHops: hops},
			"eth1":  {Name: "eth1", Families: [2]report.Family{{}, noarp}},
			"other": {Name: "other", Families: [2]report.Family{other, {}}},
		}
		if len(got.Devices) != len(want) {
			t.Errorf("%d devices, want %d", len(got.Devices), len(want))
		}
		for _, d := range got.Devices {
			if d != want[d.Name] {
				t.Errorf("device %s:\ngot  %+v\nwant %+v", d.Name, d, want[d.Name])
			}
		}

		// Their order is the report's business.
		if want := report.MaxNextHops + 3; len(got.Entries) != want {
			t.Fatalf("%d entries one by one, want %d", len(got.Entries), want)
		}
		for i, want := range map[int]string{0: hop(20), 1: hop(39), 2: hop(0), 32: "10.0.1.1"} {
			if got := got.Entries[i].Addr.String(); got != want {
				t.Errorf("entry %d is %s, want %s", i, got, want)
			}
		}
		if e := got.Entries[0]; e.Ages != all(10*s) {
			t.Errorf("ages of %s: %v", e.Addr, e.Ages)
		}
		if e := got.Entries[32]; e.Ages != v4.Oldest {
			t.Errorf("ages of %s: %v", e.Addr, e.Ages)
		}
	})
}

// The agent's own clock is what an operator cannot see in the kernel's columns:
// it restarts with a renewal and with nothing else.
func TestOwnClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := talking("10.0.0.2", eth0, 0)
		table := newFake()
		s := sweeper(table, func(c *Config) { c.PerEntry = 1 })
		startSettled(t, s)
		table.add(e)
		age := func() time.Duration { return s.Report().Entries[0].Ages[neigh.Resolved] }
		time.Sleep(100 * time.Second)
		// The kernel verifies by unicast: nobody else was asked.
		table.update(e.Key, func(e *fakeEntry) {
			e.used, e.confirmed, e.updated = time.Now(), time.Now(), time.Now()
		})
		time.Sleep(100 * time.Second)
		if got := age(); got < 200*time.Second-calmPeriods*period || got > 200*time.Second {
			t.Errorf("the clock shows %v after 200 s", got)
		}
		for len(table.log()) == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		if at := table.log()[0].at - time.Second; at < threshold || at > threshold+period {
			t.Errorf("renewed after %v, want the agent's clock to count", at)
		}
		time.Sleep(50 * time.Second)
		if got := age(); got < 50*time.Second-calmPeriods*period || got > 50*time.Second {
			t.Errorf("the clock shows %v 50 s after a renewal", got)
		}
		// One that was deleted starts with whoever makes it again.
		table.update(e.Key, func(e *fakeEntry) { e.State, e.talks, e.used = neigh.Failed, false, time.Now().Add(-interval) })
		time.Sleep(100 * time.Second)
		if table.size() != 0 {
			t.Fatalf("%d entries left", table.size())
		}
		table.add(talking("10.0.0.2", eth0, 0))
		time.Sleep(60 * time.Second)
		if got := age(); got < 60*time.Second-calmPeriods*period || got > 60*time.Second {
			t.Errorf("the clock shows %v a minute after the entry was made again", got)
		}
	})
}

// Nothing is remembered for longer than it may matter: a node sees a great many
// addresses in a year.
func TestClocksForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		table := newFake()
		for i := range n {
			table.add(aged(fmt.Sprintf("10.0.0.%d", i), eth0, neigh.Stale, interval))
			table.add(aged(fmt.Sprintf("10.0.1.%d", i), eth0, neigh.Stale, 0))
		}
		s := sweeper(table)
		expect := func(when string, want int) {
			t.Helper()
			s.pass(t.Context())
			if got := len(s.clocks.all); got != want {
				t.Errorf("%s: %d clocks, want %d", when, got, want)
			}
		}
		expect("at first", 2*n)
		stays := talking("10.0.2.1", eth0, 0)
		table.add(stays)
		for i := range n { // somebody else removes them
			table.remove(neigh.Key{Addr: netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), Index: eth0})
		}
		expect("with half of them deleted by the agent", n+1)
		time.Sleep(interval - time.Second)
		expect("just within the interval", n+1)
		time.Sleep(2 * time.Second)
		expect("after the interval", 1)
	})
}
