package sweep

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// crowd returns a bench with n entries on eth0, in use, that answer.
func crowd(n int, age func() time.Duration) *bench {
	b := newBench()
	for i := range n {
		e := talking(fmt.Sprintf("10.1.%d.%d", i/250, i%250), eth0, age())
		b.table.add(e)
		b.solicitor.answers[e.Addr] = []answer{{lladdr: 1, delay: ms}}
	}
	return b
}

// peak returns the most that were sent in any time of the given length, from then on
// and for so long.
func (s *fakeSolicitor) peak(from time.Time, length, window time.Duration) (most, all int) {
	var at []time.Time
	for _, a := range s.log() {
		if since := a.at.Sub(from); since < 0 || since >= length {
			continue
		}
		at = append(at, a.at)
	}
	first := 0
	for i := range at {
		for at[i].Sub(at[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most, len(at)
}

// longest returns the longest time for which one of n entries was not asked for,
// after it had been once, and by when all had been.
func (s *fakeSolicitor) longest(t *testing.T, n int, end time.Time) (longest time.Duration, all time.Time) {
	t.Helper()
	last := make(map[netip.Addr]time.Time)
	for _, a := range s.log() {
		before, again := last[a.Addr]
		if last[a.Addr] = a.at; again {
			longest = max(longest, a.at.Sub(before))
		} else {
			all = a.at
		}
	}
	for _, at := range last {
		longest = max(longest, end.Sub(at))
	}
	if len(last) != n {
		t.Errorf("%d of %d entries were asked for", len(last), n)
	}
	return longest, all
}

// However many entries are in use, and however old they are at start, no second has
// more than ten solicitations, unless that is too few for all of them; a start is
// over within a few seconds and a tenth of a second for each entry; afterwards none
// goes longer than an interval, and what came together does not come together again.
func TestEntriesInUseArePaced(t *testing.T) {
	t.Parallel()
	ages := map[string]func() time.Duration{
		"overdue": func() time.Duration { return time.Hour },
		"new":     func() time.Duration { return 0 },
		"mixed":   func() time.Duration { return time.Duration(rand.Int64N(int64(2 * interval))) },
	}
	for _, n := range []int{1, 3, 50, 200, 1000, 1900, 5000} {
		for name, age := range ages {
			t.Run(fmt.Sprint(n, " ", name), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					const length = 5 * interval
					b := crowd(n, age)
					var text strings.Builder
					s := broadcasting(b, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&text, nil)) })
					s.cfg.Log = slog.New(slog.NewTextHandler(&text, nil))
					s.random, s.phase = evenly(rand.Float64()), rand.Float64
					begun := time.Now()
					stop := start(t, s)
					time.Sleep(length)
					stop()

					allowed := pace.PerSecond
					if n > 2500 {
						allowed = int(math.Ceil(spare * float64(n) / threshold.Seconds()))
					}
					most, _ := b.solicitor.peak(begun, length, time.Second)
					if most > allowed {
						t.Errorf("%d in a second, want %d at most", most, allowed)
					}
					if early, _ := b.solicitor.peak(begun, interval/4, time.Second); early > 15 {
						t.Errorf("%d in a second of the start, whose entries are not due again for long", early)
					}
					longest, all := b.solicitor.longest(t, n, time.Now())
					if longest > interval {
						t.Errorf("one was not asked for in %v", longest)
					}
					// The pacer's seconds are 5 % longer than ours.
					bound := 2*period + startSpread + time.Duration(float64(n)/pace.PerSecond*1.06*float64(time.Second))
					if took := all.Sub(begun); name == "overdue" && took > bound {
						t.Errorf("the start took %v, want %v at most", took, bound)
					}
					// In the end it is even: no scan period has much more than its share.
					share := float64(n) * period.Seconds() / interval.Seconds()
					last, count := b.solicitor.peak(begun.Add(3*interval), 2*interval, period)
					if most := 3*share + 4; float64(last) > most {
						t.Errorf("%d in a scan period of the last intervals, want %.0f at most", last, most)
					}
					// An entry is due again after the threshold, not the interval: 2.54 times in two.
					if count > n*13/5+2 {
						t.Errorf("%d in the last two intervals: more than needed", count)
					}
					if got := strings.Count(text.String(), "more solicitations"); got != min(n/2500, 1) {
						t.Errorf("said %d times:\n%s", got, text.String())
					}
					t.Logf("most in a second %d; longest %v; start over after %v; last intervals: %d, most in a period %d of %.1f",
						most, longest, all.Sub(begun), count, last, share)
				})
			})
		}
	}
}

// A machine that was suspended for longer than the interval finds everything due,
// one whose wall clock was set finds nothing (see kernel.Gaps).
func TestSuspensionIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		b := crowd(n, func() time.Duration { return time.Duration(rand.Int64N(int64(interval))) })
		var missed atomic.Int64
		s := broadcasting(b, func(c *Config) { c.Missed = func() time.Duration { return time.Duration(missed.Load()) } })
		s.random = evenly(rand.Float64())
		start(t, s)
		time.Sleep(2 * interval)
		missed.Store(int64(time.Hour))
		resumed := time.Now()
		time.Sleep(3 * interval)
		if most, all := b.solicitor.peak(resumed, period+n*gap+time.Second, time.Second); most > pace.PerSecond || all < n {
			t.Errorf("%d in a second, %d in all; want %d at most, and %d", most, all, pace.PerSecond, n)
		}
		if most, _ := b.solicitor.peak(resumed.Add(interval), 2*interval, period); most > 25 {
			t.Errorf("%d in ten seconds of the intervals after it, want about 7", most)
		}
	})
}

// A segment that is silent is asked three times for each entry, and the kernel asks
// three times: that is less than ten a second as well, and nobody waits for ever.
func TestSilentSegmentIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 300
		b := crowd(n, func() time.Duration { return time.Hour })
		clear(b.solicitor.answers)
		for _, e := range b.table.entries {
			e.silent = true
		}
		s := broadcasting(b)
		begun := time.Now()
		stop := start(t, s)
		time.Sleep(2 * interval)
		stop()
		if most, _ := b.solicitor.peak(begun, 2*interval, time.Second); most > pace.PerSecond {
			t.Errorf("%d in a second", most)
		}
		if most, _ := b.solicitor.peak(begun, 2*interval, time.Minute); most > 60*pace.PerSecond*2/3 {
			t.Errorf("%d in a minute leave too few turns for what the kernel sends", most)
		}
		all := b.withKernel("use", delayTime)
		if most, _ := all.peak(begun, 2*interval, time.Second); most > 15 {
			t.Errorf("%d in a second with the kernel's: more than a switch takes that inspects ARP", most)
		}
		if most, sum := all.peak(begun, 2*interval, time.Minute); most > 60*pace.PerSecond || sum != 6*n {
			t.Errorf("%d in a minute with the kernel's, %d in all; want %d at most, and %d", most, sum, 60*pace.PerSecond, 6*n)
		}
		b.solicitor.longest(t, n, time.Now())
	})
}

// withKernel returns all that was asked for by the agent, and by the kernel for entries
// whose neighbours are silent: from so long on after what was done to them last.
func (b *bench) withKernel(did string, after time.Duration) *fakeSolicitor {
	last := make(map[neigh.Key]time.Time)
	for _, o := range b.table.log() {
		if o.do == did {
			last[o.key] = b.table.made.Add(o.at)
		}
	}
	all := &fakeSolicitor{asks: b.solicitor.log()}
	for k, at := range last {
		for try := range kernelTries {
			all.asks = append(all.asks, ask{Question: shield.Question{Addr: k.Addr}, at: at.Add(after + time.Duration(try)*retransTime)})
		}
	}
	slices.SortFunc(all.asks, func(a, b ask) int { return a.at.Compare(b.at) })
	return all
}

// What nothing has vouched for in time is verified by the kernel as soon as nobody has
// answered. The agent and the kernel together ask no more than ten times in any second.
func TestSilentNextHopsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 60
		b := newBench()
		for i := range n {
			e := aged(fmt.Sprintf("10.0.0.%d", i), eth0, neigh.Stale, interval)
			e.silent = true
			b.table.add(e)
			b.table.nextHop(e.Key, true)
		}
		b.verify(t.Context(), t, b.jobs())
		time.Sleep(kernelTries * retransTime)
		if most, sum := b.withKernel(neigh.Probe.String(), 0).peak(b.table.made, time.Hour, time.Second); most > pace.PerSecond || sum != 6*n {
			t.Errorf("%d in a second, %d in all; want %d at most, and %d", most, sum, pace.PerSecond, 6*n)
		}
	})
}

// Those that are due at the same time are due sooner when they are too many to be
// asked for then, and no sooner than that, however long the interval is.
func TestTooManyAtATimeAreEarly(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{10 * time.Second, 300 * time.Second, 24 * time.Hour} {
		timing := policy.NewTiming(interval, min(interval/15, 30*time.Second))
		for _, n := range []int{1, 10, 1000, 5000} {
			at := func(left time.Duration) *load {
				l := &load{since: time.Now().Add(-interval)}
				for range n {
					l.count(left, &timing)
				}
				l.plan(time.Now(), &timing, interval/15)
				return l
			}
			// From when on does it have them renewed?
			rate := at(timing.Threshold()).rate
			need := time.Duration(float64(n) / rate * float64(time.Second))
			for left := timing.Threshold(); left > 0; left -= timing.Lead / 14 {
				early := at(left).early >= left
				if late := left < need-timing.Lead/2-time.Millisecond; late && !early {
					t.Errorf("%d at %v: due in %v, which is too late for %v", n, interval, left, need)
					break
				}
				if soon := left > need+timing.Lead/4; soon && early {
					t.Errorf("%d at %v: early already, with %v left for %v", n, interval, left, need)
					break
				}
			}
		}
	}
}

// One that is not due for long waits for nobody, whatever a scan leaves out.
func TestRationTakesTheMostUrgent(t *testing.T) {
	s := sweeper(newFake())
	s.loads[eth0] = &load{rate: pace.PerSecond, due: 1000}
	var jobs []Job
	for i := range 1000 {
		device := neigh.Link{Index: eth0, Uplink: true}
		if i%5 == 0 {
			device = neigh.Link{Index: cali0}
		}
		jobs = append(jobs, Job{Link: device, left: time.Duration(1000-i) * time.Second})
	}
	s.inFlight[neigh.Key{Index: eth0}] = struct{}{}
	uplinks, others := 0, 0
	for _, j := range s.ration(jobs) {
		switch {
		case !j.Link.Uplink:
			others++
		case j.left > 520*time.Second || !j.crowd:
			t.Errorf("%+v", j)
		default:
			uplinks++
		}
	}
	if uplinks != 409 || others != 200 {
		t.Errorf("%d of the uplink and %d others, want what two scan periods and a second have room for, and all", uplinks, others)
	}
}

// A start stays at the usual pace for a third of an interval, though a pass that leaves
// work scans again at once.
func TestScansDoNotHurryAStart(t *testing.T) {
	t.Parallel()
	timing := policy.NewTiming(60*time.Second, 4*time.Second)
	l := &load{inUse: 1000}
	start := time.Now()
	for at := time.Duration(0); at < timing.Interval/3; at += 10 * time.Millisecond {
		if l.plan(start.Add(at), &timing, 4*time.Second); l.rate != pace.PerSecond {
			t.Fatalf("%v a second after %v, want %d", l.rate, at, pace.PerSecond)
		}
	}
	if l.plan(start.Add(timing.Interval/3), &timing, 4*time.Second); l.rate <= pace.PerSecond {
		t.Errorf("%v a second after a third of the interval, want what is needed", l.rate)
	}
}
