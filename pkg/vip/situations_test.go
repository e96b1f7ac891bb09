package vip

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// A virtual machine that stands still for a moment, ten times, beside one that
// answers ARP and serves nothing, does not lose the VIP to that one; and where it
// can be checked, nobody waits longer than a second, and a check where the other
// hangs, once it is back.
func TestStandsStillBesideAZombie(t *testing.T) {
	modes := map[string]func(*Config){
		"verified": func(*Config) {},
		"healthy":  func(c *Config) { c.OnConflict = Healthy },
		"report":   func(c *Config) { c.OnConflict = Report },
		"none":     func(c *Config) { c.Checker, c.OnConflict = nil, Report },
	}
	for mode, config := range modes {
		for _, known := range []bool{false, true} {
			for _, stun := range []time.Duration{1500 * ms, 4 * time.Second} {
				for what, a := range map[string]api{"refuses": refuses, "hangs": frozen} {
					name := strings.Join([]string{mode, stun.String(), what, map[bool]string{true: "known before", false: "new"}[known]}, ", ")
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							hosts := []*host{good(1)}
							z := zombie(2, a)
							z.delay = 500 * time.Microsecond // it answers first
							if known {
								hosts = append(hosts, z)
							}
							b := newBench(hosts, config)
							b.settle2(t)
							if known {
								rest(2 * time.Minute)
							} else {
								b.change(func() { b.hosts = append(b.hosts, z) })
							}
							for i := range 10 {
								rest(time.Duration(i) * 200 * ms)
								b.change(func() { b.hosts[0].down = true })
								rest(stun)
								b.change(func() { b.hosts[0].down = false })
								back := when(time.Minute, func() bool { return b.named() == mac(1) })
								if back > time.Second+10*ms {
									t.Errorf("stun %d: the entry named the zombie for %v after the holder was back", i, back)
								}
								rest(20 * time.Second)
								if b.named() != mac(1) {
									t.Fatalf("stun %d: the entry names the zombie", i)
								}
							}
						})
					})
				}
			}
		}
	}
}

// A holder that stands still when the agent is a few seconds old does not lose the VIP
// for a moment to a zombie that was there all the time.
func TestStandsStillSoonAfterTheStart(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			b := newBench([]*host{good(1), zombie(2, frozen)})
			b.kubelet(t, time.Second)
			b.start(t)
			rest(firstWithin + time.Second)
			b.standsStill(1)
			if d := b.wrong(1, rivalPatience-300*ms); d > 0 || len(b.checked()) > 0 {
				t.Errorf("the entry named the zombie for %v, and %d checks", d, len(b.checked()))
			}
			b.change(func() { b.hosts[0].down = false })
			if d := b.wrong(1, 20*time.Second); d > 0 {
				t.Errorf("then the entry named the zombie for %v", d)
			}
		})
	}
}

// Agents that start together, as after a power cut, ask everybody within 10 s and not in
// the same second, and compare two that answer later than that, and no more than N/30 of
// them in a second.
func TestAgentsThatStartTogether(t *testing.T) {
	const nodes, window = 300, 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		all := make([]*bench, nodes)
		for i := range all {
			all[i] = newBench([]*host{good(1), good(2)})
			all[i].start(t)
		}
		// grown returns by how much a sum over all nodes has grown since the last call.
		grown := func(of func(*bench) int) func() int {
			last := 0
			return func() int {
				now := 0
				for _, b := range all {
					now += of(b)
				}
				n := now - last
				last = now
				return n
			}
		}
		asked := grown(func(b *bench) int { return len(b.broadcasts(0)) })
		checked := grown(func(b *bench) int { return len(b.checked()) })
		for range 2 * window / time.Second {
			rest(time.Second)
			if n := asked(); n > nodes/5 {
				t.Errorf("%d of %d nodes ask everybody in a second", n, nodes)
			}
		}
		for i, b := range all {
			if first := b.broadcasts(0); len(first) == 0 || first[0] > firstWithin+10*ms {
				t.Fatalf("node %d asked everybody after %v", i, first)
			}
			if s := b.w.Status()[0]; s.Holders > 0 || b.count(Duplicate) > 0 { // an alert may be about it
				t.Fatalf("node %d says that there are %d holders before it knows whether they are one host", i, s.Holders)
			}
		}
		if n := checked(); n > 0 {
			t.Errorf("%d nodes compare the two in the first %v", n, 2*window)
		}
		sum := 0
		for range 2 * time.Minute / window {
			rest(window)
			n := checked()
			sum += n
			if limit := nodes / 30 * int(window/time.Second); n > limit*12/10 {
				t.Errorf("%d checks in %v, want %d at most", n, window, limit)
			}
		}
		if sum < nodes {
			t.Errorf("%d of %d nodes have compared the two", sum, nodes)
		}
	})
}

// A holder that is held against a zombie, and stands still, is not left to it.
func TestHeldHolderStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		for range 5 {
			b.change(func() { b.hosts[1].down = true })
			rest(4 * time.Second)
			b.change(func() { b.hosts[1].down = false })
			rest(20 * time.Second)
			if b.named() != mac(2) {
				t.Fatal("the entry names the zombie")
			}
		}
	})
}

// A host that did not serve, and comes back as the only holder, is found as soon as
// the one before it has been silent for longer than one that stands still.
func TestRejectedHolderComesBack(t *testing.T) {
	for i := range 40 {
		synctest.Test(t, func(t *testing.T) {
			b, _ := held(t)
			b.change(func() { b.hosts = []*host{good(2)} })
			rest(4*time.Second + time.Duration(i)*100*ms)
			b.change(func() { b.hosts = []*host{good(1)} })
			took := when(time.Minute, func() bool { return b.named() == mac(1) })
			if limit := rivalPatience + misses*missGap + interval; took > limit {
				t.Errorf("found after %v, want %v at most", took, limit)
			}
		})
	}
}

// Where no holder can be made to prove anything, one that nobody knew, and that
// answers alone, is followed once the kernel would have given up the old one; of
// several, and of one that was known, none is.
func TestFollowsAloneAnswererInTime(t *testing.T) {
	tests := []struct {
		name  string
		known []*host // beside the holder
		then  []*host
		want  int // 0: nobody
	}{
		{"a stranger alone", nil, []*host{good(2)}, 2},
		{"two strangers", nil, []*host{good(2), good(3)}, 0},
		{"one that was known", []*host{good(2)}, []*host{good(2)}, 0},
		{"one that was known, and a stranger", []*host{good(2)}, []*host{good(2), good(3)}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(slices.Concat([]*host{good(1)}, tt.known), func(c *Config) { c.Checker, c.OnConflict = nil, Report })
				b.kubelet(t, time.Second)
				b.start(t)
				rest(2 * time.Minute)
				since := b.now()
				b.change(func() { b.hosts = tt.then })
				took := when(7*time.Second, func() bool { return b.named() == mac(2) })
				if took != never {
					t.Errorf("followed after %v", took)
				}
				when(time.Minute, func() bool { return b.named() == mac(max(tt.want, 1)) && tt.want > 0 })
				rest(10 * time.Second)
				for _, w := range b.writes(since) {
					if strings.HasPrefix(w, "give") && !strings.HasSuffix(w, mac(1).String()) && tt.want == 0 {
						t.Errorf("the agent wrote %s", w)
					}
				}
				if tt.want > 0 && b.named() != mac(tt.want) {
					t.Errorf("the entry names %s, want %s", b.named(), mac(tt.want))
				}
			})
		})
	}
}

// One API server that hangs, and has no rival, is not checked by all nodes at
// once: by no more than N/30 of them in a second.
func TestNoHerdOfChecks(t *testing.T) {
	const nodes = 300
	synctest.Test(t, func(t *testing.T) {
		all := make([]*bench, nodes)
		var at []time.Duration // in order: the time is everybody's
		start := time.Now()
		for i := range all {
			all[i] = newBench([]*host{good(1)})
		}
		turn := make(chan struct{}, 1)
		for _, b := range all {
			b.checking = func(neigh.LLAddr) {
				turn <- struct{}{}
				at = append(at, time.Since(start))
				<-turn
			}
			b.kubelet(t, time.Second)
			b.start(t)
		}
		rest(10 * time.Second)
		for _, b := range all {
			b.change(func() { b.hosts[0].api = frozen })
		}
		rest(3 * time.Minute)
		slices.Sort(at)
		if len(at) < 2*nodes {
			t.Errorf("%d checks by %d nodes in 3 minutes: nobody tells people", len(at), nodes)
		}
		const window = 10 * time.Second // by chance some seconds have more than others
		most := 0
		for i, j := 0, 0; i < len(at); i++ {
			for at[i]-at[j] >= window {
				j++
			}
			most = max(most, i-j+1)
		}
		if limit := nodes / 30 * int(window/time.Second); most > limit*12/10 {
			t.Errorf("%d checks in %v, want %d at most", most, window, limit)
		}
		for i, b := range all {
			if b.count(Failing) != 1 {
				t.Fatalf("node %d: events %v", i, b.events)
			}
		}
	})
}

// The alert for a VIP that does not work fires where it was last known to work 50 s
// ago. A suspicion that a check can refute is refuted before, each time, and a server
// that hangs is known to fail before.
func TestChecksComeBeforeTheAlert(t *testing.T) {
	const page, nodes = 50 * time.Second, 100
	synctest.Test(t, func(t *testing.T) {
		all := make([]*bench, nodes)
		for i := range all {
			b := newBench([]*host{good(1)})
			c := b.dial(theVIP)
			b.start(t)
			go func() { // its requests are never answered
				for pace.Sleep(t.Context(), 7*time.Second+time.Duration(i)*17*ms) {
					b.change(func() { c.sent, c.waits = time.Now(), true })
				}
			}()
			all[i] = b
		}
		rest(time.Minute)
		oldest := time.Duration(0)
		for range 1200 {
			rest(500 * ms)
			for _, b := range all {
				oldest = max(oldest, time.Since(b.w.Status()[0].Verified))
			}
		}
		if oldest >= page || oldest < page/4 {
			t.Errorf("the oldest suspicion was %v old when a check refuted it", oldest)
		}
		for _, b := range all {
			b.wantEvents(t)
			b.change(func() { b.hosts[0].api = frozen })
		}
		rest(page + 7*time.Second) // somebody has to ask for something first
		for i, b := range all {
			if b.count(Failing) != 1 {
				t.Errorf("node %d: events %v", i, b.events)
			}
		}
	})
}

// A slow server is asked for, and not checked.
func TestSlowServerIsNotChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.start(t)
		c := b.dial(theVIP)
		for range 100 { // each request is answered after 4 s
			b.change(func() { c.sent, c.waits = time.Now(), true })
			rest(4 * time.Second)
			b.change(func() { c.received, c.waits, c.Received = time.Now(), false, c.Received+1 })
			rest(500 * ms)
		}
		if n := len(b.checked()); n > 10 {
			t.Errorf("%d checks", n)
		}
		b.wantEvents(t)
	})
}

// A server that answers nothing is checked, and said to fail, although its clients
// give up and connect anew all the time, and a handshake is an answer.
func TestServerThatHangsBetweenHandshakes(t *testing.T) {
	missed := 0
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			b := newBench([]*host{good(1)})
			b.start(t)
			c := b.dial(theVIP)
			rest(10 * time.Second)
			b.change(func() { b.hosts[0].api = frozen })
			for range 18 { // for three minutes
				b.change(func() { c.sent, c.waits = time.Now(), true })
				rest(9500 * ms)
				b.change(func() { c.received, c.waits, c.Received = time.Now(), false, c.Received+1 })
				rest(500 * ms)
			}
			n := len(b.checked())
			if n == 0 {
				missed++
			} else if n > 6 || b.count(Failing) == 0 {
				t.Errorf("%d checks, events %v", n, b.events)
			}
		})
	}
	if missed > 1 { // when to check is left to chance, which misses one in a hundred
		t.Errorf("%d of 10 servers that hang were not checked in three minutes", missed)
	}
}

// A successor that comes late is found soon after it has come, sooner where it
// announces itself.
func TestLateSuccessor(t *testing.T) {
	for _, late := range []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 100 * time.Second, 10 * time.Minute} {
		for _, announces := range []bool{false, true} {
			for what, breaks := range map[string]func(*host){
				"silent":  func(h *host) { h.down = true },
				"refuses": func(h *host) { h.api = refuses },
			} {
				t.Run(strings.Join([]string{what, late.String(), map[bool]string{true: "announced", false: "in silence"}[announces]}, ", "), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := newBench([]*host{good(1)})
						b.settle(t)
						b.change(func() { breaks(b.hosts[0]) })
						rest(late)
						b.change(func() { b.hosts = append(b.hosts, good(2)) })
						if announces {
							b.change(func() { // and the kernel takes no note
								for l := range b.network.lines {
									l.announced()
								}
							})
						}
						limit := askEarly + 2*misses*missGap // it may come when a round has just begun
						switch {
						case announces:
							limit = 4 * time.Second
						case late > youngFor:
							limit = askLate + 2*misses*missGap
						}
						if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > limit {
							t.Errorf("found after %v, want %v at most", took, limit)
						}
					})
				})
			}
		}
	}
}

// Of several that answer for an address that moved, the one with the Override flag
// is its owner, whoever came first.
func TestOwnerBeforeProxy(t *testing.T) {
	for mode, config := range map[string]func(*Config){
		"verified": func(*Config) {},
		"report":   func(c *Config) { c.OnConflict = Report },
		"none":     func(c *Config) { c.Checker, c.OnConflict = nil, Report },
	} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)}, config)
				b.locktime = 0 // as Neighbor Discovery
				b.settle(t)
				proxy, owner := good(3), good(2)
				proxy.proxy, owner.delay = true, 50*ms
				b.change(func() { b.hosts = []*host{proxy, owner} })
				rest(20 * time.Second)
				if b.named() != mac(2) {
					t.Errorf("the entry names %s, want the owner", b.named())
				}
			})
		})
	}
}

// Whose answers the node's firewall keeps from the kernel is not written into the
// entry.
func TestFirewalledHolder(t *testing.T) {
	for mode, config := range map[string]func(*Config){
		"healthy": func(c *Config) { c.OnConflict = Healthy },
		"none":    func(c *Config) { c.Checker, c.OnConflict = nil, Report },
	} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)}, config)
				b.settle(t)
				b.change(func() {
					b.hosts = []*host{good(2)}
					b.firewalled = map[neigh.LLAddr]bool{mac(2): true}
				})
				rest(30 * time.Second)
				for _, w := range b.writes(0) {
					if strings.HasSuffix(w, mac(2).String()) {
						t.Fatalf("the agent wrote %s", w)
					}
				}
			})
		})
	}
}

// A server that says that it cannot serve is left for one that can, and kept while
// there is none.
func TestUnwell(t *testing.T) {
	for _, other := range []api{serves, unwell} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench([]*host{good(1)})
			c := b.dial(theVIP)
			b.start(t)
			rest(10 * time.Second)
			b.change(func() {
				b.hosts = []*host{zombie(1, unwell), zombie(2, other)}
				c.sent, c.waits = time.Now(), true // which is not answered, or late
			})
			rest(time.Minute)
			want := map[api]int{serves: 2, unwell: 1}[other]
			if b.named() != mac(want) {
				t.Errorf("the entry names %s, want %s; events %v", b.named(), mac(want), b.events)
			}
		})
	}
}

// A switch that answers broadcasts for a holder that is gone hides neither that, nor
// the next one.
func TestBroadcastsAreAnsweredForTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		b.change(func() { b.hosts[0].noUnicast, b.hosts[0].api = true, frozen })
		if took := when(2*time.Minute, func() bool { return b.count(Silent) == 1 }); took > lonelySpread+10*time.Second {
			t.Errorf("said after %v", took)
		}
		if s := b.w.Status()[0]; time.Since(s.Verified) < 3*time.Second {
			t.Errorf("it is said to have worked %v ago", time.Since(s.Verified))
		}
		b.change(func() { b.hosts = append(b.hosts, good(2)) })
		if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 9*time.Second { // a frozen one is given 2 s
			t.Errorf("the next holder is found after %v", took)
		}
	})
}

// A VIP that this host translates has no neighbour, and works.
func TestTranslated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, auto)
		b.change(func() { delete(b.entries, key); b.hosts = nil })
		c := b.dial(theVIP)
		b.change(func() { c.Established = true })
		go func() {
			for pace.Sleep(t.Context(), time.Second) {
				b.change(func() { c.sent = time.Now(); c.received = c.sent.Add(ms); c.Received++ })
			}
		}()
		b.start(t)
		rest(5 * time.Minute)
		b.wantEvents(t)
		s := b.w.Status()[0]
		if s.State != "works" || s.OnLink || time.Since(s.Verified) > 5*time.Second {
			t.Errorf("status %+v", s)
		}
	})
}

// A VIP that comes to this host is noticed at once, although its connections work:
// they are with a server on this host.
func TestComesHereWhileConnectionsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		c := b.dial(theVIP)
		go func() {
			for pace.Sleep(t.Context(), 200*ms) {
				b.change(func() { c.sent = time.Now(); c.received = c.sent.Add(ms); c.Received++ })
			}
		}()
		b.start(t)
		rest(10 * time.Second)
		b.change(func() {
			b.hosts = nil
			b.places[theVIP] = neigh.Place{Here: true, Local: true, Link: neigh.Link{Name: "vrrp.25"}}
		})
		if took := when(wayEvery, func() bool { return b.w.Status()[0].HeldHere }); took > 3*interval {
			t.Errorf("noticed after %v", took)
		}
		b.wantEvents(t, HeldHere)
	})
}

// The server of the node that has the VIP is checked through it.
func TestServingIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.places[theVIP] = neigh.Place{Here: true, Local: true, Link: neigh.Link{Name: "lo"}}
		b.start(t)
		rest(time.Minute)
		if s := b.w.Status()[0]; !s.HeldHere || !s.Checked || !s.Serving {
			t.Errorf("status %+v", s)
		}
		b.change(func() { b.hosts[0].api = refuses })
		rest(servingEvery + interval)
		if s := b.w.Status()[0]; !s.Checked || s.Serving {
			t.Errorf("status %+v", s)
		}
		if n := len(b.checked()); n < 3 || n > 5 {
			t.Errorf("%d checks in a minute and a half", n)
		}
	})
}

// A certificate of the right CA, and for a name that only the clients know, is
// believed once the clients are served.
func TestCertificateByANameThatClientsKnow(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench([]*host{good(1)})
			b.lenient = true // the check passes, and proves nothing
			b.settle(t)
			other := zombie(2, serves)
			if other.proves = false; !trusted {
				other.api = handshakes
			}
			b.change(func() { b.hosts = []*host{zombie(1, frozen), other} })
			rest(time.Minute)
			want := map[bool]int{true: 2, false: 1}[trusted]
			if b.named() != mac(want) {
				t.Errorf("trusted %v: the entry names %s, want %s; events %v", trusted, b.named(), mac(want), b.events)
			}
		})
	}
}

// One host with two link-layer addresses answers by both, and nothing is wrong. That it is
// one host is found out by a check, said once, and moves nothing. Two hosts that both
// serve are two. It is found out again, as a link-layer address may move.
func TestTwoAddressesOfOneHost(t *testing.T) {
	for name, one := range map[string]bool{"one host": true, "two hosts": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, second := good(1), good(2)
				if one {
					first.body, second.body = 7, 7
				}
				b := newBench([]*host{first, second})
				b.settle2(t)
				const hours = 2
				rest(3 * time.Minute)
				if s := b.w.Status()[0]; s.Holders != 2 || s.OneHost != one {
					t.Errorf("%d holders, of one host: %v", s.Holders, s.OneHost)
				}
				rest(hours * time.Hour)
				if s := b.w.Status()[0]; s.Holders != 2 || s.OneHost != one {
					t.Errorf("after %d hours: %d holders, of one host: %v", hours, s.Holders, s.OneHost)
				}
				b.wantEvents(t, Duplicate)
				if n := len(b.checked()); n < hours*4 || n > hours*7+1 {
					t.Errorf("%d checks in %d hours", n, hours)
				}
				if n := len(b.lines("of one host")); one && n != 1 || !one && n != 0 {
					t.Errorf("said %d times", n)
				}
				for _, o := range b.ops {
					if strings.HasPrefix(o.do, "give") {
						t.Errorf("%+v", o)
					}
				}
				b.change(func() { b.unknown = errFake }) // nothing can be found out
				rest(20 * time.Minute)
				if s := b.w.Status()[0]; s.OneHost != one {
					t.Errorf("while it cannot be checked: %d holders, of one host: %v", s.Holders, s.OneHost)
				}
				b.change(func() { b.unknown = nil })
				b.change(func() { first.down = true }) // the other address is as good as ever
				rest(10 * time.Second)
				if b.named() != mac(2) {
					t.Errorf("the entry names %s", b.named())
				}
				if s := b.w.Status()[0]; s.OneHost {
					t.Errorf("a single holder is no several of one host: %+v", s)
				}
				b.change(func() { first.down = false })
				rest(10 * time.Minute)
				if s := b.w.Status()[0]; s.Holders != 2 || s.OneHost != one {
					t.Errorf("with both again: %d holders, of one host: %v", s.Holders, s.OneHost)
				}
				b.change(func() { first.body = 8 }) // the second one's address has moved, to a host that serves as well
				rest(12 * time.Minute)
				if s := b.w.Status()[0]; s.Holders != 2 || s.OneHost {
					t.Errorf("on two hosts: %d holders, of one host: %v", s.Holders, s.OneHost)
				}
			})
		})
	}
}

// Whoever answers as a new host each time has the server checked a few times an hour, not
// each time.
func TestStrangersAreComparedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle2(t)
		n := 100
		b.change(func() {
			b.asking = func(q shield.Question) {
				if q.LLAddr.Len() == 0 {
					b.change(func() {
						n++
						b.hosts = []*host{b.hosts[0], zombie(n, refuses)}
					})
				}
			}
		})
		rest(time.Hour)
		b.change(func() {
			if n < 130 {
				t.Errorf("%d strangers in an hour: this shows nothing", n-100)
			}
		})
		if checks := len(b.checked()); checks == 0 || checks > 15 {
			t.Errorf("%d checks in an hour", checks)
		}
	})
}

// A VIP that was given, and that this node neither uses nor may ask for, is unknown. It was
// not known to fail for any time.
func TestUnknownIsNoTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(nil, func(c *Config) { c.DryRun = true })
		b.start(t)
		rest(time.Hour)
		s := b.w.Status()[0]
		if age := time.Since(s.Verified); s.State != string(StateUnknown) || age > 2*interval {
			t.Errorf("%s, last known to work %v ago", s.State, age)
		}
	})
}

// A trial that ended because the holder answered again, or that could not be made, says
// nothing about the other host. It is tried as soon as any when the holder really goes.
func TestUnfinishedTrialsAreNotHeldAgainstAHost(t *testing.T) {
	for name, fail := range map[string]func(*bench){
		"the holder stands still": func(b *bench) {
			b.change(func() { b.hosts[0].down = true; b.hosts = append(b.hosts, zombie(2, frozen)) })
			when(10*time.Second, func() bool { return len(b.checked()) > 0 })
			b.change(func() { b.hosts[0].down = false })
			rest(interval)
			b.change(func() { b.hosts = []*host{b.hosts[0]} })
			rest(time.Second)
		},
		"the entry cannot be written": func(b *bench) {
			b.change(func() { b.replaceErr = errFake; b.hosts = []*host{good(2)} })
			rest(4 * time.Second)
			b.change(func() { b.replaceErr = nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.settle2(t)
				fail(b)
				b.change(func() { b.hosts = []*host{good(2)} })
				if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 5*time.Second {
					t.Errorf("repaired after %v", took)
				}
			})
		})
	}
}

// A zombie that is the first to have the entry, because nobody else answers, is not
// believed to serve after a trial has shown that it does not.
func TestZombieIsTheFirstHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{zombie(2, refuses)})
		b.entries[key].State, b.entries[key].LLAddr = neigh.Incomplete, neigh.LLAddr{}
		b.kubelet(t, time.Second)
		b.start(t)
		rest(2 * time.Minute)
		if s := b.w.Status()[0]; s.State == string(StateWorks) {
			t.Errorf("%s, %s; events %v", s.State, s.Reason, b.events)
		}
		for _, o := range b.ops {
			if o.do == "give " {
				t.Errorf("the entry was given to nobody: %+v", o)
			}
		}
	})
}

// Which addresses are watched: those that somebody wants, or that nothing else
// makes up for.
func TestWhichAddresses(t *testing.T) {
	connect := func(b *bench, n int, change ...func(*conn)) *conn {
		c := b.dial(addr(n))
		b.change(func() {
			k := neigh.Key{Addr: addr(n), Index: eth0}
			b.entries[k] = &entry{Entry: neigh.Entry{Key: k, LLAddr: mac(1), State: neigh.Reachable}, updated: time.Now(), confirmed: time.Now()}
			for _, fn := range change {
				fn(c)
			}
		})
		return c
	}
	down := func(b *bench) { b.change(func() { b.hosts[0].down = true }) }
	tests := []struct {
		name string
		do   func(*bench)
		wait time.Duration
		want []netip.Addr
	}{
		{"a peer that connected to this host", func(b *bench) {
			connect(b, 7, func(c *conn) { c.Accepted = true })
		}, time.Minute, nil},
		{"an address that nobody ever reached, beside one that works", func(b *bench) {
			connect(b, 5)
			rest(roundEvery + interval)
			connect(b, 7, func(c *conn) { c.Established = false })
		}, time.Minute, addrs(5)},
		{"an address that nobody ever reached, alone", func(b *bench) {
			connect(b, 7, func(c *conn) { c.Established = false })
		}, time.Minute, addrs(7)},
		{"and that nobody wants any more", func(b *bench) {
			c := connect(b, 7, func(c *conn) { c.Established = false })
			rest(roundEvery + interval)
			b.change(func() { b.hosts = nil })
			b.close(c)
		}, 2 * time.Minute, nil},
		{"one of several that is switched off, and used by nobody", func(b *bench) {
			connect(b, 5)
			c := connect(b, 7)
			rest(roundEvery + interval)
			b.change(func() { // only the entry of the one leads to a host that is gone
				b.entries[neigh.Key{Addr: addr(7), Index: eth0}].LLAddr = mac(9)
				b.mute = addr(7)
			})
			rest(12 * time.Second)
			b.close(c)
		}, 18 * time.Second, addrs(5)}, // half a minute after it was, and an alert would come then
		{"the only one, for as long as it does not work", func(b *bench) {
			c := connect(b, 5)
			rest(roundEvery + interval)
			down(b)
			b.close(c)
		}, 2 * time.Hour, addrs(5)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)}, auto)
				b.start(t)
				rest(5 * time.Second)
				tt.do(b)
				rest(tt.wait)
				if got := b.watched(); !slices.Equal(got, tt.want) {
					t.Errorf("watched are %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// attempts implements Attempts.
type ended struct {
	n     *network
	queue chan neigh.Socket
}

func (n *network) Attempts([]uint16) (Attempts, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := &ended{n, make(chan neigh.Socket, 100)}
	n.ended = append(n.ended, e)
	return e, nil
}

func (e *ended) Next(ctx context.Context, visit func(*neigh.Socket)) error {
	select {
	case s := <-e.queue:
		visit(&s)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *ended) Close() {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	e.n.ended = slices.DeleteFunc(e.n.ended, func(o *ended) bool { return o == e })
}

// An agent that starts while the VIP refuses connections finds it by the attempts,
// and listens to them no longer than it must.
func TestStartsWhileRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{zombie(1, refuses)}, auto, func(c *Config) { c.Attempts = nil })
		b.w.cfg.Attempts = b.Attempts
		go func() {
			for pace.Sleep(t.Context(), time.Second) {
				b.change(func() {
					if h := b.host(b.holder()); h != nil && h.api == serves {
						return
					}
					for _, e := range b.ended {
						e.queue <- neigh.Socket{Remote: netip.AddrPortFrom(theVIP, port), Refused: true}
					}
				})
			}
		}()
		b.start(t)
		if took := when(time.Minute, func() bool { return len(b.watched()) == 1 }); took > 5*time.Second {
			t.Fatalf("watched after %v", took)
		}
		rest(time.Minute)
		b.change(func() { b.hosts = append(b.hosts, good(2)) })
		if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 6*time.Second {
			t.Errorf("healed after %v", took)
		}
		b.dial(theVIP)
		rest(2 * roundEvery)
		b.change(func() {
			if len(b.ended) > 0 {
				t.Error("it listens to connections that end, although all is well")
			}
		})
	})
}

// A client that connects a moment after the agent has started is seen soon.
func TestClientConnectsAfterTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, auto)
		b.start(t)
		rest(2 * time.Second)
		b.dial(theVIP)
		if took := when(time.Minute, func() bool { return len(b.watched()) == 1 }); took > roundSoon+interval {
			t.Errorf("watched after %v", took)
		}
	})
}

// That there is no VIP is said once.
func TestNoVIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(nil, auto)
		b.start(t)
		rest(noneAfter - time.Second)
		if lines := b.lines(""); len(lines) > 0 {
			t.Errorf("log %q", lines)
		}
		rest(time.Hour)
		if lines := b.lines("--vip=ADDRESS"); len(lines) != 1 || len(b.lines("")) != 1 {
			t.Errorf("log %q", b.lines(""))
		}
	})
	synctest.Test(t, func(t *testing.T) { // as was asked for
		b := newBench(nil, func(c *Config) { c.Auto, c.Given = false, nil })
		b.start(t)
		rest(time.Hour)
		if lines := b.lines(""); len(lines) > 0 {
			t.Errorf("with --vip=none: log %q", lines)
		}
	})
}

// A repair frees the clients that would wait for the old holder.
func TestClientsAreFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		c := b.dial(theVIP)
		rest(2 * interval)
		b.change(func() {
			b.hosts = []*host{good(2)}
			c.sent, c.waits = time.Now(), true
		})
		if when(10*time.Second, func() bool { return b.named() == mac(2) }) == never {
			t.Fatal("not repaired")
		}
		rest(10 * ms) // in a trial at first
		b.change(func() {
			if !c.destroyed {
				t.Error("the client waits for the holder that is gone")
			}
		})
	})
}

// Behind a bridge that answers for others nobody is asked by broadcast while the
// entry is valid. A holder that is gone is found by the kernel, and one that stands
// still is not left to a zombie for good.
func TestBridgeThatAnswersForOthers(t *testing.T) {
	suppressing := func(hosts ...*host) *bench {
		b := newBench(hosts)
		p := onLink(eth0)
		p.Link.Suppresses = true
		b.places[theVIP] = p
		return b
	}
	t.Run("all is well", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := suppressing(good(1))
			b.settle(t)
			rest(time.Hour)
			if n := len(b.broadcasts(0)); n > 0 || len(b.writes(0)) > 0 || len(b.w.Claims()) > 0 {
				t.Errorf("%d broadcasts, %q, claims %v", n, b.writes(0), b.w.Claims())
			}
		})
	})
	t.Run("it moves in silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := suppressing(good(1))
			b.settle(t)
			b.change(func() { b.hosts = []*host{good(2)} })
			if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 5*time.Second {
				t.Errorf("repaired after %v", took)
			}
			if n := len(b.broadcasts(0)); n > 0 {
				t.Errorf("%d broadcasts", n)
			}
			rest(10 * time.Second)
			b.wantEvents(t, Moved)
		})
	})
	t.Run("it stands still beside a zombie", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := suppressing(good(1))
			b.settle(t)
			b.change(func() { b.hosts = append(b.hosts, zombie(2, refuses)) })
			for i := range 10 {
				rest(time.Duration(i) * 200 * ms)
				b.change(func() { b.hosts[0].down = true })
				rest(4 * time.Second)
				b.change(func() { b.hosts[0].down = false })
				rest(30 * time.Second)
				if b.named() != mac(1) {
					t.Fatalf("stun %d: the entry names the zombie; events %v", i, b.events)
				}
			}
		})
	})
}

// A VIP that moved by an announcement, and that nobody on this node uses, works once
// a check was served.
func TestMovedWhileNobodyUsesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.start(t)
		rest(10 * time.Second)
		b.change(func() { b.hosts = []*host{good(2)} })
		b.announces(mac(2))
		rest(2 * time.Minute)
		if n := len(b.checked()); n != 1 {
			t.Errorf("%d checks", n)
		}
		if s := b.w.Status()[0]; s.State != "works" {
			t.Errorf("status %+v", s)
		}
		b.wantEvents(t, Moved)
	})
}

// A VIP that refuses connections is not forgotten while clients try, though another
// address works.
func TestRefusesBesideOneThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, auto)
		b.w.cfg.Attempts = b.Attempts
		other := netip.MustParseAddr("10.0.0.5")
		k := neigh.Key{Addr: other, Index: eth0}
		b.entries[k] = &entry{Entry: neigh.Entry{Key: k, LLAddr: mac(5), State: neigh.Reachable}, updated: time.Now(), confirmed: time.Now()}
		b.hosts = append(b.hosts, &host{lladdr: mac(5), proves: true, delay: ms, noBroadcast: true})
		b.start(t)
		b.dial(other)
		c := b.dial(theVIP)
		rest(65 * time.Second)
		if n := len(b.watched()); n != 2 {
			t.Fatalf("watched are %v", b.watched())
		}
		b.change(func() { b.hosts[0].api = refuses })
		b.close(c)
		for range 60 {
			rest(10 * time.Second)
			b.change(func() {
				for _, e := range b.ended {
					e.queue <- neigh.Socket{Remote: netip.AddrPortFrom(theVIP, port), Refused: true}
				}
			})
		}
		if n := len(b.watched()); n != 2 {
			t.Errorf("watched are %v", b.watched())
		}
	})
}

// A hold does not outlive the means to find out who serves: the kernel's choice
// counts then.
func TestHeldWhileNothingCanBeChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		b.change(func() { // the rejected holder is well again, and the other one gone
			b.hosts = []*host{good(1)}
			b.unknown = errFake
		})
		go func() {
			for pace.Sleep(t.Context(), time.Second) {
				b.change(func() { b.resolve(key) }) // as packets have the kernel do
			}
		}()
		if took := when(5*time.Minute, func() bool { return b.named() == mac(1) }); took > 30*time.Second {
			t.Fatalf("the entry was left with a holder that is gone for %v", took)
		}
		if d := b.wrong(1, time.Minute); d > 0 {
			t.Errorf("then it named another for %v", d)
		}
	})
}

// That a check could not be made once does not keep the watch from making others.
func TestCannotBeCheckedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		b.change(func() { b.hosts[0].api, b.unknown = frozen, errFake })
		rest(2 * time.Minute)
		b.change(func() { b.hosts[0].api, b.unknown = serves, nil })
		rest(10 * time.Minute)
		b.change(func() { b.hosts = []*host{good(2)} })
		if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 4*time.Second {
			t.Errorf("repaired after %v", took)
		}
	})
}

// All clients are freed, however many there are.
func TestManyClientsAreFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		var all []*conn
		for range 10 * maxKnown {
			all = append(all, b.dial(theVIP))
		}
		rest(2 * interval)
		b.change(func() {
			b.hosts = []*host{good(2)}
			for _, c := range all {
				c.sent, c.waits = time.Now(), true
			}
		})
		if when(10*time.Second, func() bool { return b.named() == mac(2) }) == never {
			t.Fatal("not repaired")
		}
		rest(10 * ms)
		b.change(func() {
			left := 0
			for _, c := range all {
				if !c.destroyed {
					left++
				}
			}
			if left > 0 {
				t.Errorf("%d clients wait for the holder that is gone", left)
			}
		})
	})
}

// A check through an entry that another host took meanwhile says nothing about the
// holder.
func TestTakenDuringACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.start(t)
		c := b.dial(theVIP)
		rest(10 * time.Second)
		b.checking = func(neigh.LLAddr) {
			b.announces(mac(2))
			b.change(func() { b.hosts[0].api = refuses }) // what the check finds at the other
		}
		b.change(func() { b.hosts = append(b.hosts, zombie(2, refuses)); c.sent, c.waits = time.Now(), true })
		when(time.Minute, func() bool { return len(b.checked()) > 0 })
		rest(20 * ms)
		if n := b.count(Failing); n > 0 {
			t.Errorf("events %v", b.events)
		}
	})
}

// The kernel moves the entry in an outage: clients are freed as after a repair.
func TestClientsAreFreedThatTheKernelMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		c := b.dial(theVIP)
		rest(2 * interval)
		b.change(func() {
			b.hosts[0].down = true
			c.sent, c.waits = time.Now(), true
		})
		rest(10 * time.Second)
		b.change(func() {
			e := b.entries[key]
			b.hosts = []*host{good(2)}
			e.LLAddr, e.State, e.updated, e.confirmed = mac(2), neigh.Reachable, time.Now(), time.Now()
			b.moved(e)
		})
		rest(3 * interval)
		b.change(func() {
			if !c.destroyed {
				t.Error("the client waits for the holder that is gone")
			}
		})
	})
}

// An agent that starts while a VIP that was given refuses connections heals it.
func TestStartsWhileAGivenOneRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{zombie(1, refuses)}, func(c *Config) { c.Given = []Given{{Addr: theVIP, Port: 9345}}; c.Port = port })
		b.w.cfg.Attempts = b.Attempts
		go func() {
			for pace.Sleep(t.Context(), time.Second) {
				b.change(func() {
					if h := b.host(b.holder()); h != nil && h.api == serves {
						return
					}
					for _, e := range b.ended {
						e.queue <- neigh.Socket{Remote: netip.AddrPortFrom(theVIP, 9345), Refused: true}
					}
				})
			}
		}()
		b.start(t)
		rest(time.Minute)
		b.change(func() { b.hosts = append(b.hosts, good(2)) })
		if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 6*time.Second {
			t.Errorf("healed after %v", took)
		}
	})
}

// Who refuses connections to another port says nothing about the VIP.
func TestRefusedOnAnotherPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, func(c *Config) { c.Given = []Given{{Addr: theVIP, Port: 9345}} })
		b.w.cfg.Attempts = b.Attempts
		b.start(t)
		for range 60 {
			rest(time.Second)
			b.w.refused(&neigh.Socket{Remote: netip.AddrPortFrom(theVIP, port), Refused: true})
			if s := b.w.Status(); len(s) > 0 && s[0].State == "suspect" {
				t.Fatalf("status %+v", s[0])
			}
		}
	})
}

// What many nodes hear in the same moment does not have them all ask in the same
// moment.
func TestAnnouncementIsNoHerd(t *testing.T) {
	for name, trouble := range map[string]bool{"all is well": false, "an outage": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const nodes = 100
				all := make([]*bench, nodes)
				for i := range all {
					all[i] = newBench([]*host{good(1)})
					all[i].kubelet(t, time.Second)
					all[i].start(t)
				}
				rest(30 * time.Second)
				if trouble {
					for _, b := range all {
						b.change(func() { b.hosts[0].down = true })
					}
					rest(time.Minute)
				}
				for range 20 {
					rest(5 * time.Second)
					asked := 0
					for _, b := range all {
						b.change(func() {
							asked -= len(b.asks)
							for l := range b.network.lines {
								l.announced()
							}
						})
					}
					rest(100 * ms)
					for _, b := range all {
						b.change(func() { asked += len(b.asks) })
					}
					if asked > nodes/2 {
						t.Fatalf("%d questions within 100 ms of an announcement", asked)
					}
				}
			})
		})
	}
}

// A zombie that answers at once does not hide a holder that takes its time.
func TestSlowSuccessorBesideAQuickZombie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		c := good(3)
		c.delay = 150 * ms
		b.change(func() { b.hosts = []*host{zombie(1, refuses), c} })
		if took := when(5*time.Minute, func() bool { return b.named() == mac(3) }); took > 15*time.Second {
			t.Errorf("found after %v", took)
		}
	})
}

// A holder that is slow to answer is heard again after an outage.
func TestSlowHolderComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.start(t)
		rest(10 * time.Second)
		b.change(func() { b.hosts[0].down = true })
		rest(time.Minute)
		b.change(func() { b.hosts[0].down, b.hosts[0].delay = false, 400*ms })
		if took := when(time.Minute, func() bool { return b.w.Status()[0].State == "works" }); took > 2*interval {
			t.Errorf("heard after %v", took)
		}
	})
}

// What is wrong with one VIP does not use up what is needed for another.
func TestFloodForOneOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flooded := netip.MustParseAddr("10.0.0.200")
		k := neigh.Key{Addr: flooded, Index: eth0}
		b := newBench([]*host{good(1)}, func(c *Config) { c.Given = given(theVIP, flooded) })
		b.hosts[0].only = theVIP
		b.entries[k] = &entry{Entry: neigh.Entry{Key: k, LLAddr: mac(9), State: neigh.Reachable}, updated: time.Now(), confirmed: time.Now()}
		b.kubelet(t, time.Second)
		base := 1000
		b.asking = func(shield.Question) { // every time others answer
			b.change(func() {
				b.hosts = b.hosts[:1]
				for range 30 {
					b.hosts = append(b.hosts, &host{lladdr: mac(base), delay: ms, only: flooded})
					base++
				}
			})
		}
		b.start(t)
		rest(10 * time.Minute)
		b.change(func() { b.hosts[0] = good(2); b.hosts[0].only = theVIP })
		if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 4*time.Second {
			t.Errorf("repaired after %v", took)
		}
	})
}

// A VIP that lost its neighbour while a client was served is no translated one.
func TestFlushedInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		for range 5 {
			rest(700 * ms)
			b.set(func(e *entry) { e.State, e.LLAddr = neigh.Incomplete, neigh.LLAddr{} })
			b.change(func() { b.hosts[0].down = true })
			rest(30 * time.Second)
			if s := b.w.Status()[0]; !s.OnLink {
				t.Errorf("status %+v", s)
			}
			b.change(func() { b.hosts[0].down = false })
			rest(30 * time.Second)
		}
	})
}

// A repair of a VIP that nobody on this node uses is no reason for suspicion.
func TestRepairedWhileNobodyUsesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.start(t)
		rest(10 * time.Second)
		b.change(func() { b.hosts = []*host{good(2)} })
		rest(10 * time.Second)
		b.wantRepairs(t, Stale)
		for range 20 {
			rest(time.Second)
			if s := b.w.Status()[0]; s.State != "works" {
				t.Fatalf("status %+v", s)
			}
		}
	})
}

// A node that itself stands still takes that for no silence of the holder.
func TestThisNodeStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, func(c *Config) { c.Checker, c.OnConflict = nil, Report })
		b.start(t)
		rest(10 * time.Second)
		stand := sync.OnceFunc(func() {
			time.Sleep(time.Minute)
			b.change(func() { b.hosts = []*host{good(2)} })
			time.AfterFunc(4*time.Second, func() { b.change(func() { b.hosts = []*host{good(1)} }) })
		})
		since := b.now()
		b.change(func() { b.hosts[0].loseUnicast, b.asking = 1, func(shield.Question) { stand() } })
		rest(3 * time.Minute)
		for _, w := range b.writes(since) {
			if strings.HasSuffix(w, mac(2).String()) {
				t.Errorf("the agent wrote %s", w)
			}
		}
	})
}

// A VIP with a port of its own is repaired for clients that connect to it after the
// agent has started.
func TestPortOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const own = 8443
		b := newBench([]*host{good(1)}, func(c *Config) { c.Given = []Given{{Addr: theVIP, Port: own}} })
		b.start(t)
		rest(time.Minute)
		c := b.dial(theVIP)
		b.change(func() { c.Remote = netip.AddrPortFrom(theVIP, own) })
		b.request(c)
		rest(2 * roundEvery)
		b.change(func() {
			b.hosts = []*host{zombie(1, frozen), good(2)}
			c.sent, c.waits = time.Now(), true
		})
		if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 12*time.Second {
			t.Errorf("repaired after %v", took)
		}
	})
}

// A server that answers its clients with errors, and says of itself that it cannot
// serve, is left although TCP makes progress, if it is asked for another reason.
func TestUnwellWhileItIsCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.kubelet(t, time.Second)
		b.start(t)
		rest(10 * time.Second)
		b.change(func() { b.hosts = []*host{zombie(1, unwell), good(2)} })
		if took := when(5*time.Minute, func() bool { return b.named() == mac(2) }); took > 2*everybodyEvery {
			t.Errorf("left after %v; events %v", took, b.events)
		}
		if b.count(Failing) != 1 {
			t.Errorf("events %v", b.events)
		}
	})
}

// A holder that accepts connections, and closes them unanswered after a second or two,
// is left as soon as one that hangs, however many clients try.
func TestHolderThatClosesWhatItAccepts(t *testing.T) {
	for _, clients := range []int{1, 2, 4, 2 * maxKnown} {
		t.Run(fmt.Sprintf("%d clients", clients), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.settle(t)
				for i := range clients - 1 {
					b.shortLived(t, true, 200*ms+time.Duration(i)*230*ms)
				}
				rest(time.Minute)
				b.wantEvents(t)
				b.change(func() { b.hosts = []*host{zombie(1, closes), good(2)} })
				if took := when(2*time.Minute, func() bool { return b.named() == mac(2) }); took > 15*time.Second {
					t.Errorf("left after %v", took)
				}
				rest(10 * time.Second)
				b.wantEvents(t, Duplicate, Failing, Moved, Recovered, Held)
			})
		})
	}
}

// Clients that connect to a server that serves, and are not answered, are no reason to
// check it: where others are answered, or where they ask for nothing; else once.
func TestClientsThatAreNotAnswered(t *testing.T) {
	tests := []struct {
		name    string
		clients func(*testing.T, *bench)
		checks  int
	}{
		{"probes by a connection alone", func(t *testing.T, b *bench) {
			b.shortLived(t, false, 200*ms)
			b.shortLived(t, false, 700*ms)
		}, 0},
		{"connections that are closed once they were answered", func(t *testing.T, b *bench) {
			b.shortLived(t, true, 200*ms)
			b.shortLived(t, true, 700*ms)
		}, 0},
		{"beside a client that is answered", func(t *testing.T, b *bench) {
			b.kubelet(t, time.Second)
			b.unanswered(t)
		}, 0},
		{"alone", func(t *testing.T, b *bench) {
			b.unanswered(t)
		}, 1},
	}
	for _, tt := range tests {
		for _, rival := range []bool{false, true} {
			t.Run(tt.name+map[bool]string{true: ", and another host answers"}[rival], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench([]*host{good(1)})
					if rival {
						b.hosts = append(b.hosts, zombie(2, refuses))
					}
					idle := b.dial(theVIP)
					b.change(func() { idle.Received = 1000 })
					tt.clients(t, b)
					b.start(t)
					rest(2 * time.Minute)
					compared := len(b.checked())
					rest(5 * time.Minute)
					if n := len(b.checked()) - compared; n > tt.checks {
						t.Errorf("%d checks in 5 minutes", n)
					}
					if n := b.count(Failing) + b.count(Moved) + b.count(Silent); n > 0 {
						t.Errorf("events %v", b.events)
					}
				})
			})
		}
	}
}

// unanswered has two clients connect over and over that the server never answers.
func (b *bench) unanswered(t *testing.T) {
	for i := range 2 {
		go func() {
			for pace.Sleep(t.Context(), 300*ms+time.Duration(i)*400*ms) {
				c := b.dial(theVIP)
				b.change(func() { c.Sent = 517 })
				pace.Sleep(t.Context(), 1500*ms)
				b.close(c)
			}
		}()
	}
}

// A server that said that it cannot serve, and answers its clients again after it has
// let them wait, is known to serve within seconds, and all nodes do not check it in the
// same second.
func TestServerIsWellAgain(t *testing.T) {
	const nodes = 100
	synctest.Test(t, func(t *testing.T) {
		all := make([]*bench, nodes)
		for i := range all {
			all[i] = newBench([]*host{good(1)})
			all[i].settle(t)
		}
		for _, b := range all {
			b.change(func() { b.hosts[0].api = stalls })
		}
		rest(lonelySpread + 10*time.Second)
		before := 0
		for i, b := range all {
			before += len(b.checked())
			if s := b.w.Status()[0]; s.Reason != string(ServerError) {
				t.Errorf("node %d: %s, %s", i, s.State, s.Reason)
			}
			b.change(func() { b.hosts[0].api = serves })
		}
		for range recoverLast/time.Second + 4 {
			rest(time.Second)
			now := 0
			for _, b := range all {
				now += len(b.checked())
			}
			if n := now - before; n > nodes/4 {
				t.Errorf("%d of %d nodes check in a second", n, nodes)
			}
			before = now
		}
		for i, b := range all {
			if s := b.w.Status()[0]; s.State != string(StateWorks) {
				t.Errorf("node %d: after %v %s, %s", i, recoverLast+4*time.Second, s.State, s.Reason)
			}
			b.wantEvents(t, Failing, Recovered)
		}
	})
}

// A server that is cut off from its etcd goes on answering its clients with errors, at
// once or late. It is said to fail all the time, and not checked more often for that.
func TestErrorsAreNoRecovery(t *testing.T) {
	for name, late := range map[string]time.Duration{"at once": 0, "after 8 s": 8 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)})
				b.start(t)
				c := b.dial(theVIP)
				rest(10 * time.Second)
				b.change(func() { b.hosts[0].api = unwell })
				go func() { // late enough for a check at first
					for wait := 8 * time.Second; ; {
						if b.count(Failing) > 0 {
							wait = late
						}
						b.change(func() { c.sent, c.waits = time.Now(), true })
						if !pace.Sleep(t.Context(), wait+ms) {
							return
						}
						b.change(func() { c.received, c.waits, c.Received = time.Now(), false, c.Received+100 })
						if !pace.Sleep(t.Context(), time.Second) {
							return
						}
					}
				}()
				if when(5*time.Minute, func() bool { return b.count(Failing) > 0 }) == never {
					t.Fatalf("events %v", b.events)
				}
				const minutes = 20
				checks := len(b.checked())
				rest(minutes * time.Minute)
				b.wantEvents(t, Failing)
				if n := len(b.checked()) - checks; n < minutes || n > minutes*60/30 {
					t.Errorf("%d checks in %d minutes", n, minutes)
				}
			})
		})
	}
}

// A trial that comes to nothing, because the host that is tried hangs, leaves no client
// waiting for that host. Other connections are left alone.
func TestClientsAreFreedFromAFailedTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)})
		b.settle(t)
		before := b.dial(theVIP) // and nothing was received on it yet
		b.change(func() { b.hosts[0].down = true; b.hosts = append(b.hosts, zombie(2, frozen)) })
		if when(10*time.Second, func() bool { return b.named() == mac(2) }) == never {
			t.Fatal("the other is not tried")
		}
		rest(500 * ms)
		meanwhile := b.dial(theVIP)
		b.change(func() { meanwhile.Sent = 517 })
		b.change(func() { b.hosts[0].down = false })
		if when(10*time.Second, func() bool { return b.named() == mac(1) }) == never {
			t.Fatal("the entry was not given back")
		}
		after := b.dial(theVIP)
		rest(10 * ms)
		b.change(func() {
			if !meanwhile.destroyed {
				t.Error("the client waits for the host that was tried")
			}
			if before.destroyed || after.destroyed {
				t.Error("a connection to the holder was closed")
			}
		})
		rest(20 * time.Second)
		b.wantEvents(t)
	})
}
