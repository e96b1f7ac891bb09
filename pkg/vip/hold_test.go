package vip

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// held returns a bench on which the entry is held with host 2 against host 1,
// whose API server is frozen.
func held(t *testing.T, change ...func(*Config)) (b *bench, stop func()) {
	t.Helper()
	b = newBench([]*host{good(1)}, change...)
	stop = b.settle(t)
	b.change(func() { b.hosts = []*host{zombie(1, frozen), good(2)} })
	if when(20*time.Second, func() bool { return b.count(Held) == 1 }) == never {
		t.Fatalf("not held: events %v", b.events)
	}
	b.wantEvents(t, Duplicate, Failing, Moved, Recovered, Held)
	rest(5 * time.Second)
	return b, stop
}

// announcing has a host announce itself until the end of the test.
func (b *bench) announcing(t *testing.T, n int, every time.Duration) {
	go func() {
		for pace.Sleep(t.Context(), every) {
			b.announces(mac(n))
		}
	}()
}

// wrong returns for how long, in some time, the entry names another host.
func (b *bench) wrong(want int, d time.Duration) (sum time.Duration) {
	for start := time.Now(); time.Since(start) < d; rest(ms) {
		if b.named() != mac(want) {
			sum += ms
		}
	}
	return sum
}

// subscriptions returns how many there are now.
func (b *bench) subscriptions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.ads)
}

func TestHoldRestores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := held(t)
		b.announcing(t, 1, 3*time.Second)
		if d := b.wrong(2, 10*time.Minute); d > 0 {
			t.Errorf("the entry named another host for %v", d)
		}
		b.wantEvents(t, Duplicate, Failing, Moved, Recovered, Held)
		if n := len(b.lines("held")); n != 1 {
			t.Errorf("%d lines about it", n)
		}
		stop()
		if b.named() != mac(2) || b.subscriptions() > 0 {
			t.Errorf("stopped, the entry names %s, and %d subscriptions are left", b.named(), b.subscriptions())
		}
	})
}

// What ends a hold.
func TestHoldEnds(t *testing.T) {
	tests := []struct {
		name   string
		ends   func(*bench)
		within time.Duration
		holder int
	}{
		{"nobody else answers any more", func(b *bench) { b.hosts[0].down = true }, 5 * time.Minute, 2},
		{"the held holder is silent", func(b *bench) { b.hosts[1].down, b.hosts[0].api = true, serves }, 11 * time.Second, 1},
		{"it does not serve any more", func(b *bench) { b.hosts[1].api, b.hosts[0].api = refuses, serves }, 40 * time.Second, 1},
		{"the entry becomes PERMANENT", func(b *bench) { permanent(b.entries[key]) }, 3 * time.Second, 2},
		{"it becomes ext_learned", func(b *bench) { extLearned(b.entries[key]) }, 3 * time.Second, 2},
		{"this node takes the VIP", func(b *bench) { b.places[theVIP] = neigh.Place{Here: true, Local: true} }, 40 * time.Second, 2},
		{"the VIP is reached by another device", func(b *bench) { b.places[theVIP] = onLink(eth1) }, 40 * time.Second, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, _ := held(t)
				hold := b.w.watches[place{addr: theVIP}].hold
				b.change(func() { tt.ends(b) })
				ended := func() bool {
					select {
					case <-hold.done:
						return true
					default:
						return false
					}
				}
				took := when(10*time.Minute, func() bool { return ended() && b.named() == mac(tt.holder) })
				if took > tt.within {
					t.Errorf("it ended after %v, want %v at most; the entry names %s", took, tt.within, b.named())
				}
			})
		})
	}
}

// A hold that lasts is not ended by one round in which nobody else was heard.
func TestHoldOutlastsALostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		for range 4 {
			b.change(func() { b.hosts[0].lose = 2 })
			rest(5 * time.Minute)
		}
		if b.subscriptions() != 1 {
			t.Error("the hold has ended")
		}
	})
}

// An owner that takes the entry over while it is held is not disturbed, though a
// rejected holder may be what it wants there.
func TestHoldOfWhatIsPinned(t *testing.T) {
	for name, pin := range map[string]func(*entry){"PERMANENT": permanent, "ext_learned": extLearned} {
		for _, late := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", seen late"}[late], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, _ := held(t)
					before := 0
					b.change(func() { b.silenced = late })
					b.announces(mac(1))
					synctest.Wait() // if late, it is still in the queue when the next happens
					b.set(func(e *entry) {
						before = len(b.ops)
						e.LLAddr = mac(1)
						pin(e)
					})
					b.change(func() {
						b.silenced = false
						for c := range b.ads {
							c.wake()
						}
					})
					rest(time.Minute)
					if got := b.ops[before:]; len(got) > 0 || b.named() != mac(1) {
						t.Errorf("%v after the entry had become somebody else's", got)
					}
					if want := map[string]int{"PERMANENT": 1}[name]; b.count(Pinned) != want {
						t.Errorf("events %v", b.events)
					}
				})
			})
		}
	}
}

// A third host that takes the VIP over, announcing it, is neither held nor
// rejected: it is nobody's business to put the entry back to one that may have
// lost the VIP.
func TestHoldAndAThirdHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		b.change(func() { b.hosts = []*host{zombie(1, frozen), good(3)} })
		b.announces(mac(3))
		rest(5 * time.Second)
		before := len(b.writes(0))
		b.announces(mac(1))
		rest(time.Second)
		for _, w := range b.writes(0)[before:] {
			if strings.HasSuffix(w, mac(2).String()) {
				t.Error("the entry was given to a host that has lost the VIP")
			}
		}
		if took := when(time.Minute, func() bool { return b.named() == mac(3) }); took > 30*time.Second {
			t.Errorf("repaired after %v", took)
		}
	})
}

// One that announces itself more often than ten times a second is given up, and
// that is not tried again all the time.
func TestContested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		before := len(b.writes(0))
		go func() {
			for pace.Sleep(t.Context(), 20*ms) {
				b.announces(mac(1))
			}
		}()
		if when(10*time.Second, func() bool { return b.count(Contested) > 0 }) == never {
			t.Fatal("not contested")
		}
		restored := 0
		for _, w := range b.writes(0)[before:] {
			if strings.HasPrefix(w, "give") {
				restored++
			}
		}
		if restored > maxRestores+1 {
			t.Errorf("restored %d times", restored)
		}
		at := b.now()
		const minutes = 60
		rest(minutes * time.Minute)
		if n := b.count(Held); n > minutes*2+1 {
			t.Errorf("held %d times in %d minutes", n, minutes)
		} else {
			t.Logf("held %d times, contested %d times, %d writes, %d broadcasts, %d checks, %d lines", n, b.count(Contested),
				len(b.writes(at)), len(b.broadcasts(at)), len(b.checks), len(b.lines("")))
		}
		if n := len(b.writes(at)); n > minutes*2*(maxRestores+10) {
			t.Errorf("%d writes in %d minutes", n, minutes)
		}
		if n := len(b.lines("")); n > report.DiaryLines+minutes*8 {
			t.Errorf("%d lines of log in %d minutes", n, minutes)
		}
		if n := len(b.lines(`level=ERROR msg="vip contested" vip=10.0.0.100 event=contested device=eth0 old_lladdr=02:00:00:00:00:02`)); n == 0 {
			t.Error("it is not said")
		}
	})
}

// Notifications that fail are asked for again. Meanwhile the entry is put back
// when it is looked at.
func TestHoldWithoutNotifications(t *testing.T) {
	tests := []struct {
		name  string
		fault func(*bench)
		limit time.Duration // for which the entry may name another host, in 5 minutes
		says  int           // how often it is said that there are none
	}{
		{"the subscription ends now and then", func(b *bench) {
			go func() {
				for range 100 {
					time.Sleep(2900 * ms)
					b.fail(errFake)
				}
			}()
		}, 5 * time.Minute / 3, 1},
		{"overruns", func(b *bench) {
			go func() {
				for range 1000 {
					time.Sleep(290 * ms)
					b.fail(neigh.ErrOverrun)
				}
			}()
		}, 0, 0},
		{"no subscription at all", func(b *bench) {
			b.change(func() { b.subscribeErr = errFake })
			b.fail(errFake)
		}, 5 * time.Minute * 2 / 3, 1},
		{"they are lost", func(b *bench) { b.change(func() { b.lost = true }) }, 5 * time.Minute * 2 / 3, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, stop := held(t)
				tt.fault(b)
				b.announcing(t, 1, 3*time.Second)
				if d := b.wrong(2, 5*time.Minute); d > tt.limit {
					t.Errorf("the entry named another host for %v, want %v at most", d, tt.limit)
				}
				if b.count(Contested) > 0 || b.count(Moved) > 1 {
					t.Errorf("events %v", b.events)
				}
				const text = `level=WARN msg="notifications of changed entries fail: meanwhile the entry is put back when it is looked at" vip=10.0.0.100 err=fault`
				if n := len(b.lines(text)); n != tt.says {
					t.Errorf("%d lines say %s, want %d", n, text, tt.says)
				}
				if n := len(b.lines("")); n > 2*report.DiaryLines {
					t.Errorf("%d lines of log in 5 minutes", n)
				}
				at := time.Now()
				stop()
				if took := time.Since(at); took > time.Second {
					t.Errorf("it took %v to stop", took)
				}
			})
		})
	}
}

// Answers to two requests in a row were lost: the held holder is there all the
// same, and goes on being held.
func TestHoldOutlastsLostRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		rest(interval)
		b.change(func() { b.hosts[1].loseUnicast = 3 })
		rest(3 * interval)
		b.announcing(t, 1, 3*time.Second)
		if d := b.wrong(2, 5*time.Minute); d > 10*ms {
			t.Errorf("the entry named another host for %v", d)
		}
	})
}

// An entry that cannot be put back is said to be so by the number of attempts.
func TestRestoreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		b.change(func() { b.replaceErr = errFake })
		b.announces(mac(1))
		rest(time.Minute)
		b.change(func() { b.replaceErr = nil })
		if took := when(2*time.Minute, func() bool { return b.named() == mac(2) }); took > 90*time.Second+interval {
			t.Errorf("put back after %v", took)
		}
	})
}

// A read of the entry that fails once is no reason to let go of it.
func TestHoldOutlastsAReadError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := held(t)
		b.change(func() { b.getErr = neigh.ErrTimeout })
		rest(interval + 500*ms)
		b.change(func() { b.getErr = nil })
		rest(2 * interval)
		b.announcing(t, 1, 3*time.Second)
		if d := b.wrong(2, 5*time.Minute); d > 10*ms {
			t.Errorf("the entry named another host for %v", d)
		}
	})
}

// The VIP goes back to a host that is held off: its server is repaired, and the held one
// gives the VIP up. That the hold undoes the announcement costs about as long as it
// takes to find the held one silent, wherever in the interval that happens.
func TestFailbackUnderHold(t *testing.T) {
	// The holder is asked soon, and then everybody, who may have been asked just before.
	const limit = 2*interval/wakeEvery + misses*missGap + askAtOnce + 600*ms
	tests := []struct {
		name   string
		before func(*bench)  // while the entry is held
		gap    time.Duration // in which nobody has the VIP
	}{
		{"it had given the VIP up", func(b *bench) {
			b.change(func() { b.hosts = []*host{good(2)} })
			rest(20 * time.Second)
		}, 0},
		{"it had given the VIP up, and takes it a moment after the other did", func(b *bench) {
			b.change(func() { b.hosts = []*host{good(2)} })
			rest(20 * time.Second)
		}, 2 * time.Second},
		{"it has answered for it all the time", func(b *bench) {
			rest(20 * time.Second)
			b.change(func() { b.hosts[0].api = serves })
		}, 0},
		{"it announced itself until it was stopped", func(b *bench) {
			for range 10 {
				rest(3 * time.Second)
				b.announces(mac(1))
			}
			b.change(func() { b.hosts = []*host{good(2)} })
			rest(anewAfter)
		}, 0},
		{"it was tried in vain a moment ago", func(b *bench) {
			b.change(func() { b.hosts[1].down = true })
			rest(15 * time.Second)
			b.change(func() { b.hosts[1].down = false })
			rest(anewAfter + interval)
		}, 0},
	}
	for _, tt := range tests {
		for _, locktime := range []time.Duration{time.Second, 0} {
			t.Run(tt.name+map[time.Duration]string{0: ", no locktime"}[locktime], func(t *testing.T) {
				for i := range 20 {
					synctest.Test(t, func(t *testing.T) {
						b, _ := held(t)
						b.change(func() { b.locktime = locktime })
						tt.before(b)
						rest(time.Duration(i) * interval / 20)
						b.change(func() { b.hosts = nil })
						rest(tt.gap)
						b.change(func() { b.hosts = []*host{good(1)} })
						b.announces(mac(1))
						if took := when(time.Minute, func() bool { return b.named() == mac(1) && b.subscriptions() == 0 }); took > limit {
							t.Errorf("found after %v, want %v at most", took, limit)
						}
					})
				}
			})
		}
	}
}

// A held holder that stands still for a moment does not lose the VIP to a zombie that
// announces itself meanwhile. Where that one does so all the time, or only answers
// requests, it is not even tried; where it does so for the first time, the holder has
// the entry again once it answers.
func TestZombieAnnouncesItselfWhileTheHeldHolderStandsStill(t *testing.T) {
	const stun = rivalPatience - 300*ms
	tests := []struct {
		name      string
		every     time.Duration // 0: never
		answers   bool          // when everybody is asked
		meanwhile bool          // once
		tried     bool
	}{
		{name: "all the time", every: 3 * time.Second},
		{name: "it answers requests, and announces nothing"},
		{name: "its answer takes the entry", answers: true},
		{name: "for the first time", meanwhile: true, tried: true},
	}
	for _, tt := range tests {
		for _, locktime := range []time.Duration{time.Second, 0} {
			t.Run(tt.name+map[time.Duration]string{0: ", no locktime"}[locktime], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, _ := held(t)
					b.change(func() { b.locktime = locktime })
					if tt.every > 0 {
						b.announcing(t, 1, tt.every)
					}
					b.change(func() {
						b.asking = func(q shield.Question) {
							if tt.answers && q.LLAddr.Len() == 0 {
								b.announces(mac(1))
								time.Sleep(ms) // before the agent itself has undone it
							}
						}
					})
					for i := range 5 {
						rest(anewAfter + time.Duration(i)*600*ms)
						checks := len(b.checked())
						b.standsStill(2)
						if tt.meanwhile {
							time.AfterFunc(500*ms, func() { b.announces(mac(1)) })
						}
						if d := b.wrong(2, stun); (d > 0 || len(b.checked()) > checks) && !tt.tried {
							t.Errorf("stun %d: the entry named the zombie for %v, and %d checks", i, d, len(b.checked())-checks)
						}
						b.change(func() { b.hosts[1].down = false })
						if d := b.wrong(2, 20*time.Second); d > 10*ms && !tt.tried || d > missGap+10*ms {
							t.Errorf("stun %d: %v of the 20 s after it the entry named the zombie", i, d)
						}
						if b.count(Moved) > 1 {
							t.Fatalf("events %v", b.events)
						}
					}
				})
			})
		}
	}
}

// standsStill has a host stand still from a moment before it is asked.
func (b *bench) standsStill(n int) {
	asks := func() (n int) {
		b.change(func() { n = len(b.asks) })
		return n
	}
	down := func(is bool) { b.change(func() { b.host(mac(n)).down = is }) }
	for {
		before := asks()
		when(10*time.Second, func() bool { return asks() > before })
		rest(interval - 5*ms)
		before = asks()
		down(true)
		if rest(10 * ms); asks() > before {
			return
		}
		down(false) // something had it looked at sooner
		rest(interval / 2)
	}
}

// heldBeside returns a bench on which the entry is held with one host against host 1,
// whose API server is frozen. The other has answered as well, later, and was not tried.
func heldBeside(t *testing.T, h, other *host) *bench {
	t.Helper()
	b := newBench([]*host{good(1)})
	b.settle(t)
	other.delay = h.delay + ms
	b.change(func() { b.hosts = []*host{zombie(1, frozen), h, other} })
	if when(20*time.Second, func() bool { return b.count(Held) == 1 && b.named() == h.lladdr }) == never {
		t.Fatalf("not held: events %v, the entry names %s", b.events, b.named())
	}
	return b
}

// A host that answered beside the one that proved itself, and was not tried, may be that
// one itself, by another link-layer address: by that of its own card, beside a virtual one
// (VRRP). When the VIP moves on, and is announced with that address, nothing undoes it.
func TestAnotherAddressOfTheHeldHostIsNotRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own, virtual := good(2), good(3)
		own.body, virtual.body = 7, 7
		b := heldBeside(t, own, virtual)
		rest(5 * time.Second)
		b.change(func() {
			own.down = true
			b.hosts = append(b.hosts, good(3)) // another host, with the virtual address
			b.hosts = slices.DeleteFunc(b.hosts, func(h *host) bool { return h == virtual })
		})
		b.announces(mac(3))
		if d := b.wrong(3, 20*time.Second); d > 10*ms {
			t.Errorf("the entry named another host for %v", d)
		}
		b.announcing(t, 1, 3*time.Second) // the one that does not serve
		if d := b.wrong(3, time.Minute); d > 10*time.Second {
			t.Errorf("the entry named another host for %v", d)
		}
	})
}

// One that was not tried and does not serve takes the entry once, when it announces
// itself, and is checked and rejected then.
func TestUntriedHolderIsCheckedWhenItAnnouncesItself(t *testing.T) {
	for name, a := range map[string]api{"hangs": frozen, "refuses": refuses} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := heldBeside(t, good(2), zombie(3, a))
				b.announcing(t, 3, 3*time.Second)
				if d := b.wrong(2, time.Minute); d == 0 || d > 7*time.Second {
					t.Errorf("the entry named another host for %v", d)
				}
			})
		})
	}
}
