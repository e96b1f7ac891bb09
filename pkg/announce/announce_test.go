package announce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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
)

var (
	eth0 = neigh.Link{Index: 2, Name: "eth0"}
	eth1 = neigh.Link{Index: 3, Name: "eth1"}
	ours = lladdr(1)
)

func lladdr(last byte) neigh.LLAddr {
	l, _ := neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, last})
	return l
}

func own(addr string, link neigh.Link) neigh.OwnAddr {
	return neigh.OwnAddr{Addr: netip.MustParseAddr(addr), Link: link}
}

func TestJudge(t *testing.T) {
	with := func(o neigh.OwnAddr, change func(*neigh.OwnAddr)) neigh.OwnAddr {
		change(&o)
		return o
	}
	four, six := own("10.0.0.1", eth0), own("2001:db8::1", eth0)
	isTentative := func(o *neigh.OwnAddr) { o.Tentative = true }
	duplicate := func(o *neigh.OwnAddr) { o.Tentative, o.Duplicate = true, true }
	on := func(l neigh.Link) func(*neigh.OwnAddr) { return func(o *neigh.OwnAddr) { o.Link = l } }
	for _, tt := range []struct {
		name  string
		o     neigh.OwnAddr
		scope policy.Scope
		want  outcome
	}{
		{"IPv4", four, policy.Scope{}, ready},
		{"IPv6", six, policy.Scope{}, ready},
		{"not yet known to be its own", with(six, isTentative), policy.Scope{}, tentative},
		{"found to be another's", with(six, duplicate), policy.Scope{}, conflict},
		{"another family", four, policy.Scope{Family: "ipv6"}, outOfScope},
		{"its family", four, policy.Scope{Family: "ipv4"}, ready},
		{"another device", four, policy.Scope{Interfaces: []string{"ens*"}}, outOfScope},
		{"an excluded device", with(six, duplicate), policy.Scope{ExcludeInterfaces: []string{"eth0"}}, outOfScope},
		{"an entry's prefix is no matter", four, policy.Scope{ExcludeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, ready},
		{"on a bridge that answers for others", with(four, on(neigh.Link{Index: 4, Name: "br0", Suppresses: true})), policy.Scope{}, outOfScope},
		{"on lo", with(four, on(neigh.Link{Index: 1, Name: "lo", Loopback: true})), policy.Scope{}, outOfScope},
		{"on a tunnel", with(four, on(neigh.Link{Index: 4, Name: "tun0", PointToPoint: true})), policy.Scope{}, outOfScope},
		{"on a device without address resolution", with(four, on(neigh.Link{Index: 4, Name: "wg0", NoARP: true})), policy.Scope{}, outOfScope},
	} {
		if got := judge(&tt.o, &tt.scope); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// bench is a host and its segment.
type bench struct {
	t       *testing.T
	begun   time.Time
	mu      sync.Mutex
	own     []neigh.OwnAddr
	failing error              // of Own
	dialErr map[string]error   // by device
	sendErr error              // of Probe and Announce
	holders map[string][]byte  // last bytes of whoever answers, by address
	sent    map[string][]event // by address
	turns   int
	unpaced int // frames without a turn
	open    int
	log     bytes.Buffer
	counted map[string]int
}

type event struct {
	what string // "probe", "announce", "announce router"
	at   time.Duration
}

func newBench(t *testing.T, addrs ...neigh.OwnAddr) *bench {
	return &bench{t: t, begun: time.Now(), own: addrs, holders: map[string][]byte{}, sent: map[string][]event{}, counted: map[string]int{}}
}

func (b *bench) Own() (neigh.Own, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return neigh.Own{Addrs: slices.Clone(b.own), LLAddrs: []neigh.LLAddr{ours, lladdr(2)}}, b.failing
}

// set changes something while the announcer runs.
func (b *bench) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

type port struct {
	*bench
	addr string
}

func (p port) frame(what string, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.turns -= n; p.turns < 0 {
		p.unpaced++
	}
	if p.sendErr == nil {
		p.sent[p.addr] = append(p.sent[p.addr], event{what, time.Since(p.begun)})
	}
	return p.sendErr
}

func (p port) Probe(ctx context.Context, window time.Duration, heard func(neigh.LLAddr)) error {
	if err := p.frame("probe", 1); err != nil {
		return err
	}
	p.mu.Lock()
	holders := p.holders[p.addr]
	p.mu.Unlock()
	for _, h := range holders {
		heard(lladdr(h))
	}
	if !pace.Sleep(ctx, window) {
		return ctx.Err()
	}
	return nil
}

func (p port) Announce(router bool) error {
	what := "announce"
	if router {
		what = "announce router"
	}
	return p.frame(what, frames(netip.MustParseAddr(p.addr)))
}

func (p port) Close() error {
	p.set(func() { p.open-- })
	return nil
}

// frames is how many frames announce an address.
func frames(a netip.Addr) int {
	if a.Is4() {
		return 2
	}
	return 1
}

// run starts an announcer. What it returns waits for its end.
func (b *bench) run(ctx context.Context) (wait func()) {
	a := New(Config{
		Table: b, Scope: &policy.Scope{}, Log: slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Dial: func(k neigh.Key) (Port, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, o := range b.own {
				if err := b.dialErr[o.Link.Name]; o.Link.Index == k.Index && err != nil {
					return nil, err
				}
			}
			b.open++
			return port{b, k.Addr.String()}, nil
		},
		Pace: func(ctx context.Context, _, n int) error {
			b.set(func() { b.turns += n })
			return ctx.Err()
		},
		Frames:   frames,
		Conflict: func(device string) { b.set(func() { b.counted[device]++ }) },
	})
	ctx, stop := context.WithTimeout(ctx, time.Hour)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return func() {
		b.t.Helper()
		defer stop()
		if err := <-done; err != nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			b.t.Errorf("it ended with %v, after an hour: %v", err, ctx.Err())
		}
		if b.open != 0 || b.unpaced != 0 {
			b.t.Errorf("%d ports are open, %d frames had no turn", b.open, b.unpaced)
		}
	}
}

// about writes what was sent about an address, as "probe probe announce".
func (b *bench) about(addr string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s []string
	for _, e := range b.sent[addr] {
		s = append(s, e.what)
	}
	return strings.Join(s, " ")
}

// until waits until just that was sent about an address.
func (b *bench) until(addr, want string) {
	b.t.Helper()
	for range 1000 {
		if b.about(addr) == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Errorf("after ten seconds: %s, want %s", b.about(addr), want)
}

const whole = "probe probe probe announce announce announce"

// Each address is probed for and announced, at the times of RFC 5227, once.
func TestAnnounces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		six := own("2001:db8::1", eth1)
		six.Router = true
		b := newBench(t, own("10.0.0.1", eth0), six)
		b.holders["10.0.0.1"] = []byte{1, 2} // the host itself, by both of its devices
		b.run(t.Context())()
		if took := time.Since(b.begun); took != settling {
			t.Errorf("it looked for addresses for %v, want %v", took, settling)
		}
		if got := b.about("10.0.0.1"); got != whole {
			t.Errorf("IPv4: %s", got)
		}
		if got, want := b.about("2001:db8::1"), strings.ReplaceAll(whole, "announce", "announce router"); got != want {
			t.Errorf("IPv6: %s", got)
		}
		for addr, sent := range b.sent {
			first := sent[0].at
			if first >= probeWait {
				t.Errorf("%s: the first probe after %v", addr, first)
			}
			times := []time.Duration{0, 1, 2, 3, 5, 7}
			if len(sent) != len(times) {
				t.Fatalf("%s: %d frames, want %d", addr, len(sent), len(times))
			}
			for i, want := range times {
				if got := sent[i].at - first; got != want*time.Second {
					t.Errorf("%s: frame %d after %v, want %d s", addr, i, got, want)
				}
			}
		}
		if len(b.sent) != 2 {
			t.Fatalf("frames about %d addresses", len(b.sent))
		}
		if b.sent["10.0.0.1"][0].at == b.sent["2001:db8::1"][0].at {
			t.Error("the first probes were sent at the same moment")
		}
		if len(b.counted) > 0 || strings.Count(b.log.String(), "address announced") != 2 {
			t.Errorf("counted %v, log:\n%s", b.counted, b.log.String())
		}
	})
}

// An address that somebody else holds is not announced, as long as he does.
func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, own("10.0.0.1", eth0), own("10.1.0.1", eth1))
		b.holders["10.0.0.1"] = []byte{1, 9}
		wait := b.run(t.Context())
		time.Sleep(3*retry + 30*time.Second)
		if got, want := b.about("10.0.0.1"), "probe probe probe probe"; got != want {
			t.Errorf("%s, want %s: at first, and each minute", got, want)
		}
		if got := b.about("10.1.0.1"); got != whole {
			t.Errorf("another address: %s", got)
		}
		if b.counted["eth0"] != 4 || b.counted["eth1"] != 0 {
			t.Errorf("counted %v", b.counted)
		}
		const says = `level=WARN msg="another host answers for an address of this host: it is not announced until that ends" address=10.0.0.1 device=eth0 holder=02:00:00:00:00:09`
		if n := strings.Count(b.log.String(), says); n != 1 {
			t.Errorf("said %d times:\n%s", n, b.log.String())
		}
		b.set(func() { delete(b.holders, "10.0.0.1") })
		wait()
		if got, want := b.about("10.0.0.1"), "probe probe probe probe "+whole; got != want {
			t.Errorf("afterwards: %s, want %s", got, want)
		}
	})
}

// A holder who is heard in the last moment counts as well.
func TestConflictAtTheLastProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, own("10.0.0.1", eth0))
		ctx, cancel := context.WithCancel(t.Context())
		wait := b.run(ctx)
		b.until("10.0.0.1", "probe probe")
		b.set(func() { b.holders["10.0.0.1"] = []byte{9} })
		time.Sleep(30 * time.Second)
		if got := b.about("10.0.0.1"); got != "probe probe probe" || b.counted["eth0"] != 1 {
			t.Errorf("%s, counted %v", got, b.counted)
		}
		cancel()
		wait()
	})
}

// What the kernel is not done with waits; what it found to be another's is a conflict.
func TestDuplicateAddressDetection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, failed := own("2001:db8::1", eth0), own("2001:db8::2", eth1)
		slow.Tentative, failed.Tentative, failed.Duplicate = true, true, true
		b := newBench(t, slow, failed)
		wait := b.run(t.Context())
		time.Sleep(10 * time.Second)
		if got := b.about("2001:db8::1"); got != "" {
			t.Errorf("while it is tentative: %s", got)
		}
		if b.counted["eth0"] != 0 || b.counted["eth1"] != 1 || !strings.Contains(b.log.String(), `device=eth1 kernel="duplicate address detection"`) {
			t.Errorf("counted %v, log:\n%s", b.counted, b.log.String())
		}
		b.set(func() {
			b.own[0].Tentative = false
			b.own = b.own[:1]
		})
		wait()
		if got := b.about("2001:db8::1"); got != whole {
			t.Errorf("afterwards: %s", got)
		}
		if got := b.about("2001:db8::2"); got != "" {
			t.Errorf("the duplicate: %s", got)
		}
	})
}

// An address that the host loses is announced no more, and one that it gets is.
func TestAddressesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, own("10.0.0.1", eth0))
		wait := b.run(t.Context())
		b.until("10.0.0.1", "probe probe probe announce")
		b.set(func() { b.own = []neigh.OwnAddr{own("10.0.0.2", eth0)} })
		wait()
		if got, want := b.about("10.0.0.1"), "probe probe probe announce"; got != want {
			t.Errorf("lost: %s, want %s", got, want)
		}
		if got := b.about("10.0.0.2"); got != whole {
			t.Errorf("new: %s", got)
		}
	})
}

// Trouble that may pass is waited out. What does not is said once.
func TestTrouble(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cause func(*bench, error)
		err   error
		after time.Duration // it ends
		want  string
		says  string
	}{
		{"no list", func(b *bench, err error) { b.failing = err }, neigh.ErrInterrupted, 10 * time.Second, whole, ""},
		{"device down", func(b *bench, err error) { b.sendErr = err }, errors.New("interface is down"), 30 * time.Second, whole, ""},
		{"no Ethernet", func(b *bench, err error) { b.dialErr = map[string]error{"eth0": err} }, neigh.ErrUnsupported, 0, "", "device is not Ethernet"},
		{"no CAP_NET_RAW", func(b *bench, err error) { b.dialErr = map[string]error{"eth0": err} }, neigh.ErrPermission, 0, "", "CAP_NET_RAW is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, own("10.0.0.1", eth0), own("10.0.1.1", eth0))
				tt.cause(b, fmt.Errorf("wrapped: %w", tt.err))
				wait := b.run(t.Context())
				if tt.after > 0 {
					time.Sleep(tt.after)
					b.set(func() { tt.cause(b, nil); b.failing, b.sendErr = nil, nil })
				}
				wait()
				for _, addr := range []string{"10.0.0.1", "10.0.1.1"} {
					if got := b.about(addr); got != tt.want {
						t.Errorf("%s: %q, want %q", addr, got, tt.want)
					}
				}
				if tt.says != "" && strings.Count(b.log.String(), tt.says) != 1 || len(b.counted) > 0 {
					t.Errorf("counted %v, log:\n%s", b.counted, b.log.String())
				}
			})
		})
	}
}

// A node with many addresses has few sockets open at a time.
func TestManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []neigh.OwnAddr
		for i := range 50 {
			all = append(all, own(fmt.Sprintf("10.%d.0.1", i), eth0))
		}
		b := newBench(t, all...)
		wait := b.run(t.Context())
		time.Sleep(2 * time.Second)
		b.set(func() {
			if b.open != atOnce {
				t.Errorf("%d ports are open, want %d", b.open, atOnce)
			}
		})
		wait()
		for _, o := range all {
			if got := b.about(o.Addr.String()); got != whole {
				t.Errorf("%s: %s", o.Addr, got)
			}
		}
	})
}

// The agent stops at once, whatever is under way.
func TestStops(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 2 * time.Second, 6 * time.Second, time.Minute} {
		for _, holder := range []string{"", "\x09"} {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, own("10.0.0.1", eth0))
				b.holders["10.0.0.1"] = []byte(holder)
				ctx, cancel := context.WithCancel(t.Context())
				wait := b.run(ctx)
				time.Sleep(after)
				stopped := time.Now()
				cancel()
				wait()
				if took := time.Since(stopped); took > 0 {
					t.Errorf("stopped %v after the signal at %v", took, after)
				}
			})
		}
	}
}
