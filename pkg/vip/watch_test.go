package vip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// In the steady state nothing reaches the API server, and next to nothing
// everybody.
func TestSteadyState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.kubelet(t, 10*time.Second)
		// One whose last act was sent in reply to data, and one that is idle.
		echo := b.dial(theVIP)
		b.request(b.dial(theVIP))
		b.request(echo)
		b.change(func() { echo.sent = echo.received.Add(20 * ms) })
		stop := b.start(t)
		rest(time.Hour)
		stop()
		unicast := 0
		for _, a := range b.asks {
			if a.LLAddr == mac(1) {
				unicast++
			}
		}
		if n := len(b.broadcasts(0)); n < 50 || n > 75 {
			t.Errorf("everybody was asked %d times in an hour, want once a minute", n)
		}
		if unicast < 1780 || unicast > 1900 {
			t.Errorf("the holder was asked %d times in an hour, want every 2 s", unicast)
		}
		if len(b.checks) > 0 || len(b.lines("")) > 0 || len(b.events) > 0 {
			t.Errorf("%d checks, events %v and log %s", len(b.checks), b.events, b.log.String())
		}
		if b.resolved < 50 {
			t.Errorf("the sweep was told %d times that the entry was renewed", b.resolved)
		}
	})
}

// A repair is a case of what happens to the holders of a VIP that the node talks
// to.
func TestRepairs(t *testing.T) {
	const one, two, three = 1, 2, 3
	const thenAfter = time.Minute // so that a holder without a rival has been checked
	type hosts = []*host
	down := func(n int) func(*bench) {
		return func(b *bench) { b.host(mac(n)).down = true }
	}
	become := func(n int, a api) func(*bench) {
		return func(b *bench) { b.host(mac(n)).api = a }
	}
	join := func(h ...*host) func(*bench) {
		return func(b *bench) { b.hosts = append(b.hosts, h...) }
	}
	all := func(fn ...func(*bench)) func(*bench) {
		return func(b *bench) {
			for _, f := range fn {
				f(b)
			}
		}
	}
	deaf := func(h *host, broadcasts int) *host {
		h.lose = broadcasts
		return h
	}
	stranger := func(n int) *host { return &host{lladdr: mac(n), delay: ms} }

	tests := []struct {
		name   string
		hosts  hosts
		config func(*Config)
		breaks func(*bench)
		then   func(*bench) // thenAfter later
		wait   time.Duration
		want   int           // whom the entry names at last
		within time.Duration // 0: it does not move
		events []Event
		cause  Cause
		log    string // in a line
	}{
		{
			name: "the holder is silent", breaks: all(down(one), join(good(two))),
			want: two, within: 3300 * ms, events: []Event{Moved}, cause: Stale,
		},
		{
			name: "one broadcast is lost", breaks: all(down(one), join(deaf(good(two), 1))),
			want: two, within: 3600 * ms, events: []Event{Moved}, cause: Stale,
		},
		{
			name:   "the holder is silent, and of several others none serves",
			breaks: all(down(one), join(zombie(two, refuses), &host{lladdr: mac(three), delay: 2 * ms, api: refuses})),
			want:   one, events: []Event{Duplicate, Silent},
			log: `event=silent device=eth0 old_lladdr=02:00:00:00:00:01 reason=others_answer`,
		},
		{
			name: "nobody answers, and then another does", breaks: down(one), then: join(good(two)),
			wait: 2 * time.Minute, want: two, within: thenAfter + 6*time.Second, events: []Event{Silent, Moved, Recovered}, cause: WasSilent,
			log: `level=WARN msg="vip silent" vip=10.0.0.100 event=silent device=eth0 old_lladdr=02:00:00:00:00:01`,
		},
		{
			name: "its process is gone", breaks: all(become(one, refuses), join(good(two))),
			want: two, within: 4 * time.Second, events: []Event{Duplicate, Failing, Moved, Recovered, Held}, cause: Zombie,
			log: `level=WARN msg="vip failing" vip=10.0.0.100 event=failing device=eth0 old_lladdr=02:00:00:00:00:01 reason=refused`,
		},
		{
			name: "it is frozen", breaks: all(become(one, frozen), join(good(two))),
			want: two, within: 10 * time.Second, events: []Event{Duplicate, Failing, Moved, Recovered, Held}, cause: Zombie,
		},
		{
			name: "of several others only the last serves", breaks: all(become(one, refuses), join(zombie(two, refuses), zombie(three, refuses), good(4))),
			want: 4, within: 4 * time.Second, events: []Event{Duplicate, Failing, Moved, Recovered, Held}, cause: Zombie,
		},
		{
			name: "none serves: the first is put back", breaks: all(become(one, refuses), join(zombie(two, refuses), zombie(three, frozen))),
			want: one, events: []Event{Duplicate, Failing},
		},
		{
			name: "another serves, and cannot prove who it is", breaks: all(become(one, refuses), join(stranger(two))),
			want: one, events: []Event{Duplicate, Failing},
		},
		{
			name: "the same, where the check does not verify", breaks: all(become(one, refuses), join(zombie(two, handshakes)), func(b *bench) { b.host(mac(two)).proves, b.lenient = false, true }),
			want: one, events: []Event{Duplicate, Failing},
		},
		{
			name: "healthy: one that cannot prove who it is is followed", breaks: all(become(one, refuses), join(stranger(two)), func(b *bench) { b.lenient = true }),
			config: func(c *Config) { c.OnConflict = Healthy },
			want:   two, within: 4 * time.Second, events: []Event{Duplicate, Failing, Moved, Recovered, Held}, cause: Zombie,
		},
		{
			name: "report: none is followed", breaks: all(become(one, refuses), join(good(two))),
			config: func(c *Config) { c.OnConflict = Report },
			wait:   time.Minute, want: one, events: []Event{Duplicate, Failing},
		},
		{
			name: "no check: none is followed", breaks: all(become(one, frozen), join(good(two))),
			config: func(c *Config) { c.Checker = nil },
			want:   one, events: []Event{Duplicate},
		},
		{
			name: "the CA file cannot be used", breaks: all(become(one, refuses), join(good(two)), func(b *bench) { b.unknown = errFake }),
			want: one, wait: time.Minute, events: []Event{Duplicate}, log: `level=WARN msg="the VIP cannot be checked" vip=10.0.0.100 err=fault`,
		},
		{
			name: "two that serve are reported once", breaks: join(good(two)),
			wait: time.Hour, want: one, events: []Event{Duplicate},
			log: `level=WARN msg="vip duplicate" vip=10.0.0.100 event=duplicate device=eth0 new_lladdr=02:00:00:00:00:01 holders="[02:00:00:00:00:01 02:00:00:00:00:02]"`,
		},
		{
			name: "two that serve, and no locktime", breaks: all(join(good(two)), func(b *bench) { b.locktime = 0 }),
			wait: time.Hour, want: one, events: []Event{Duplicate},
		},
		{
			name: "moved by an announcement", breaks: all(down(one), join(good(two)), func(b *bench) {
				e := b.entries[key]
				e.LLAddr, e.State, e.updated = mac(two), neigh.Stale, time.Now()
			}), want: two, within: time.Second, wait: 10 * time.Second, events: []Event{Moved},
		},
		{
			name: "first its process is gone, then it is silent and another holds it", breaks: become(one, refuses), then: all(down(one), join(good(two))),
			wait: 2 * time.Minute, want: two, within: thenAfter + 7*time.Second, events: []Event{Failing, Moved, Recovered}, cause: Stale,
		},
		{
			name: "it was frozen, served again, and then it moves in silence", breaks: become(one, frozen),
			then: all(become(one, serves), func(b *bench) {
				time.AfterFunc(3*time.Minute, func() {
					b.change(func() { all(down(one), join(good(two)))(b) })
				})
			}), wait: 5 * time.Minute, want: two, within: thenAfter + 3*time.Minute + 4*time.Second,
			events: []Event{Failing, Recovered, Moved}, cause: Stale,
		},
		{
			name: "it was silent, answered again, and then it moves in silence", breaks: down(one),
			then: all(func(b *bench) {
				b.host(mac(one)).down = false
				e := b.entries[key]
				e.State, e.updated, e.confirmed = neigh.Reachable, time.Now(), time.Now()
				time.AfterFunc(10*time.Second, func() {
					b.change(func() { all(down(one), join(good(two)))(b) })
				})
			}), wait: 2 * time.Minute, want: two, within: thenAfter + 16*time.Second,
			events: []Event{Silent, Recovered, Moved}, cause: Stale,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.hosts == nil {
					tt.hosts = hosts{good(one)}
				}
				config := func(c *Config) {
					if tt.config != nil {
						tt.config(c)
					}
				}
				b := newBench(tt.hosts, config)
				b.settle(t)
				b.change(func() { tt.breaks(b) })
				broken := time.Now()
				if tt.then != nil {
					time.AfterFunc(thenAfter, func() { b.change(func() { tt.then(b) }) })
				}
				if tt.within == 0 {
					rest(max(tt.wait, 30*time.Second))
				} else if took := when(max(tt.wait, 30*time.Second), func() bool {
					_, repairs := b.seen()
					return b.named() == mac(tt.want) && (tt.cause == "" || len(repairs) > 0)
				}); took > tt.within {
					t.Errorf("repaired in %v, want it within %v", took, tt.within)
				}
				rest(max(5*time.Second, tt.wait-time.Since(broken)))
				if when(10*time.Second, func() bool { // a trial may be under way; and nobody is named who is silent for long
					return b.named() == mac(tt.want) || b.named() == (neigh.LLAddr{}) && b.host(mac(tt.want)).down
				}) == never {
					t.Errorf("the entry names %s, want %s", b.named(), mac(tt.want))
				}
				b.wantEvents(t, tt.events...)
				if tt.log != "" && len(b.lines(tt.log)) == 0 {
					t.Errorf("log %q, want %s", b.lines(""), tt.log)
				}
				if tt.cause == "" {
					b.wantRepairs(t)
				} else {
					b.wantRepairs(t, tt.cause)
				}
			})
		})
	}
}

// The holder misses three requests, 0.3 s apart, and who answers after that is tried
// at once.
func TestSilentHolderIsReplacedInTime(t *testing.T) {
	for _, lost := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d broadcasts lost", lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.settle(t)
				b.change(func() {
					b.host(mac(1)).down = true
					b.hosts = append(b.hosts, &host{lladdr: mac(2), proves: true, delay: 4 * ms, lose: lost})
				})
				broken := b.now()
				took := when(10*time.Second, func() bool { return b.named() == mac(2) })
				var asked time.Duration
				b.change(func() { asked = b.asks[slices.IndexFunc(b.asks, func(a ask) bool { return a.at >= broken })].at })
				want := asked - broken + time.Duration(misses+lost)*missGap + 4*ms + othersWithin
				if took < want-ms || took > want+10*ms {
					t.Errorf("it took %v, %v of them until the holder was asked next, want %v", took, asked-broken, want)
				}
				rest(time.Second)
				if len(b.took) != 1 || b.took[0] > time.Duration(misses+lost)*missGap+othersWithin+11*ms {
					t.Fatalf("the log says that it took %v", b.took)
				}
				line := fmt.Sprintf(`level=INFO msg="vip moved" vip=10.0.0.100 event=moved device=eth0 old_lladdr=%s new_lladdr=%s cause=stale took=%v`,
					mac(1), mac(2), b.took[0].Round(ms))
				if len(b.lines(line+"\n")) != 1 {
					t.Errorf("log %q, want %s", b.lines(""), line)
				}
			})
		})
	}
}

// When the VIP is gone, all nodes ask for it at once, and then less and less.
func TestNobodyAnswers(t *testing.T) {
	const nodes = 150
	synctest.Test(t, func(t *testing.T) {
		benches := make([]*bench, nodes)
		for i := range benches {
			benches[i] = newBench([]*host{good(1)})
			benches[i].start(t)
		}
		rest(10 * time.Second)
		since := benches[0].now()
		for _, b := range benches {
			b.change(func() { b.hosts[0].down = true })
		}
		rest(10 * time.Minute)
		var asked [600]int // in each second
		var last []time.Duration
		for _, b := range benches {
			all := b.broadcasts(since)
			for _, at := range all {
				asked[int((at-since)/time.Second)%len(asked)]++
			}
			for i := len(all) - 4; i < len(all); i++ {
				last = append(last, all[i]-all[i-1])
			}
		}
		// So many seconds together, because of chance and of the steps.
		const together = 15
		for s := 15; s+together <= len(asked); s += together {
			n := 0
			for _, a := range asked[s : s+together] {
				n += a
			}
			step := askEarly
			if s > int((youngFor+askEarly)/time.Second) {
				step = askLate
			}
			if limit := nodes * together * 13 / 10 / int(step/time.Second); n > limit {
				t.Errorf("%d broadcasts in seconds %d to %d, want %d at most", n, s, s+together, limit)
			}
		}
		for _, d := range last {
			if d < askLate*4/5 || d > askLate+2*interval {
				t.Errorf("%v between two of the last broadcasts", d)
			}
		}
		benches[0].wantEvents(t, Silent)
	})
}

// The holder that nobody heard comes back, and the kernel notices by itself.
func TestHealedByItself(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(mac(n).String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.settle(t)
				b.change(func() { b.hosts[0].down = true })
				rest(2 * time.Minute) // the next attempt is far off
				b.wantEvents(t, Silent)
				b.change(func() { b.hosts = []*host{{lladdr: mac(n), proves: true, delay: ms, noBroadcast: true}} }) // so the watch does not find it
				b.set(func(e *entry) { e.LLAddr, e.State, e.confirmed = mac(n), neigh.Reachable, time.Now() })
				want := []Event{Silent, Recovered}
				if n != 1 {
					want = []Event{Silent, Moved, Recovered}
				}
				if took := when(time.Minute, func() bool { return b.count(Recovered) > 0 }); took > 3*time.Second {
					t.Errorf("noticed after %v", took)
				}
				rest(3 * time.Second) // until it is published: everybody may be asked first
				b.wantEvents(t, want...)
				b.wantRepairs(t)
				if s := b.w.Status()[0]; s.LLAddr != mac(n).String() || time.Since(s.Verified) > 5*time.Second {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// An entry without an address is resolved by the kernel, and found by the watch.
func TestUnresolved(t *testing.T) {
	tests := []struct {
		name   string
		state  neigh.State
		within time.Duration
	}{
		{"failed", neigh.Failed, interval},
		{"incomplete", neigh.Incomplete, 2 * interval}, // the kernel is given one interval to find it
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.settle(t)
				b.change(func() { b.hosts = []*host{good(2)} })
				b.set(func(e *entry) { e.State = tt.state })
				if took := when(10*time.Second, func() bool { return b.named() == mac(2) }); took > tt.within+misses*missGap+missGap+10*ms {
					t.Errorf("repaired after %v", took)
				}
				rest(time.Second)
				b.wantEvents(t, Moved)
				b.wantRepairs(t, Stale)
			})
		})
	}
}

// Nobody has sent anything to a VIP whose entry does not exist: that is no
// trouble, and no reason to ask everybody all the time.
func TestIdleConnectionWithoutEntry(t *testing.T) {
	for _, dry := range []bool{false, true} {
		t.Run(fmt.Sprintf("dry run %v", dry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)}, func(c *Config) { c.DryRun = dry })
				b.dial(theVIP)
				b.start(t)
				rest(10 * time.Second)
				b.change(func() { delete(b.entries, key) })
				since := b.now()
				rest(10 * time.Minute)
				if n := len(b.broadcasts(since)); n > 25 {
					t.Errorf("everybody was asked %d times in 10 minutes, want about once a minute", n)
				}
				b.wantEvents(t)
			})
		})
	}
}

// Reading the entry can fail for a moment. That says nothing about its holder.
func TestEntryCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1), {lladdr: mac(2), proves: true, api: refuses}})
		b.host(mac(2)).delay = 500 * time.Microsecond // it answers first
		b.settle2(t)
		since := b.now()
		b.change(func() { b.getErr = neigh.ErrTimeout })
		rest(3 * time.Minute)
		if got := b.writes(since); len(got) > 0 || len(b.broadcasts(since)) > 0 {
			t.Errorf("%d broadcasts, and %q", len(b.broadcasts(since)), got)
		}
		b.change(func() { b.getErr = nil })
		rest(3 * time.Second)
		if b.named() != mac(1) {
			t.Error("the entry was moved to another holder, though its own answers")
		}
		if b.count(Moved) > 0 {
			t.Errorf("events %v", b.events)
		}
	})
}

// Several hosts answer for a VIP that has no entry. Nothing is written, and so
// nothing has moved.
func TestNoEntryNoMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1), good(2)}, func(c *Config) { c.Checker = nil }) // which would have the kernel make one
		b.start(t)
		rest(10 * time.Second)
		b.change(func() { delete(b.entries, key) })
		b.change(func() {
			b.asking = func(shield.Question) { // now one is faster, now the other
				b.change(func() { b.hosts[0].delay, b.hosts[1].delay = 3*ms-b.hosts[0].delay, 1500*time.Microsecond })
			}
		})
		rest(30 * time.Minute)
		if b.count(Moved) > 0 || len(b.repairs) > 0 {
			t.Errorf("events %v, repairs %v", b.events, b.repairs)
		}
		if n := b.count(Duplicate); n != 1 {
			t.Errorf("the duplicate was said %d times", n)
		}
	})
}

// settle2 is settle where several hosts answer.
func (b *bench) settle2(t *testing.T) (stop func()) {
	t.Helper()
	b.kubelet(t, time.Second)
	stop = b.start(t)
	rest(firstWithin + time.Second)
	return stop
}

// A device or a route that cannot be looked up for a moment has not gone.
func TestPlaceCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		failing := false
		b.placeErr = func(netip.Addr) error {
			if failing {
				return neigh.ErrTimeout
			}
			return nil
		}
		b.settle(t)
		b.change(func() { failing = true })
		rest(30 * time.Second)
		b.change(func() { failing = false })
		rest(3 * time.Second)
		b.wantEvents(t)
		if s := b.w.Status()[0]; !s.OnLink {
			t.Errorf("status %+v", s)
		}
	})
}

// The way to the VIP is gone while its device is down, and back soon after.
func TestRouteComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		gone := false
		b.placeErr = func(netip.Addr) error {
			if gone {
				return neigh.ErrGone
			}
			return nil
		}
		b.settle(t)
		b.change(func() { gone = true })
		if took := when(time.Minute, func() bool { return b.count(NotOnLink) > 0 }); took > wayEvery+interval {
			t.Errorf("noticed after %v", took)
		}
		b.change(func() { gone = false })
		if took := when(time.Minute, func() bool { return b.w.Status()[0].OnLink }); took > 2*interval {
			t.Errorf("it is watched again %v after its route came back", took)
		}
	})
}

// A broadcast that was not sent has renewed nothing.
func TestResolvedIsTold(t *testing.T) {
	tests := []struct {
		name  string
		fault func(*bench)
	}{
		{"the shield cannot be raised", func(b *bench) { b.setErr = errFake }},
		{"nothing can be sent", func(b *bench) {
			b.asking = func(q shield.Question) { // to everybody
				b.change(func() {
					if b.askErr = nil; q.LLAddr.Len() == 0 {
						b.askErr = errFake
					}
				})
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.settle(t)
				b.change(func() { tt.fault(b) })
				b.record(func() { b.resolved = 0 })
				rest(5 * time.Minute)
				if b.resolved > 0 {
					t.Errorf("the sweep was told %d times that the entry was renewed, though nobody was asked", b.resolved)
				}
			})
		})
	}
}

// An agent that starts, as in a rolling update, finds the entry as old as the one
// before it has left it, and renews it before the interval is over.
func TestRenewedByTheNextAgent(t *testing.T) {
	for range 20 { // whatever the jitter
		synctest.Test(t, func(t *testing.T) {
			const bound = 30 * time.Second
			b := newBench([]*host{good(1)}, func(c *Config) { c.Timing = policy.NewTiming(bound, bound/15) })
			b.entries[key].updated = time.Now().Add(-24 * time.Second)
			b.start(t)
			for range 600 {
				rest(100 * ms)
				if e, err := b.Get(key); err != nil || e.Updated > bound {
					t.Fatalf("the entry was updated %v ago, %v", e.Updated, err)
				}
			}
		})
	}
}

// What the watch cannot renew is the sweep's.
func TestClaims(t *testing.T) {
	unable := func(b *bench) { b.askErr = errFake }
	tests := []struct {
		name   string
		change func(*bench)
		want   bool
	}{
		{"a VIP that works", func(*bench) {}, true},
		{"one for which nobody answers", func(b *bench) { b.hosts[0].down = true }, false},
		{"PERMANENT", func(b *bench) { b.entries[key].State = neigh.Permanent }, false},
		{"ext_learned", func(b *bench) { b.entries[key].Flags = neigh.FlagExtLearned }, false},
		{"there is no entry", func(b *bench) { delete(b.entries, key) }, false},
		{"held here", func(b *bench) { b.places[theVIP] = neigh.Place{Here: true, Local: true} }, false},
		{"behind a gateway", func(b *bench) { b.places[theVIP] = neigh.Place{Gateway: source} }, false},
		{"CAP_NET_RAW is taken away", func(b *bench) { b.askErr = neigh.ErrPermission }, false},
		{"a device on which nobody can be asked", unable, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.start(t)
				if got := b.w.Claims(); len(got) > 0 {
					t.Errorf("claims %v before the first look", got)
				}
				rest(10 * time.Second)
				if got := b.w.Claims(); !slices.Equal(got, []neigh.Key{key}) {
					t.Errorf("claims %v, want the VIP's entry", got)
				}
				b.change(func() { tt.change(b) })
				rest(time.Minute)
				if got := b.w.Claims(); (len(got) > 0) != tt.want {
					t.Errorf("claims %v", got)
				}
			})
		})
	}
}

// What somebody else owns is reported, and never written, whatever happens to
// the VIP.
func TestPinned(t *testing.T) {
	for name, pin := range map[string]func(*entry){"PERMANENT": permanent, "ext_learned": extLearned} {
		for what, breaks := range map[string]func(*bench){
			"works": func(*bench) {},
			"moves": func(b *bench) { b.hosts = []*host{good(2)} },
			"fails": func(b *bench) { b.hosts = []*host{zombie(1, refuses), good(2)} },
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench([]*host{good(1)})
					b.entries[key].confirmed = time.Now().Add(time.Hour)
					pin(b.entries[key])
					b.kubelet(t, time.Second)
					b.start(t)
					rest(10 * time.Second)
					pinned := map[string]int{"PERMANENT": 1}[name] // what its owner keeps current is not
					if b.count(Pinned) != pinned || len(b.events) != pinned {
						t.Errorf("events %v", b.events)
					}
					b.change(func() { breaks(b) })
					rest(10 * time.Minute)
					if b.named() != mac(1) || len(b.ops) > 0 || len(b.broadcasts(0)) > 0 {
						t.Errorf("the entry names %s, %d broadcasts, and %v", b.named(), len(b.broadcasts(0)), b.ops)
					}
					if b.count(Pinned) != pinned || b.count(Moved) > 0 || len(b.lines(`level=WARN msg="vip pinned" vip=10.0.0.100 event=pinned device=eth0 old_lladdr=02:00:00:00:00:01 reason=`+strings.ToLower(name)+"\n")) != pinned {
						t.Errorf("events %v", b.events)
					}
					if what == "moves" && b.count(Silent) != 1 {
						t.Errorf("events %v, want it silent once", b.events)
					}
				})
			})
		}
	}
}

// An entry can become somebody else's at any moment.
func TestPinnedMeanwhile(t *testing.T) {
	tests := []struct {
		name   string
		breaks func(*bench, func(*entry))
	}{
		{"as everybody is asked for a silent holder", func(b *bench, pin func(*entry)) {
			b.hosts = []*host{good(2)}
			b.asking = func(q shield.Question) {
				if q.LLAddr.Len() == 0 {
					b.set(pin)
				}
			}
		}},
		{"as everybody is asked under the shield", func(b *bench, pin func(*entry)) {
			b.hosts = []*host{zombie(1, refuses), good(2)}
			b.asking = func(q shield.Question) {
				if q.LLAddr.Len() == 0 {
					b.set(pin)
				}
			}
		}},
		{"in a trial", func(b *bench, pin func(*entry)) {
			b.hosts = []*host{zombie(1, refuses), zombie(2, refuses), zombie(3, refuses)}
			b.checking = func(holder neigh.LLAddr) {
				if holder != mac(1) {
					b.set(pin)
				}
			}
		}},
		{"while it is checked", func(b *bench, pin func(*entry)) {
			b.hosts = []*host{zombie(1, refuses), good(2)}
			b.checking = func(neigh.LLAddr) { b.set(pin) }
		}},
	}
	for _, tt := range tests {
		for name, pin := range map[string]func(*entry){"PERMANENT": permanent, "ext_learned": extLearned} {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench([]*host{good(1)})
					b.settle(t)
					before := -1
					b.change(func() {
						tt.breaks(b, func(e *entry) {
							if before < 0 {
								before = len(b.ops)
							}
							pin(e)
						})
					})
					rest(5 * time.Minute)
					if before < 0 {
						t.Fatal("it never came to that")
					}
					if got := b.ops[before:]; len(got) > 0 {
						t.Errorf("%v after the entry had become somebody else's", got)
					}
					if name == "PERMANENT" && b.count(Pinned) == 0 {
						t.Errorf("events %v", b.events)
					}
					if b.count(Moved) > 0 {
						t.Errorf("events %v, repairs %v of an entry that never moved", b.events, b.repairs)
					}
				})
			})
		}
	}
}

// A repair that the kernel refuses is none.
func TestWriteRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		b.change(func() {
			b.replaceErr = errFake
			b.hosts = []*host{good(2)}
			b.locktime = time.Hour
		})
		since := b.now()
		rest(10 * time.Minute)
		// The kernel may resolve an entry that has failed by itself.
		if moved := b.named() == mac(2); (b.count(Moved) > 0) != moved || !moved && len(b.repairs) > 0 {
			t.Errorf("%d moves and %d repairs of an entry that names %s", b.count(Moved), len(b.repairs), b.named())
		}
		if n := len(b.broadcasts(since)); n > 80 {
			t.Errorf("%d broadcasts in 10 minutes of no avail", n)
		}
	})
}

// A dry run changes nothing, and bothers nobody but the holder.
func TestDryRun(t *testing.T) {
	for name, hosts := range map[string][]*host{
		"works": {good(1)}, "moves": {good(2)}, "fails": {zombie(1, frozen), good(2)}, "gone": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)}, func(c *Config) { c.DryRun = true })
				b.settle(t)
				conns := len(b.conns)
				b.change(func() { b.hosts = hosts })
				rest(10 * time.Minute)
				if len(b.ops) > 0 || len(b.broadcasts(0)) > 0 || len(b.w.Claims()) > 0 {
					t.Errorf("%v, %d broadcasts, claims %v", b.ops, len(b.broadcasts(0)), b.w.Claims())
				}
				for _, c := range b.conns[:min(conns, len(b.conns))] {
					if c.destroyed {
						t.Error("a connection was closed")
					}
				}
				switch name {
				case "works":
					b.wantEvents(t)
				case "fails":
					b.wantEvents(t, Failing)
				default:
					b.wantEvents(t, Silent)
				}
			})
		})
	}
}

// Without CAP_NET_RAW nobody can be asked. What connections show is found all the
// same.
func TestBlind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.dialErr = neigh.ErrPermission
		b.kubelet(t, time.Second)
		b.start(t)
		rest(10 * time.Minute)
		b.wantEvents(t)
		if n := len(b.lines(`level=WARN msg="CAP_NET_RAW is missing: the holders of VIPs cannot be asked, and a move is noticed by their connections alone"`)); n != 1 || len(b.asks) > 0 {
			t.Errorf("said %d times, and asked %d times", n, len(b.asks))
		}
		if s := b.w.Status()[0]; time.Since(s.Verified) > 5*time.Second {
			t.Errorf("status %+v of a VIP to which connections work", s)
		}
		b.change(func() { b.hosts[0].api = refuses })
		rest(time.Minute)
		b.wantEvents(t, Failing)
		if len(b.ops) > 0 || len(b.w.Claims()) > 0 {
			t.Errorf("%v, claims %v", b.ops, b.w.Claims())
		}
	})
}

// The agent is stopped while traffic is at the mercy of a holder on trial.
func TestStoppedInATrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		stop := b.settle(t)
		trial := make(chan struct{})
		b.change(func() {
			b.hosts = []*host{zombie(1, refuses), zombie(2, frozen)}
			b.checking = func(holder neigh.LLAddr) {
				if holder == mac(2) {
					close(trial)
				}
			}
		})
		<-trial
		if b.named() != mac(2) {
			t.Fatal("it is not on trial")
		}
		rest(500 * ms)
		at := time.Now()
		stop()
		if took := time.Since(at); took > 10*ms || b.named() != mac(1) {
			t.Errorf("%v later the entry names %s", took, b.named())
		}
		b.wantRepairs(t)
	})
}

// One that announces itself during the trial of another is newer than what the
// round of questions knows.
func TestAnnouncedInATrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		b.change(func() {
			b.hosts = []*host{zombie(1, refuses), zombie(2, frozen)}
			b.checking = func(holder neigh.LLAddr) {
				if holder == mac(2) {
					b.change(func() { b.hosts = []*host{zombie(1, refuses), good(3)} })
					b.announces(mac(3))
				}
			}
		})
		if took := when(time.Minute, func() bool { return b.named() == mac(3) }); took == never {
			t.Fatal("it was not announced")
		}
		since := b.now()
		rest(2500 * ms)
		if got := b.writes(since); b.named() != mac(3) {
			t.Errorf("%q: the entry names %s, want the new holder", got, b.named())
		}
	})
}

// One that does not serve announces itself again in the middle of a trial, as
// kube-vip does every 3 s: the trial is made once more, at once.
func TestAnnouncedAgainInATrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		var mu sync.Mutex
		var trials []time.Duration
		tried := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(trials)
		}
		b.change(func() {
			b.hosts = []*host{zombie(1, refuses), good(2)}
			b.checking = func(holder neigh.LLAddr) {
				if holder != mac(2) {
					return
				}
				mu.Lock()
				trials = append(trials, b.now())
				first := len(trials) == 1
				mu.Unlock()
				if first {
					b.announces(mac(1))
				}
			}
		})
		if took := when(time.Minute, func() bool { return len(tried()) > 1 }); took == never {
			t.Fatal("no second trial")
		}
		at := tried()
		if again := at[1] - at[0]; again > 100*ms {
			t.Errorf("tried again after %v", again)
		}
		rest(3 * time.Second)
		if n := len(tried()); b.named() != mac(2) || n != 2 {
			t.Errorf("the entry names %s after %d trials", b.named(), n)
		}
	})
}

// A host that is deaf to unicast requests, as some proxies are, is no reason to
// ask everybody every few seconds.
func TestHolderAnswersBroadcastsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{{lladdr: mac(1), proves: true, delay: ms, noUnicast: true}})
		b.kubelet(t, time.Second)
		b.start(t)
		rest(time.Hour)
		if n := len(b.broadcasts(0)); n > 200 {
			t.Errorf("everybody was asked %d times in an hour", n)
		}
		if b.count(Moved) > 0 || b.count(Silent) > 0 {
			t.Errorf("events %v", b.events)
		}
	})
}

// An API server that is up and down all the time, beside a holder that does not
// serve, is checked and others are tried, but not every few seconds for ever.
func TestFlappingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		b.change(func() { b.hosts = append(b.hosts, zombie(2, frozen)) })
		go func() {
			for i := 0; pace.Sleep(t.Context(), 4*time.Second); i++ {
				b.change(func() { b.hosts[0].api = []api{refuses, serves}[i%2] })
			}
		}()
		since := b.now()
		rest(time.Hour)
		trials := 0
		for _, h := range b.checked() {
			if h == mac(2) {
				trials++
			}
		}
		t.Logf("%d broadcasts, %d checks, %d trials", len(b.broadcasts(since)), len(b.checked()), trials)
		if trials > 180 || len(b.checked()) > 500 {
			t.Errorf("%d trials and %d checks in an hour: traffic was with a host that does not serve for %v", trials, len(b.checked()), time.Duration(trials)*2*time.Second)
		}
	})
}

// While the VIP cannot be checked, its entry still does not grow old.
func TestRenewedWhileItCannotBeChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		b.change(func() { b.hosts[0].api, b.unknown = frozen, errFake })
		rest(2 * time.Minute)
		for range 10 {
			b.record(func() { b.resolved = 0 })
			rest(5 * time.Minute)
			if len(b.w.Claims()) > 0 && b.resolved == 0 {
				t.Fatal("it is claimed, and nobody was asked for 5 minutes")
			}
		}
	})
}

// A flood of answers costs a bounded number of trials, log lines and bytes.
func TestFlood(t *testing.T) {
	const strangers = 10000
	flood := func(b *bench) {
		// Every time other ones.
		base := 1000
		b.asking = func(q shield.Question) {
			b.change(func() {
				if q.LLAddr.Len() > 0 {
					return
				}
				b.hosts = b.hosts[:1]
				for range perAsk - 1 {
					b.hosts = append(b.hosts, &host{lladdr: mac(base), delay: ms})
					base++
				}
				base = 1000 + (base-1000)%strangers
			})
		}
	}
	tests := []struct {
		name   string
		breaks func(*bench)
	}{
		{"answers beside a holder that serves", func(*bench) {}},
		{"answers beside one that does not", func(b *bench) { b.hosts[0].api = refuses }},
		{"answers beside one that is silent", func(b *bench) { b.hosts[0].down = true }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.settle(t)
				b.change(func() { flood(b); tt.breaks(b) })
				since := b.now()
				rest(time.Hour)
				b.bounded(t, since, time.Hour)
			})
		})
	}
	t.Run("announcements", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench([]*host{good(1)})
			b.settle(t)
			since := b.now()
			for i := range strangers {
				b.announces(mac(1000 + i))
				rest(100 * ms)
			}
			b.bounded(t, since, b.now()-since)
			// It is over.
			took := when(5*time.Minute, func() bool { return b.named() == mac(1) })
			if took > 20*time.Second { // the budget is spent
				t.Errorf("the holder is used again after %v", took)
			}
		})
	})
}

// bounded checks what a flood has cost.
func (b *bench) bounded(t *testing.T, since, d time.Duration) {
	t.Helper()
	minutes := int(d / time.Minute)
	if n := len(b.checked()); n > 4*maxVIPs+int(d/(5*time.Second))+1 {
		t.Errorf("%d checks in %v", n, d)
	}
	if n := len(b.broadcasts(since)); n > 6*maxVIPs+int(2*d/time.Second) {
		t.Errorf("%d broadcasts in %v", n, d)
	} else {
		t.Logf("%d broadcasts and %d checks in %v", n, len(b.checks), d)
	}
	lines := b.lines("")
	if n := len(lines); n > report.DiaryLines+int(d/report.DiaryEarn)+minutes {
		t.Errorf("%d lines of log in %v", n, d)
	}
	for _, l := range lines {
		if len(l) > 5000 {
			t.Errorf("a line of %d bytes", len(l))
		}
	}
	v := b.w.watches[place{addr: theVIP}]
	if n := max(len(v.holders.rivals), len(v.holders.compared), len(v.attempts.tried)); n > maxKnown+1 || len(v.tracker.holders) > 3*perAsk {
		t.Errorf("%d hosts are remembered, and %d holders", n, len(v.tracker.holders))
	}
}

// A VIP that is somewhere else is not asked for.
func TestNotOnLink(t *testing.T) {
	tests := []struct {
		name  string
		place neigh.Place
		err   error
		want  Event
		log   string // the end of the one line
	}{
		{name: "held here", place: neigh.Place{Here: true, Local: true, Link: neigh.Link{Name: "lo"}}, want: HeldHere,
			log: `level=INFO msg="vip held_here" vip=10.0.0.100 event=held_here device=lo`},
		{name: "on kube-ipvs0", place: neigh.Place{Local: true, Link: neigh.Link{Name: "kube-ipvs0", NoARP: true}}, want: NotOnLink,
			log: `device=kube-ipvs0 reason="local on a device without address resolution"`},
		{name: "behind a gateway", place: neigh.Place{Gateway: source, Link: neigh.Link{Index: eth0, Name: "eth0"}}, want: NotOnLink,
			log: `level=WARN msg="vip not_on_link" vip=10.0.0.100 event=not_on_link device=eth0 reason="behind 10.0.0.1"`},
		{name: "by a tunnel", place: neigh.Place{Link: neigh.Link{Index: eth0, Name: "wg0", NoARP: true}}, want: NotOnLink,
			log: `device=wg0 reason="wg0 does not resolve addresses"`},
		{name: "no route", err: fmt.Errorf("placing %s: %w", theVIP, neigh.ErrGone), want: NotOnLink,
			log: fmt.Sprintf(`reason="placing 10.0.0.100: %v"`, neigh.ErrGone)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)}, func(c *Config) { c.Checker = nil })
				b.places[theVIP] = tt.place
				b.placeErr = func(netip.Addr) error { return tt.err }
				b.kubelet(t, time.Second)
				b.start(t)
				rest(10 * time.Minute)
				b.wantEvents(t, tt.want)
				if lines := b.lines(""); len(lines) != 1 || !strings.HasSuffix(lines[0], tt.log+"\n") {
					t.Errorf("log %q, want one line that ends with %s", lines, tt.log)
				}
				if len(b.asks)+len(b.ops)+len(b.checks) > 0 {
					t.Errorf("asks %v, ops %v, checks %v", b.asks, b.ops, b.checks)
				}
				s := b.w.Status()[0]
				if s.OnLink || s.LLAddr != "" || s.HeldHere != (tt.want == HeldHere) {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// The VIP is reached by another device from now on.
func TestAnotherDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		other := neigh.Key{Addr: theVIP, Index: eth1}
		b.change(func() {
			e := *b.entries[key]
			e.Key, e.LLAddr = other, mac(2)
			b.hosts = append(b.hosts, good(2))
			b.entries[other] = &e
			b.places[theVIP] = onLink(eth1)
		})
		rest(wayEvery + 2*interval)
		if b.count(Moved)+b.count(Silent) > 0 {
			t.Errorf("events %v", b.events)
		}
		if got := b.w.Claims(); !slices.Equal(got, []neigh.Key{other}) {
			t.Errorf("claims %v", got)
		}
		if s := b.w.Status()[0]; s.Device != "eth1" || s.LLAddr != mac(2).String() {
			t.Errorf("status %+v", s)
		}
	})
}

// What a check found out about a holder on one device says nothing about the holder on
// another one that the VIP is reached by now.
func TestAnotherDeviceServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		b.change(func() { b.hosts[0].api = refuses })
		if when(2*time.Minute, func() bool { return b.count(Failing) == 1 }) == never {
			t.Fatal("it is not known to fail")
		}
		other := neigh.Key{Addr: theVIP, Index: eth1}
		b.change(func() {
			e := *b.entries[key]
			e.Key, e.LLAddr, e.State = other, mac(2), neigh.Reachable
			b.hosts = append(b.hosts, good(2))
			b.entries[other] = &e
			b.places[theVIP] = onLink(eth1)
		})
		rest(lonelySpread + interval)
		if n := b.count(Failing); n != 1 {
			t.Errorf("said to fail %d times: %v", n, b.events)
		}
	})
}

// After a repair the connections of the node are new ones, and the next failure is
// noticed as soon as the first was.
func TestFailsAgainAfterARepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		b.change(func() { b.hosts = []*host{zombie(1, refuses), good(2)} })
		if took := when(10*time.Second, func() bool { return b.named() == mac(2) }); took == never {
			t.Fatal("not repaired")
		}
		rest(5 * time.Second)
		b.change(func() { b.hosts[0].api, b.hosts[1].api = serves, frozen })
		if took := when(time.Minute, func() bool { return b.named() == mac(1) }); took > 15*time.Second {
			t.Errorf("the second failure was repaired after %v", took)
		}
	})
}

// A server that takes its time for more than a minute, and then freezes, is left as
// soon as one that has always been quick.
func TestFreezesAfterSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.start(t)
		c := b.dial(theVIP)
		for range 12 { // each request is answered after 6 s
			b.change(func() { c.sent, c.waits = time.Now(), true })
			rest(6 * time.Second)
			b.change(func() { c.received, c.waits, c.Received = time.Now(), false, c.Received+1 })
			rest(500 * ms)
		}
		b.wantEvents(t)
		b.change(func() {
			b.hosts = []*host{zombie(1, frozen), good(2)}
			c.sent, c.waits = time.Now(), true
		})
		if took := when(2*time.Minute, func() bool { return b.named() == mac(2) }); took > 15*time.Second {
			t.Errorf("repaired after %v", took)
		}
	})
}

// Log lines are bounded, and those that were not written are counted.
func TestMayLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		v := newWatch(b.w, Target{Addr: theVIP})
		for range 1000 {
			v.happened(Change{Event: Moved})
		}
		if n := len(b.lines("moved")); n != report.DiaryLines {
			t.Errorf("%d lines at once, want %d", n, report.DiaryLines)
		}
		rest(report.DiaryEarn)
		v.happened(Change{Event: Contested, Holders: []neigh.LLAddr{mac(1)}, Reason: "why", Cause: Stale, Took: time.Second})
		if got := b.lines("suppressed=980"); len(got) != 1 || len(b.events) != 1001 {
			t.Errorf("%q, %d events", got, len(b.events))
		}
	})
}

// Two VIPs fail at once: the budget has room for both.
func TestSeveralVIPs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var addrs []netip.Addr
		for i := range maxVIPs {
			addrs = append(addrs, netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)}))
		}
		b := newBench([]*host{good(1)}, func(c *Config) { c.Given = given(addrs...) })
		for _, a := range addrs {
			e := *b.entries[key]
			e.Addr = a
			b.entries[e.Key] = &e
		}
		b.start(t)
		rest(10 * time.Second)
		b.change(func() { b.hosts = []*host{good(2)} })
		rest(4 * time.Second)
		b.change(func() {
			for k, e := range maps.All(b.entries) {
				if e.LLAddr != mac(2) {
					t.Errorf("%s still names %s", k.Addr, e.LLAddr)
				}
			}
		})
	})
}

// All sockets of the machine are listed once in a round, for however many VIPs:
// what is in the list is looked up one by one.
func TestConnectionsAreListedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, func(c *Config) { c.Auto, c.Given = true, given(addrs(100, 101)...) })
		e := *b.entries[key]
		e.Addr = addr(101)
		b.entries[e.Key] = &e
		b.kubelet(t, 10*time.Second)
		b.dial(addr(101))
		b.start(t)
		rest(time.Hour)
		var lists, checks int
		b.change(func() { lists = b.lists })
		if want := int(time.Hour/roundEvery) + 1 + 2; lists > want { // and when each has arrived
			t.Errorf("listed %d times in an hour, want %d", lists, want)
		}
		c := b.dial(addr(101))
		b.change(func() { c.Retransmits = 2 })
		if took := when(2*time.Minute, func() bool {
			b.change(func() { checks = len(b.checks) })
			return checks > 0
		}); took > roundEvery+interval+lonelySpread+ms {
			t.Errorf("a new connection that retransmits was seen after %v", took)
		}
	})
}

// Another host answers everybody's question later than the watch waits. The kernel moves
// the entry after locktime, or where it is 0: it is back before a packet goes. What was
// announced in that time stays, until it has shown what it is.
func TestSecondHolderAnswersLate(t *testing.T) {
	const for10 = 10 * time.Minute
	for _, tt := range []struct {
		name     string
		locktime time.Duration
		delay    time.Duration
		counted  bool
	}{
		{"after locktime", time.Second, 1200 * ms, true},
		{"without locktime", 0, 700 * ms, true},
		{"without locktime, slow", 0, 2 * time.Second, true},
		{"within locktime", time.Second, 700 * ms, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.locktime = tt.locktime
				stop := b.settle(t)
				other := zombie(2, frozen)
				other.lateToAll = tt.delay
				b.change(func() { b.hosts = append(b.hosts, other) })
				if d := b.wrong(1, for10); d > 0 {
					t.Errorf("the entry names the other for %v", d)
				}
				if rounds := len(b.broadcasts(b.now() - for10)); rounds < 5 || rounds > 30 {
					t.Errorf("everybody was asked %d times", rounds)
				}
				if tt.counted {
					b.wantEvents(t, Duplicate)
				} else {
					b.wantEvents(t)
				}
				stop()
			})
		})
	}
}

// What a round knows is outdated by an announcement, and by the watch's own writing.
func TestOnlyLateAnswersAreUndone(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*bench)
		back bool
	}{
		{"answered", func(b *bench) { b.set(func(e *entry) { e.LLAddr, e.State = mac(2), neigh.Reachable }) }, true},
		{"announced", func(b *bench) { b.announces(mac(2)) }, false},
		{"written as STALE", func(b *bench) { b.set(func(e *entry) { e.LLAddr, e.State = mac(2), neigh.Delay }) }, false},
		{"pinned", func(b *bench) { b.set(func(e *entry) { e.LLAddr, e.State = mac(2), neigh.Permanent }) }, false},
		{"somebody else's", func(b *bench) {
			b.set(func(e *entry) { e.LLAddr, e.State, e.Flags = mac(2), neigh.Reachable, neigh.FlagExtLearned })
		}, false},
		{"long after the round", func(b *bench) {
			rest(3 * time.Second)
			b.set(func(e *entry) { e.LLAddr, e.State = mac(2), neigh.Reachable })
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				stop := b.settle(t)
				asked := len(b.broadcasts(0))
				if when(5*time.Minute, func() bool { return len(b.broadcasts(0)) > asked }) == never {
					t.Fatal("everybody is never asked")
				}
				rest(600 * ms) // nobody waits for answers any more
				b.change(func() { b.hosts = append(b.hosts, zombie(2, frozen)) })
				tt.do(b)
				b.mu.Lock()
				var line *fakeLine
				for line = range b.network.lines {
				}
				b.mu.Unlock()
				line.announced()
				rest(5 * ms)
				if got := b.named() == mac(1); got != tt.back {
					t.Errorf("the entry names %s", b.named())
				}
				stop()
			})
		})
	}
}
