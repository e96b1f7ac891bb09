package vip

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

func addrs(n ...int) (all []netip.Addr) {
	for _, i := range n {
		all = append(all, addr(i))
	}
	return all
}

// watched returns the VIPs that are watched, in the order of their addresses.
func (b *bench) watched() (all []netip.Addr) {
	for _, s := range b.w.Status() {
		all = append(all, s.Addr)
	}
	return all
}

func auto(c *Config) { c.Given, c.Auto = nil, true }

func TestDiscovery(t *testing.T) {
	gateway := neigh.Place{Gateway: source, Link: neigh.Link{Index: eth0, Name: "eth0"}}
	tests := []struct {
		name   string
		places map[int]neigh.Place
		conns  []int
		want   []netip.Addr
	}{
		{name: "none"},
		{name: "those there are connections to", conns: []int{7, 5, 5}, want: addrs(5, 7)},
		{
			name: "at most 8", conns: []int{19, 18, 17, 16, 15, 14, 13, 12, 11, 10},
			want: addrs(10, 11, 12, 13, 14, 15, 16, 17),
		},
		{
			name: "on link before the others", conns: []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
			places: map[int]neigh.Place{1: gateway, 2: {Local: true}, 3: gateway},
			want:   addrs(1, 4, 5, 6, 7, 8, 9, 10),
		},
		{
			name: "not the node's own address", conns: []int{1, 2, 3},
			places: map[int]neigh.Place{1: {Here: true, Local: true, Own: true}, 2: {Here: true, Local: true}},
			want:   addrs(2, 3),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench([]*host{good(1)}, auto)
				for n, p := range tt.places {
					b.places[addr(n)] = p
				}
				for _, n := range tt.conns {
					b.dial(addr(n))
				}
				b.start(t)
				rest(10 * time.Second)
				if got := b.watched(); !slices.Equal(got, tt.want) {
					t.Errorf("watched are %v, want %v", got, tt.want)
				}
				if len(b.watching) != len(tt.want) {
					t.Errorf("the hook says %v", b.watching)
				}
			})
		})
	}
}

// What is no neighbour's address is not watched, whatever the sockets say.
func TestDiscoveryLeavesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, auto)
		for _, a := range []string{"127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "fe80::1", "169.254.1.1"} {
			b.dial(netip.MustParseAddr(a))
		}
		b.start(t)
		rest(time.Minute)
		if got := b.watched(); len(got) > 0 {
			t.Errorf("watched are %v", got)
		}
	})
}

// What works, and nobody uses any more, is watched for a while.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, auto)
		c := b.dial(theVIP)
		b.start(t)
		rest(time.Minute)
		b.change(func() { b.drop(c) })
		took := when(time.Hour, func() bool { return len(b.w.Status()) == 0 })
		if took < unusedFor-roundEvery || took > unusedFor+roundEvery+lonelySpread {
			t.Errorf("forgotten after %v, want %v", took, unusedFor)
		}
		rest(ms)
		if len(b.watching) > 0 || len(b.w.Claims()) > 0 {
			t.Errorf("%v are watched, claims %v", b.watching, b.w.Claims())
		}
		if n := len(b.lines(`level=INFO msg="not watching the VIP any more" vip=10.0.0.100 why="nobody on this node uses it"`)); n != 1 {
			t.Errorf("log %q", b.log.String())
		}
	})
}

// A new connection is found in the next round, and at once when something is
// suspicious.
func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, func(c *Config) { c.Auto = true })
		b.kubelet(t, time.Second)
		b.start(t)
		rest(5 * time.Second)
		b.dial(addr(7))
		if took := when(time.Minute, func() bool { return slices.Contains(b.watched(), addr(7)) }); took > roundEvery+interval {
			t.Errorf("found after %v", took)
		}
		rest(3 * time.Second)
		b.dial(addr(8))
		b.change(func() { b.hosts[0].down = true })
		if took := when(time.Minute, func() bool { return slices.Contains(b.watched(), addr(8)) }); took > 3*interval {
			t.Errorf("found %v after there was trouble", took)
		}
	})
}

// Addresses that are given come first, then names, then what is found.
func TestTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, func(c *Config) {
			c.Given, c.Auto = append(given(addrs(1, 2, 3)...), Given{Name: "vip.lab", Port: port}), true
			c.Lookup = func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{addr(3), netip.MustParseAddr("::ffff:10.0.0.4"), addr(5)}, nil
			}
		})
		for n := 5; n < 20; n++ {
			b.dial(addr(n))
		}
		b.start(t)
		rest(10 * time.Second)
		want := []string{"address", "address", "address", "name", "name", "auto", "auto", "auto"}
		for i, s := range b.w.Status() {
			if s.Addr != addr(i+1) || s.Source != want[i] {
				t.Errorf("%s by %s, want %s by %s", s.Addr, s.Source, addr(i+1), want[i])
			}
		}
	})
}

func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var resolved []netip.Addr
		var hangs bool
		var lookups atomic.Int64
		change := func(to []netip.Addr, hang bool) {
			mu.Lock()
			defer mu.Unlock()
			resolved, hangs = to, hang
		}
		b := newBench([]*host{good(1)}, func(c *Config) {
			c.Given = []Given{{Name: "vip.lab", Port: port}}
			c.Lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) {
				lookups.Add(1)
				mu.Lock()
				hang, all := hangs, slices.Clone(resolved)
				mu.Unlock()
				if hang {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return all, nil
			}
		})
		change([]netip.Addr{theVIP}, false)
		b.kubelet(t, time.Second)
		stop := b.start(t)
		rest(10 * time.Second)
		if got := b.watched(); !slices.Equal(got, []netip.Addr{theVIP}) {
			t.Fatalf("watched are %v", got)
		}
		change(addrs(7), false)
		if took := when(2*roundEvery, func() bool { return slices.Contains(b.watched(), addr(7)) }); took > roundEvery+interval {
			t.Errorf("the new address is watched after %v", took)
		}
		change(nil, false) // the name server says that there is none
		rest(2 * roundEvery)
		change(nil, true) // the name server is behind what is broken
		rest(2 * roundEvery)
		if got := b.watched(); !slices.Equal(got, addrs(7, 100)) {
			t.Errorf("watched are %v, want what the name resolved to before", got)
		}
		if n := lookups.Load(); n < 5 || n > 10 {
			t.Errorf("%d lookups in five rounds", n)
		}
		rest(unusedFor) // no answer says anything else
		if got := b.watched(); !slices.Equal(got, addrs(7, 100)) {
			t.Errorf("watched are %v, want what the name resolved to before", got)
		}
		change(addrs(7), false)
		rest(unusedFor + roundEvery)
		if got := b.watched(); !slices.Equal(got, addrs(7)) {
			t.Errorf("watched are %v, want what the name resolved to last", got)
		}
		at := time.Now()
		stop()
		if took := time.Since(at); took > 100*ms {
			t.Errorf("it took %v to stop", took)
		}
	})
}

// A name server that does not answer keeps nobody from watching.
func TestNameServerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench([]*host{good(1)}, func(c *Config) {
			c.Given = append(c.Given, Given{Name: "one.lab", Port: port}, Given{Name: "two.lab", Port: port})
			c.Lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		b.kubelet(t, time.Second)
		b.start(t)
		if took := when(time.Minute, func() bool { return len(b.watched()) == 1 }); took > 2*lookupTimeout+interval {
			t.Errorf("watched after %v", took)
		}
		rest(10 * time.Second)
		b.change(func() { b.hosts = []*host{good(2)} })
		if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > 4*time.Second {
			t.Errorf("repaired after %v", took)
		}
	})
}

// byName has a VIP given by a name, which is resolved by answer. n counts how often that
// was done.
func byName(n *int, answer func(n int) []netip.Addr) func(*Config) {
	return func(c *Config) {
		c.Given = []Given{{Name: "vip.lab", Port: port}}
		c.Lookup = func(context.Context, string) ([]netip.Addr, error) {
			*n++
			return answer(*n), nil
		}
	}
}

// A name server that answers with two of three addresses at a time has none of them
// forgotten; one that does not work any more, and is left out for that, is.
func TestNameOfSeveralAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		three := []netip.Addr{addr(100), addr(101), addr(102)}
		n, gone := 0, false
		b := newBench([]*host{good(1)}, byName(&n, func(n int) []netip.Addr {
			if gone {
				return three[:2]
			}
			return []netip.Addr{three[n%3], three[(n+1)%3]}
		}))
		b.start(t)
		rest(3 * roundEvery)
		for range 20 {
			rest(roundEvery)
			if got := b.watched(); len(got) != 3 {
				t.Fatalf("watched are %v", got)
			}
		}
		if lines := b.lines("not watching"); len(lines) > 0 {
			t.Errorf("%d times an address was let go: %s", len(lines), lines[0])
		}
		b.change(func() { gone, b.mute = true, three[2] })
		if took := when(time.Hour, func() bool { return len(b.watched()) == 2 }); took > 2*leftOutFor {
			t.Errorf("what the name does not resolve to any more, and does not work, was let go after %v", took)
		}
	})
}

// An address in trouble that its name resolves to in every other answer is repaired as
// soon as any, and the alert's condition holds without a gap until it is.
func TestNameInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b := newBench([]*host{good(1)}, byName(&n, func(n int) []netip.Addr { return addrs(100 + n%2) }))
		b.kubelet(t, time.Second)
		b.start(t)
		rest(5 * roundEvery)
		since := time.Now()
		b.change(func() { b.hosts[0].down = true })
		for time.Since(since) < 10*time.Minute {
			rest(interval)
			i := slices.IndexFunc(b.w.Status(), func(s *report.VIP) bool { return s.Addr == theVIP })
			if i < 0 {
				t.Fatalf("not watched after %v", time.Since(since))
			}
			if age := time.Since(b.w.Status()[i].Verified); age < time.Since(since)-2*interval {
				t.Fatalf("after %v it was last known to work %v ago", time.Since(since), age)
			}
		}
		b.change(func() { b.hosts = []*host{good(2)} })
		if took := when(time.Minute, func() bool { return b.named() == mac(2) }); took > askLate+2*interval {
			t.Errorf("repaired after %v", took)
		}
	})
}

// What a name resolved to a while ago takes nobody's place.
func TestNameOfTooManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b := newBench([]*host{good(1)}, func(c *Config) { c.Auto = true }, byName(&n, func(n int) []netip.Addr { return addrs(1 + n%(2*maxVIPs)) }))
		b.kubelet(t, time.Second)
		b.start(t)
		for range 30 {
			rest(roundEvery)
			if got := b.watched(); !slices.Contains(got, theVIP) || len(got) > maxVIPs {
				t.Fatalf("watched are %v, and a client is connected to %s", got, theVIP)
			}
		}
	})
}

// An address that was found by a connection and turns out to be that of a name
// is checked by the name: its certificate may not list the address.
func TestNameOfAnAddressThatIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var resolved atomic.Bool
		b := newBench([]*host{good(1)}, func(c *Config) {
			c.Auto, c.Given = true, []Given{{Name: "vip.lab", Port: port}}
			c.Lookup = func(context.Context, string) ([]netip.Addr, error) {
				if resolved.Load() {
					return []netip.Addr{theVIP}, nil
				}
				return nil, errFake
			}
		})
		b.kubelet(t, time.Second)
		b.start(t)
		rest(10 * time.Second)
		resolved.Store(true)
		rest(2 * roundEvery)
		if got := b.w.Status()[0].Source; got != string(FromName) {
			t.Errorf("known by %s, want %s", got, FromName)
		}
	})
}

// A hundred VIPs that come and go leave nothing behind.
func TestChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b := newBench([]*host{good(1)}, byName(&n, func(n int) []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.0.1." + strconv.Itoa(n))} }))
		stop := b.start(t)
		rest(100*roundEvery + 5*time.Second)
		if w := len(b.watched()); w == 0 || w > maxVIPs || len(b.watching) != w || n < 90 {
			t.Errorf("%d watched, %d announced, of %d", len(b.watched()), len(b.watching), n)
		}
		stop()
		if len(b.w.Status()) > 0 || len(b.watching) > 0 || len(b.w.Claims()) > 0 {
			t.Error("something is watched by what has stopped")
		}
	})
}
