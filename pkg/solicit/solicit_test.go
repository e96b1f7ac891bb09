package solicit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const (
	window = 300 * time.Millisecond
	macB   = "02:00:00:00:00:0b"
	macC   = "02:00:00:00:00:0c"
)

// segment is a host that asks, on a switch with nobody else yet.
type segment struct {
	t    testing.TB
	l    *lab.Lab
	sw   *lab.Switch
	a    *lab.Host
	port lab.Port
	conn *conn
}

func newSegment(t testing.TB) *segment {
	t.Helper()
	l := lab.Start(t)
	s := &segment{t: t, l: l, sw: l.Switch(), a: l.Host("a")}
	s.port = s.a.Plug(s.sw, "eth0", "02:00:00:00:00:0a", "10.0.0.1/24", "2001:db8::1/64")
	s.settle(s.a)
	s.conn = s.dial()
	return s
}

// settle waits until the newest port and its other end carry frames. A device
// is up before its carrier is (linkwatch), and until then what is sent through
// it is dropped without a word.
func (s *segment) settle(hosts ...*lab.Host) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var ends strings.Builder
		for _, h := range hosts {
			ends.WriteString(h.IP("-oneline link show up type veth"))
		}
		ports := s.sw.Host().IP("-oneline -details link show type bridge_slave")
		if ends.Len() > 0 && strings.Count(ends.String(), "state UP") == strings.Count(ends.String(), "\n") &&
			strings.Count(ports, " state forwarding ") == strings.Count(ports, "\n") {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("not up: %s%s", ends.String(), ports)
		}
	}
}

// conn is a socket for each family.
type conn struct{ arp, nd *socket }

func (s *segment) dial() *conn {
	s.t.Helper()
	var c conn
	if err := s.a.Do(func() (err error) {
		if c.arp, err = open(s.port.Index, arpProtocol()); err != nil {
			return err
		}
		c.nd, err = open(s.port.Index, ndProtocol())
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := c.close(); err != nil && !errors.Is(err, os.ErrClosed) {
			s.t.Error(err)
		}
	})
	return &c
}

func (c *conn) close() error { return errors.Join(c.arp.close(), c.nd.close()) }

// Ask asks for a target that lacks nothing, as a Pool does.
func (c *conn) Ask(ctx context.Context, t Target, window time.Duration, answer func(Answer)) error {
	t.Addr = t.Addr.WithZone("")
	r := &round{socket: c.nd, target: t, answer: answer}
	if t.Addr.Is4() {
		r.socket = c.arp
	}
	return r.run(ctx, window, (*Target).check)
}

// closed closes it, and reports whether it was closed before.
func (s *socket) closed() bool { return errors.Is(s.file.Close(), os.ErrClosed) }

// host plugs another host into the segment.
func (s *segment) host(name, mac string, addrs ...string) *lab.Host {
	h := s.l.Host(name)
	h.Plug(s.sw, "eth0", mac, addrs...)
	s.settle(h)
	return h
}

// ask returns the answers in the order of their arrival.
func (s *segment) ask(window time.Duration, t Target) []Answer {
	s.t.Helper()
	var answers []Answer
	if err := s.conn.Ask(s.t.Context(), t, window, func(a Answer) { answers = append(answers, a) }); err != nil {
		s.t.Fatal(err)
	}
	return answers
}

// at is a target to ask everybody for, from the address of the segment's host.
func at(addr string) Target {
	t := Target{Addr: netip.MustParseAddr(addr), Source: netip.MustParseAddr("10.0.0.1")}
	if t.Addr.Is6() {
		t.Source = netip.MustParseAddr("2001:db8::1")
	}
	return t
}

// to makes it a unicast solicitation.
func (t Target) to(mac string) Target {
	t.LLAddr, _ = net.ParseMAC(mac)
	return t
}

// from asks from another address.
func (t Target) from(source string) Target {
	t.Source = netip.MustParseAddr(source)
	return t
}

// holders writes answers as sorted "address lladdr" lines.
func holders(answers []Answer) []string {
	var s []string
	for _, a := range answers {
		s = append(s, a.Addr.String()+" "+a.LLAddr.String())
	}
	slices.Sort(s)
	return s
}

func TestHolders(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24", "10.0.0.3/24", "2001:db8::2/64", "2001:db8::3/64", "fe80::b/64")
	s.host("c", macC, "10.0.0.3/24", "10.0.0.4/24", "2001:db8::3/64", "2001:db8::4/64")
	// One host, two devices on the segment: with arp_ignore 0 both answer.
	d := s.l.Host("d")
	d.Plug(s.sw, "eth0", "02:00:00:00:0d:00", "10.0.0.5/24")
	d.Plug(s.sw, "eth1", "02:00:00:00:0d:01", "10.0.0.6/24")
	s.settle(d)

	tests := []struct {
		name   string
		target Target
		want   []string
	}{
		{"one", at("10.0.0.2"), []string{"10.0.0.2 " + macB}},
		{"one, IPv6", at("2001:db8::2"), []string{"2001:db8::2 " + macB}},
		{"another", at("10.0.0.4"), []string{"10.0.0.4 " + macC}},
		{"another, IPv6", at("2001:db8::4"), []string{"2001:db8::4 " + macC}},
		{"link-local", at("fe80::b%eth0").from("2001:db8::1"), []string{"fe80::b " + macB}},
		{"two", at("10.0.0.3"), []string{"10.0.0.3 " + macB, "10.0.0.3 " + macC}},
		{"two, IPv6", at("2001:db8::3"), []string{"2001:db8::3 " + macB, "2001:db8::3 " + macC}},
		{"two devices of one host", at("10.0.0.5"), []string{"10.0.0.5 02:00:00:00:0d:00", "10.0.0.5 02:00:00:00:0d:01"}},
		{"nobody", at("10.0.0.99"), nil},
		{"nobody, IPv6", at("2001:db8::99"), nil},
		{"ourselves", at("10.0.0.1"), nil},
		{"ourselves, IPv6", at("2001:db8::1"), nil},
		{"by unicast", at("10.0.0.3").to(macC), []string{"10.0.0.3 " + macC}},
		{"by unicast, the other", at("10.0.0.3").to(macB), []string{"10.0.0.3 " + macB}},
		{"by unicast, IPv6", at("2001:db8::3").to(macC), []string{"2001:db8::3 " + macC}},
		{"by unicast, IPv6, the other", at("2001:db8::3").to(macB), []string{"2001:db8::3 " + macB}},
		{"by unicast to nobody", at("10.0.0.2").to("02:00:00:00:00:99"), nil},
		{"by unicast to another", at("2001:db8::2").to(macC), nil},
		{"from nobody", at("10.0.0.3").from("0.0.0.0"), []string{"10.0.0.3 " + macB, "10.0.0.3 " + macC}},
		{"from nobody, IPv6", at("2001:db8::3").from("::"), []string{"2001:db8::3 " + macB, "2001:db8::3 " + macC}},
		{"from nobody, by unicast", at("10.0.0.3").from("0.0.0.0").to(macB), []string{"10.0.0.3 " + macB}},
		{"from nobody, by unicast, IPv6", at("2001:db8::3").from("::").to(macB), []string{"2001:db8::3 " + macB}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			answers := s.ask(window, tt.target)
			if took := time.Since(start); took < window || took > window+2*time.Second {
				t.Errorf("took %v, want the window of %v", took, window)
			}
			if got := holders(answers); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for _, a := range answers {
				if a.RTT <= 0 || a.RTT > window {
					t.Errorf("%s: round-trip time %v", a.LLAddr, a.RTT)
				}
				// An advertisement to the unspecified address goes to all nodes.
				if want := a.Addr.Is4() || !tt.target.Source.IsUnspecified(); a.Solicited != want {
					t.Errorf("%s: solicited %v, want %v", a.LLAddr, a.Solicited, want)
				}
				// To a unicast solicitation Linux answers without Override, and
				// without the option (ndisc_recv_ns).
				if want := a.Addr.Is6() && (tt.target.LLAddr == nil || tt.target.Source.IsUnspecified()); a.Override != want {
					t.Errorf("%s: override %v", a.LLAddr, a.Override)
				}
			}
		})
	}
}

// Asks that are under way at once hear the answers to all of them, and report their own.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	b := s.host("b", macB)
	var lines strings.Builder
	var targets []Target
	for i := range 50 {
		fmt.Fprintf(&lines, "addr add 10.0.0.%d/24 dev eth0\naddr add 2001:db8::100:%x/64 dev eth0 nodad\n", 100+i, i)
		targets = append(targets, at(fmt.Sprintf("10.0.0.%d", 100+i)), at(fmt.Sprintf("2001:db8::100:%x", i)))
	}
	b.Batch(lines.String())
	var conns []*conn
	for range targets {
		conns = append(conns, s.dial())
	}
	var wg sync.WaitGroup
	start := time.Now()
	for i, target := range targets {
		wg.Go(func() {
			var answers []Answer
			if err := conns[i].Ask(t.Context(), target, time.Second, func(a Answer) { answers = append(answers, a) }); err != nil {
				t.Error(err)
			}
			if got, want := holders(answers), []string{target.Addr.String() + " " + macB}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

// Asking makes no entry, and what it does to one that is there is what the
// kernel makes of the answer.
func TestNeighbourTableIsTheKernels(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24", "10.0.0.3/24", "2001:db8::2/64", "2001:db8::3/64")
	s.a.IP("neigh add 10.0.0.2 lladdr " + macB + " dev eth0 nud stale")
	s.a.IP("neigh add 2001:db8::2 lladdr " + macB + " dev eth0 nud stale")
	for _, addr := range []string{"10.0.0.3", "10.0.0.99", "2001:db8::3", "2001:db8::99"} {
		s.ask(window, at(addr))
	}
	states := func() map[string]string {
		m := make(map[string]string)
		for _, n := range s.a.Neighbours() {
			m[n.Addr] = n.State
		}
		return m
	}
	for addr, state := range states() {
		if addr != "10.0.0.2" && addr != "2001:db8::2" || state != "STALE" {
			t.Errorf("%s is %s after others were asked for", addr, state)
		}
	}
	s.ask(window, at("10.0.0.2"))
	s.ask(window, at("2001:db8::2"))
	for addr, state := range states() {
		if state != "REACHABLE" {
			t.Errorf("%s is %s after it was asked for, want REACHABLE", addr, state)
		}
	}
}

// The time is what passed on the wire.
func TestRTT(t *testing.T) {
	s := newSegment(t)
	p := s.puppet(unix.ETH_P_ARP)
	const delay = 50 * time.Millisecond
	p.serve(func(f []byte) {
		<-time.After(delay)
		p.send(frame(srcOf(f), puppetMAC, unix.ETH_P_ARP, arpReplyPacket(puppetMAC, "10.0.0.7", srcOf(f), "10.0.0.1")))
	})
	answers := s.ask(time.Second, at("10.0.0.7"))
	if len(answers) != 1 || answers[0].RTT < delay || answers[0].RTT > delay+500*time.Millisecond {
		t.Errorf("got %+v, want one answer after %v", answers, delay)
	}
}

// srcOf returns the Ethernet source of a frame.
func srcOf(f []byte) lladdr { return lladdr(f[6:]) }

// asksFor says whether an ARP frame is a request for addr.
func asksFor(f []byte, addr string) bool {
	return len(f) >= 42 && f[21] == 1 && netip.AddrFrom4([4]byte(f[38:])) == netip.MustParseAddr(addr)
}

// Announcements count as claims, and are told from answers.
func TestAnnouncements(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	all := netip.MustParseAddr("ff02::1")
	target := netip.MustParseAddr("2001:db8::7")
	us := netip.MustParseAddr("2001:db8::1")
	option := []byte{2, 1, 2, 0xbb, 0, 0, 0, 1}
	nobody := lladdr{2, 0xee}
	tests := []struct {
		name      string
		target    Target
		etherType uint16
		reply     func(asker lladdr) [][]byte
		want      []bool // Solicited of each answer reported
	}{
		{"gratuitous ARP, then the answer, twice", at("10.0.0.7"), unix.ETH_P_ARP, func(asker lladdr) [][]byte {
			announce := frame(broadcast, puppetMAC, unix.ETH_P_ARP, arpReplyPacket(puppetMAC, "10.0.0.7", broadcast, "10.0.0.7"))
			reply := frame(asker, puppetMAC, unix.ETH_P_ARP, arpReplyPacket(puppetMAC, "10.0.0.7", asker, "10.0.0.1"))
			return [][]byte{announce, announce, reply, announce, reply}
		}, []bool{false, true}},
		{"answer first", at("10.0.0.7"), unix.ETH_P_ARP, func(asker lladdr) [][]byte {
			announce := frame(broadcast, puppetMAC, unix.ETH_P_ARP, arpReplyPacket(puppetMAC, "10.0.0.7", broadcast, "10.0.0.7"))
			reply := frame(asker, puppetMAC, unix.ETH_P_ARP, arpReplyPacket(puppetMAC, "10.0.0.7", asker, "10.0.0.1"))
			return [][]byte{reply, announce}
		}, []bool{true}},
		{"unsolicited advertisement", at("2001:db8::7"), unix.ETH_P_IPV6, func(lladdr) [][]byte {
			return [][]byte{frame(lladdr{0x33, 0x33, 0, 0, 0, 1}, puppetMAC, unix.ETH_P_IPV6, naPacket(target, all, target, 0x20, option...))}
		}, []bool{false}},
		{"advertisement without the option", at("2001:db8::7"), unix.ETH_P_IPV6, func(asker lladdr) [][]byte {
			return [][]byte{frame(asker, puppetMAC, unix.ETH_P_IPV6, naPacket(target, us, target, 0x40))}
		}, []bool{true}},
		{"answer without Override, then with", at("2001:db8::7"), unix.ETH_P_IPV6, func(asker lladdr) [][]byte {
			weak := frame(asker, puppetMAC, unix.ETH_P_IPV6, naPacket(target, us, target, 0x40))
			strong := frame(asker, puppetMAC, unix.ETH_P_IPV6, naPacket(target, us, target, 0x60, option...))
			return [][]byte{weak, weak, strong, weak, strong}
		}, []bool{true, true}},
		{"what is none", at("10.0.0.7"), unix.ETH_P_ARP, func(asker lladdr) [][]byte {
			reply := arpReplyPacket(puppetMAC, "10.0.0.7", asker, "10.0.0.1")
			return [][]byte{
				frame(nobody, puppetMAC, unix.ETH_P_ARP, reply),                                                               // to another host
				frame(asker, puppetMAC, unix.ETH_P_ARP, arpReplyPacket(puppetMAC, "10.0.0.8", asker, "10.0.0.1")),             // of another address
				frame(asker, puppetMAC, unix.ETH_P_ARP, arpReplyPacket(lladdr{}, "10.0.0.7", asker, "10.0.0.1")),              // nobody's
				frame(asker, puppetMAC, unix.ETH_P_ARP, arpReplyPacket(broadcast, "10.0.0.7", asker, "10.0.0.1")),             // everybody's
				frame(asker, puppetMAC, unix.ETH_P_ARP, slices.Concat(reply[:7], []byte{1}, reply[8:])),                       // a request
				frame(asker, puppetMAC, unix.ETH_P_ARP, slices.Concat([]byte{0, 6}, reply[2:])),                               // IEEE 802
				frame(asker, puppetMAC, unix.ETH_P_ARP, reply[:27]),                                                           // cut off
				frame(asker, puppetMAC, unix.ETH_P_802_EX1, reply),                                                            // another EtherType
				frame(asker, puppetMAC, unix.ETH_P_IPV6, naPacket(target, us, target, 0x60, option...)),                       // another family
				frame(asker, puppetMAC, unix.ETH_P_ARP, slices.Concat(reply[:4], []byte{6, 16}, reply[6:], make([]byte, 99))), // long addresses
			}
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			p := s.puppet(tt.etherType)
			// The switch learns where the asker is, and floods for nobody.
			p.serve(func(f []byte) {
				arp := tt.etherType == unix.ETH_P_ARP && f[21] == 1
				nd := tt.etherType == unix.ETH_P_IPV6 && f[20] == unix.IPPROTO_ICMPV6 && f[54] == 135
				if arp || nd {
					p.send(tt.reply(srcOf(f))...)
				}
			})
			var solicited []bool
			for _, a := range s.ask(window, tt.target) {
				solicited = append(solicited, a.Solicited)
				if a.Addr != tt.target.Addr || a.LLAddr.String() != net.HardwareAddr(puppetMAC[:]).String() {
					t.Errorf("got %+v", a)
				}
			}
			if !slices.Equal(solicited, tt.want) {
				t.Errorf("solicited: %v, want %v", solicited, tt.want)
			}
		})
	}
}

// A flood of holders takes no more than its share, of memory and of time, and does not
// keep the answer for another address from being heard.
func TestFlood(t *testing.T) {
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24")
	p := s.puppet(unix.ETH_P_ARP)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.serve(func(f []byte) {
		for i := 0; ctx.Err() == nil && asksFor(f, "10.0.0.7"); i++ {
			from := lladdr{2, 0xff, 0, 0, byte(i >> 8), byte(i)}
			p.send(frame(srcOf(f), from, unix.ETH_P_ARP, arpReplyPacket(from, "10.0.0.7", srcOf(f), "10.0.0.1")))
		}
	})
	ask := func(c *conn, addr string, want int) {
		t.Helper()
		start, n := time.Now(), 0
		err := c.Ask(ctx, at(addr), window, func(Answer) { n++ })
		lost := errors.Is(err, ErrOverrun) // which is as it may be
		if err != nil && !lost {
			t.Error(err)
		}
		if n != want && (addr == "10.0.0.7" || !lost) {
			t.Errorf("%s: %d answers, want %d", addr, n, want)
		}
		if took := time.Since(start); took > window+2*time.Second {
			t.Errorf("took %v", took)
		}
	}
	ask(s.conn, "10.0.0.7", maxHolders) // the flood goes on afterwards
	ask(s.dial(), "10.0.0.2", 1)
}

// A caller that cannot keep up is told so.
func TestOverrun(t *testing.T) {
	s := newSegment(t)
	p := s.puppet(unix.ETH_P_ARP)
	sent := make(chan struct{})
	p.serve(func(f []byte) {
		if !asksFor(f, "10.0.0.7") {
			return
		}
		reply := arpReplyPacket(puppetMAC, "10.0.0.7", srcOf(f), "10.0.0.1")
		for range maxQueued {
			p.send(frame(srcOf(f), puppetMAC, unix.ETH_P_ARP, reply))
		}
		close(sent)
	})
	var answers int
	err := s.conn.Ask(t.Context(), at("10.0.0.7"), window, func(Answer) {
		answers++
		<-sent
	})
	if !errors.Is(err, ErrOverrun) || !strings.HasPrefix(err.Error(), "listening on eth0: answers were lost: ") || answers != 1 {
		t.Errorf("%d answers, %v; want one and ErrOverrun", answers, err)
	}
	// Only the Ask that it happened in.
	if err := s.conn.Ask(t.Context(), at("10.0.0.8"), window, func(Answer) {}); err != nil {
		t.Error(err)
	}
}

// unread reads a frame that lies in the socket; without one it fails with EAGAIN.
func (s *socket) unread() (b []byte, h header, err error) {
	err = s.control(func(fd int) (err error) {
		b, h, err = s.recvfrom(fd)
		return err
	})
	return b, h, err
}

// What came before an Ask is not an answer to it: neither what came while the
// socket was at rest, nor what lay unread in the socket.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	for _, etherType := range []uint16{unix.ETH_P_ARP, unix.ETH_P_IPV6} {
		// Of two packet sockets the one bound last sees a frame first: when the
		// witness has it, so has the socket under test.
		witness := tap(t, s.a, s.port, etherType)
		s.conn = s.dial()
		p := s.puppet(0)
		asker := lladdr{2, 0, 0, 0, 0, 0xa}
		target, sock := at("10.0.0.7"), s.conn.arp
		stale := frame(asker, puppetMAC, etherType, arpReplyPacket(puppetMAC, "10.0.0.7", asker, "10.0.0.1"))
		if etherType == unix.ETH_P_IPV6 {
			target, sock = at("2001:db8::7"), s.conn.nd
			stale = frame(asker, puppetMAC, etherType, naPacket(target.Addr, target.Source, target.Addr, 0x60, 2, 1, 2, 0xbb, 0, 0, 0, 1))
		}
		arrives := func() {
			p.send(stale)
			witness.next(func(b []byte) bool { return string(b) == string(stale[14:]) })
		}
		listen := func() {
			if _, err := sock.listen(); err != nil {
				t.Fatal(err)
			}
		}
		listen()
		arrives()
		if b, h, err := sock.unread(); err != nil || h.source != puppetMAC || !h.toUs || string(b) != string(stale[14:]) {
			t.Fatalf("while listening: %x, %+v, %v", b, h, err)
		}
		sock.rest()
		for range 10 {
			arrives()
		}
		let := 0
		for ; ; let++ {
			if _, _, err := sock.unread(); err != nil {
				break
			}
		}
		if let > 4 {
			t.Errorf("%d frames let in at rest", let)
		}
		for range 3 {
			arrives()
		}
		listen()
		if b, _, err := sock.unread(); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("from before: %x, %v", b, err)
		}
		arrives()
		sock.rest()
		if got := s.ask(window, target); len(got) > 0 {
			t.Errorf("got %+v, which came before", got)
		}
	}
}

// IPv6 packets are looked at while somebody asks for IPv6 addresses, and ARP
// frames all the time.
func TestListening(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24", "2001:db8::2/64")
	// hooks returns the EtherTypes that packet sockets get from eth0.
	hooks := func() (types []string) {
		t.Helper()
		var packet []byte
		if err := s.a.Do(func() (err error) {
			packet, err = os.ReadFile("/proc/thread-self/net/packet")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(packet)) {
			// sk RefCnt Type Proto Iface Running ...
			if f := strings.Fields(line); len(f) > 5 && f[4] == strconv.Itoa(s.port.Index) && f[5] == "1" {
				types = append(types, f[3])
			}
		}
		slices.Sort(types)
		return types
	}
	expect := func(when string, want ...string) {
		t.Helper()
		if got := hooks(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	expect("dialled", "0806")
	s.ask(window, at("10.0.0.2"))
	expect("asked by ARP", "0806")
	for range 2 {
		answered := false
		if err := s.conn.Ask(t.Context(), at("2001:db8::2"), window, func(Answer) {
			answered = true
			expect("asking by ND", "0806", "86dd")
		}); err != nil || !answered {
			t.Errorf("answered %v, %v", answered, err)
		}
		expect("asked by ND", "0806", "88b5")
	}
	if err := s.conn.close(); err != nil {
		t.Error(err)
	}
	// A descriptor that is read from is closed once the read has returned.
	for end := time.Now().Add(5 * time.Second); len(hooks()) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	expect("closed")
}

func TestContext(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24", "2001:db8::2/64")
	for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		err := s.conn.Ask(ctx, at(addr), time.Minute, func(Answer) { cancel() })
		if !errors.Is(err, context.Canceled) || err.Error() != "asking on eth0: context canceled" {
			t.Errorf("cancelled: %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("cancelling took %v", took)
		}
		// The deadline of a context cuts the window short.
		ctx, cancel = context.WithTimeout(t.Context(), window/3)
		err = s.conn.Ask(ctx, at(addr), time.Minute, func(Answer) {})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("past the deadline: %v", err)
		}
		if got := len(s.ask(window, at(addr))); got != 1 {
			t.Errorf("%d answers afterwards", got)
		}
	}
}

func TestInterfaceFails(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
		t.Run(addr, func(t *testing.T) {
			s := newSegment(t)
			s.host("b", macB, "10.0.0.2/24", "2001:db8::2/64")
			askWhile := func(change string) error {
				start := time.Now()
				err := s.conn.Ask(t.Context(), at(addr), time.Minute, func(Answer) { s.a.IP(change) })
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("%s: took %v", change, took)
				}
				if err == nil || !strings.Contains(err.Error(), " on eth0: interface is ") {
					t.Errorf("%s: %v, want an error that names eth0", change, err)
				}
				return err
			}
			if err := askWhile("link set eth0 down"); !errors.Is(err, ErrDown) {
				t.Errorf("down meanwhile: %v", err)
			}
			if err := askWhile("link set eth0 down"); !errors.Is(err, ErrDown) {
				t.Errorf("down before: %v", err)
			}
			s.a.IP("link set eth0 up")
			s.a.IP("link set eth0 down")
			s.a.IP("link set eth0 address 02:00:00:00:00:aa up")
			s.settle(s.a)
			if got := s.ask(window, at(addr)); len(got) != 1 || !got[0].Solicited {
				t.Errorf("up again, with another address: %+v", got)
			}
			// A device that goes goes down first.
			if err := askWhile("link del eth0"); !errors.Is(err, ErrDown) {
				t.Errorf("gone meanwhile: %v", err)
			}
			if err := askWhile("link show"); !errors.Is(err, ErrGone) {
				t.Errorf("gone before: %v", err)
			}
		})
	}
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	for _, protocol := range []protocol{arpProtocol(), ndProtocol()} {
		openAfter := func(before func() error, index int) error {
			return s.a.Do(func() error {
				if err := before(); err != nil {
					t.Fatal(err)
				}
				sock, err := open(index, protocol)
				if err == nil {
					_, err = sock.listen()
					_ = sock.close()
				}
				return err
			})
		}
		nop := func() error { return nil }
		if err := openAfter(nop, 1); !errors.Is(err, ErrNotEthernet) || err.Error() != "lo is of ARPHRD type 772 with addresses of 6 bytes: not an Ethernet interface" {
			t.Errorf("lo: %v", err)
		}
		for index, says := range map[int]string{9999: " on interface 9999: interface is gone (no such device)", 0: "interface index 0: interface is gone", -1: "interface index -1: interface is gone"} {
			if err := openAfter(nop, index); !errors.Is(err, ErrGone) || !strings.HasSuffix(err.Error(), says) {
				t.Errorf("index %d: %v, want %s", index, err, says)
			}
		}
		// The thread that Do uses is thrown away, and its capabilities with it.
		if err := openAfter(dropNetRaw, s.port.Index); !errors.Is(err, ErrPermission) || !errors.Is(err, unix.EPERM) || err.Error() != "opening packet socket: CAP_NET_RAW: not permitted (operation not permitted)" {
			t.Errorf("without CAP_NET_RAW: %v", err)
		}
		s.a.IP("link set eth0 down")
		if err := openAfter(nop, s.port.Index); err != nil {
			t.Errorf("down: %v", err)
		}
		s.a.IP("link set eth0 up")
	}
}

func dropNetRaw() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_RAW
	data[0].Permitted &^= 1 << unix.CAP_NET_RAW
	return unix.Capset(&hdr, &data[0])
}

func TestTargetsThatCannotBeAskedFor(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	for _, tt := range []struct {
		bad  Target
		says string
	}{
		{Target{}, "invalid IP is not an address that a neighbour holds"},
		{Target{Addr: netip.MustParseAddr("10.0.0.2")}, "cannot ask for 10.0.0.2 from invalid IP"},
		{at("10.0.0.2").from("2001:db8::1"), "cannot ask for 10.0.0.2 from 2001:db8::1"},
		{at("2001:db8::2").from("10.0.0.1"), "cannot ask for 2001:db8::2 from 10.0.0.1"},
		{at("2001:db8::2").from("::ffff:10.0.0.1"), "cannot ask for 2001:db8::2 from ::ffff:10.0.0.1"},
		{at("2001:db8::2").from("ff02::1"), "cannot ask for 2001:db8::2 from ff02::1"},
		{at("::ffff:10.0.0.2"), "::ffff:10.0.0.2 is not an address that a neighbour holds"},
		{at("0.0.0.0"), "0.0.0.0 is not an address that a neighbour holds"},
		{at("224.0.0.1"), "224.0.0.1 is not an address that a neighbour holds"},
		{at("::"), ":: is not an address that a neighbour holds"},
		{at("ff02::1"), "ff02::1 is not an address that a neighbour holds"},
		{Target{Addr: netip.MustParseAddr("10.0.0.2"), Source: netip.MustParseAddr("10.0.0.1"), LLAddr: net.HardwareAddr{1, 2, 3}},
			"cannot ask 01:02:03 for 10.0.0.2: not an Ethernet interface"},
	} {
		err := s.conn.Ask(t.Context(), tt.bad, time.Minute, nil)
		if says := tt.bad.Addr.String() + " was not asked for: " + tt.says; err == nil || err.Error() != says {
			t.Errorf("%+v: %v, want %s", tt.bad, err, says)
		}
	}
}
