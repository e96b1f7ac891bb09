package solicit

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// line opens a Line on the segment's host.
func (s *segment) line(addr string) *Line {
	s.t.Helper()
	var l *Line
	if err := s.a.Do(func() (err error) {
		l, err = DialLine(s.port.Index, netip.MustParseAddr(addr))
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return l
}

// passed returns how many frames the kernel has put into the Line's socket, or
// dropped for want of room in it, since it was last called.
func (l *Line) passed(t *testing.T) int {
	t.Helper()
	var stats *unix.TpacketStats
	if err := l.socket.control(func(fd int) (err error) {
		stats, err = unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return int(stats.Packets)
}

// quiet takes away a signal that is there, and reports whether it was.
func (l *Line) quiet() bool {
	select {
	case <-l.heard:
		return false
	default:
		return true
	}
}

// hears waits for a signal.
func (l *Line) hears(t *testing.T) {
	t.Helper()
	select {
	case <-l.Heard():
	case <-time.After(10 * time.Second):
		t.Error("heard nothing")
	}
}

// arpRequestPacket is written down from RFC 826.
func arpRequestPacket(sender lladdr, senderAddr, targetAddr string) []byte {
	b := arpReplyPacket(sender, senderAddr, lladdr{}, targetAddr)
	b[7] = 1
	return b
}

// Of all that comes in, the process is woken by what announces the address.
func TestLineHears(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	p := s.puppet(0)
	us := lladdr{2, 0, 0, 0, 0, 0xa}
	arp := func(dst lladdr, packet []byte) []byte { return frame(dst, puppetMAC, unix.ETH_P_ARP, packet) }
	nd := func(dst lladdr, packet []byte) []byte { return frame(dst, puppetMAC, unix.ETH_P_IPV6, packet) }
	v6, other6, us6, all6 := netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("2001:db8::8"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("ff02::1")
	allMAC := lladdr{0x33, 0x33, 0, 0, 0, 1}
	tests := []struct {
		name  string
		addr  string
		frame []byte
		wakes bool
	}{
		{"gratuitous ARP request", "10.0.0.7", arp(broadcast, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")), true},
		{"gratuitous ARP reply", "10.0.0.7", arp(broadcast, arpReplyPacket(puppetMAC, "10.0.0.7", broadcast, "10.0.0.7")), true},
		{"reply that nobody waits for", "10.0.0.7", arp(us, arpReplyPacket(puppetMAC, "10.0.0.7", us, "10.0.0.1")), true},
		{"padded", "10.0.0.7", arp(broadcast, append(arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7"), make([]byte, 18)...)), true},
		{"request for the address", "10.0.0.7", arp(broadcast, arpRequestPacket(puppetMAC, "10.0.0.8", "10.0.0.7")), false},
		{"another's gratuitous ARP", "10.0.0.7", arp(broadcast, arpRequestPacket(puppetMAC, "10.0.0.8", "10.0.0.8")), false},
		{"reply to another host", "10.0.0.7", arp(lladdr{2, 0xee}, arpReplyPacket(puppetMAC, "10.0.0.7", us, "10.0.0.1")), false},
		{"RARP", "10.0.0.7", arp(broadcast, slices.Concat(arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")[:7], []byte{3}, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")[8:])), false},
		{"cut off", "10.0.0.7", arp(broadcast, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")[:27]), false},
		{"another EtherType", "10.0.0.7", frame(broadcast, puppetMAC, unix.ETH_P_802_EX1, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")), false},

		{"unsolicited advertisement", "2001:db8::7", nd(allMAC, naPacket(v6, all6, v6, 0x20, 2, 1, 2, 0xbb, 0, 0, 0, 1)), true},
		{"advertisement that nobody waits for", "2001:db8::7", nd(us, naPacket(v6, us6, v6, 0x40)), true},
		{"another's advertisement", "2001:db8::7", nd(allMAC, naPacket(v6, all6, other6, 0x20, 2, 1, 2, 0xbb, 0, 0, 0, 1)), false},
		{"advertisement to another host", "2001:db8::7", nd(lladdr{2, 0xee}, naPacket(v6, us6, v6, 0x40)), false},
		{"ARP to the line of an IPv6 address", "2001:db8::7", arp(broadcast, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")), false},
	}
	lines := map[string]*Line{"10.0.0.7": s.line("10.0.0.7"), "2001:db8::7": s.line("2001:db8::7%eth0")}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := lines[tt.addr]
			l.passed(t)
			l.quiet()
			// Once the witness has seen what came after it, the frame has come by the Line.
			over := arp(broadcast, arpRequestPacket(puppetMAC, "10.0.0.99", "10.0.0.98"))
			if tt.frame[12] == unix.ETH_P_IPV6>>8 {
				over = nd(allMAC, naPacket(v6, all6, us6, 0x20))
			}
			witness := tap(t, s.a, s.port, uint16(over[12])<<8|uint16(over[13]))
			p.t = t
			p.send(tt.frame, over)
			witness.next(func(b []byte) bool { return bytes.Equal(b, over[14:]) })
			want := 0
			if tt.wakes {
				want = 1
				l.hears(t)
			}
			if n := l.passed(t); n != want {
				t.Errorf("%d frames passed the filter, want %d", n, want)
			}
			if !l.quiet() {
				t.Error("heard, without a frame or twice for one")
			}
		})
	}
}

// Asking on a Line is as asking by a Pool, and its answers are no announcements.
func TestLineAsks(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24", "10.0.0.3/24", "2001:db8::2/64", "2001:db8::3/64")
	s.host("c", macC, "10.0.0.3/24", "2001:db8::3/64")
	for _, tt := range []struct {
		target Target
		want   []string
	}{
		{at("10.0.0.2"), []string{"10.0.0.2 " + macB}},
		{at("10.0.0.3"), []string{"10.0.0.3 " + macB, "10.0.0.3 " + macC}},
		{at("10.0.0.3").to(macC), []string{"10.0.0.3 " + macC}},
		{at("10.0.0.2").to(macC), nil},
		{at("10.0.0.99"), nil},
		{at("2001:db8::2"), []string{"2001:db8::2 " + macB}},
		{at("2001:db8::3"), []string{"2001:db8::3 " + macB, "2001:db8::3 " + macC}},
		{at("2001:db8::3").to(macC), []string{"2001:db8::3 " + macC}},
		{at("2001:db8::99"), nil},
	} {
		l := s.line(tt.target.Addr.String())
		for range 3 {
			var answers []Answer
			start := time.Now()
			if err := l.Ask(t.Context(), tt.target, window, func(a Answer) bool { answers = append(answers, a); return false }); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < window || took > window+2*time.Second {
				t.Errorf("took %v, want the window of %v", took, window)
			}
			if got := holders(answers); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for _, a := range answers {
				if !a.Solicited || a.RTT <= 0 || a.RTT > window {
					t.Errorf("got %+v", a)
				}
			}
			if !l.quiet() {
				t.Errorf("%s: heard", tt.target.Addr)
			}
		}
	}
}

// A request that is no answer, but an announcement, does not get lost in an Ask; and
// what lay in the socket before is no answer.
func TestLineTellsAnswersFromAnnouncements(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	p := s.puppet(unix.ETH_P_ARP)
	l := s.line("10.0.0.7")
	asker := lladdr{2, 0, 0, 0, 0, 0xa}
	reply := frame(asker, puppetMAC, unix.ETH_P_ARP, arpReplyPacket(puppetMAC, "10.0.0.7", asker, "10.0.0.1"))
	p.serve(func(f []byte) {
		if asksFor(f, "10.0.0.7") {
			p.send(frame(broadcast, puppetMAC, unix.ETH_P_ARP, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")))
		}
	})
	var answers []Answer
	if err := l.Ask(t.Context(), at("10.0.0.7"), window, func(a Answer) bool { answers = append(answers, a); return false }); err != nil {
		t.Fatal(err)
	}
	if len(answers) > 0 {
		t.Errorf("answers: %+v", answers)
	}
	l.hears(t)

	// The reader is kept from reading: the frame is there when the Ask begins.
	witness := tap(t, s.a, s.port, unix.ETH_P_ARP)
	l.mu.Lock()
	p.send(reply)
	witness.next(func(b []byte) bool { return bytes.Equal(b, reply[14:]) })
	begun := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), window)
		defer cancel()
		begun <- l.Ask(ctx, at("10.0.0.7"), time.Minute, func(a Answer) bool { t.Errorf("from before: %+v", a); return false })
	}()
	l.mu.Unlock()
	if err := <-begun; !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	l.hears(t)
}

func TestLineContext(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24", "2001:db8::2/64")
	for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
		l := s.line(addr)
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		err := l.Ask(ctx, at(addr).to(macB), time.Minute, func(Answer) bool { cancel(); return false })
		if took := time.Since(start); !errors.Is(err, context.Canceled) || err.Error() != "asking on eth0: context canceled" || took > 5*time.Second {
			t.Errorf("cancelled: %v after %v", err, took)
		}
		var inner error
		if err := l.Ask(t.Context(), at(addr), window, func(Answer) bool {
			inner = l.Ask(ctx, at(addr), time.Minute, func(Answer) bool { return false })
			return false
		}); err != nil {
			t.Error(err)
		}
		if !errors.Is(inner, context.Canceled) {
			t.Errorf("second Ask: %v", inner)
		}
		start = time.Now()
		err = l.Ask(t.Context(), at(addr), time.Minute, func(Answer) bool {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			return false
		})
		if took := time.Since(start); !errors.Is(err, net.ErrClosed) || err.Error() != "asking on eth0: use of closed network connection" || took > 5*time.Second {
			t.Errorf("closed under Ask: %v after %v", err, took)
		}
		if err := l.Ask(t.Context(), at(addr), time.Minute, func(Answer) bool { return false }); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed before Ask: %v", err)
		}
	}
}

// Closing ends the goroutine that reads, whatever it does.
func TestLineCloses(t *testing.T) { // not parallel: it counts goroutines
	s := newSegment(t)
	before := runtime.NumGoroutine()
	for _, full := range []bool{false, true} {
		l := s.line("10.0.0.7")
		if full {
			l.mu.Lock()
			l.read, l.since = lineBurst, time.Now().Add(time.Hour)
			l.mu.Unlock()
			s.puppet(0).send(frame(broadcast, puppetMAC, unix.ETH_P_ARP, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")))
			l.hears(t)
		}
		start := time.Now()
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

func TestLineInterfaceFails(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
		t.Run(addr, func(t *testing.T) {
			s := newSegment(t)
			s.host("b", macB, "10.0.0.2/24", "2001:db8::2/64")
			l := s.line(addr)
			askWhile := func(change string) error {
				start := time.Now()
				err := l.Ask(t.Context(), at(addr), time.Minute, func(Answer) bool { s.a.IP(change); return false })
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
			s.a.IP("link set eth0 address 02:00:00:00:00:aa up")
			s.settle(s.a)
			var answers []Answer
			if err := l.Ask(t.Context(), at(addr), window, func(a Answer) bool { answers = append(answers, a); return false }); err != nil || len(answers) != 1 || !answers[0].Solicited {
				t.Errorf("up again, with another address: %+v, %v", answers, err)
			}
			if err := askWhile("link del eth0"); !errors.Is(err, ErrDown) {
				t.Errorf("gone meanwhile: %v", err)
			}
			if err := askWhile("link show"); !errors.Is(err, ErrGone) {
				t.Errorf("gone before: %v", err)
			}
		})
	}
}

func TestDialLineFails(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	dial := func(before func() error, index int, addr string) error {
		return s.a.Do(func() error {
			if err := before(); err != nil {
				t.Fatal(err)
			}
			l, err := DialLine(index, netip.MustParseAddr(addr))
			if err == nil {
				_ = l.Close()
			}
			return err
		})
	}
	nop := func() error { return nil }
	if err := dial(nop, s.port.Index, "ff02::1"); err == nil || !strings.HasSuffix(err.Error(), ": ff02::1 is not an address that a neighbour holds") {
		t.Errorf("group: %v", err)
	}
	if err := dial(nop, 1, "10.0.0.2"); !errors.Is(err, ErrNotEthernet) {
		t.Errorf("lo: %v", err)
	}
	if err := dial(nop, 9999, "2001:db8::2"); !errors.Is(err, ErrGone) {
		t.Errorf("no such interface: %v", err)
	}
	if err := dial(dropNetRaw, s.port.Index, "10.0.0.2"); !errors.Is(err, ErrPermission) {
		t.Errorf("without CAP_NET_RAW: %v", err)
	}
	l := s.line("10.0.0.2")
	if err := l.Ask(t.Context(), at("10.0.0.3"), time.Minute, nil); err == nil || err.Error() != "asking on eth0: cannot ask for 10.0.0.3 on the line of 10.0.0.2" {
		t.Errorf("another address: %v", err)
	}
	if err := l.Ask(t.Context(), at("10.0.0.2").from("2001:db8::1"), time.Minute, nil); err == nil || err.Error() != "asking on eth0: cannot ask for 10.0.0.2 from 2001:db8::1" {
		t.Errorf("another family: %v", err)
	}
}

// Somebody who announces the address without end costs a bounded number of reads,
// and does not keep the holder's answer from being heard.
func TestLineFlood(t *testing.T) {
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24")
	l := s.line("10.0.0.2")
	p := s.puppet(0)
	ctx, cancel := context.WithCancel(t.Context())
	flooded := make(chan int)
	announcement := frame(broadcast, puppetMAC, unix.ETH_P_ARP, arpRequestPacket(puppetMAC, "10.0.0.2", "10.0.0.2"))
	go func() {
		n := 0
		for ctx.Err() == nil {
			for range 10 {
				p.send(announcement)
				n++
			}
			<-time.After(time.Millisecond)
		}
		flooded <- n
	}()
	defer func() { cancel(); <-flooded }()
	reads := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.read
	}
	l.hears(t)
	deadline := time.Now().Add(10 * time.Second)
	for !l.stopped() {
		if time.Now().After(deadline) {
			t.Fatalf("%d frames read, and still reading", reads())
		}
		<-time.After(time.Millisecond)
	}
	if n := reads(); n > lineBurst+1 {
		t.Errorf("%d frames read in a second", n)
	}
	// In the pause the kernel fills the socket and drops the rest.
	<-time.After(linePeriod / 4)
	if n := reads(); n > lineBurst+1 {
		t.Errorf("%d frames read in a second", n)
	}
	for range 5 {
		answered := false
		err := l.Ask(t.Context(), at("10.0.0.2").to(macB), window, func(a Answer) bool {
			answered = answered || a.Solicited && a.LLAddr.String() == macB
			return answered
		})
		if !answered || err != nil {
			t.Errorf("the holder was heard: %v, %v", answered, err)
		}
	}
	// Asked for longer, it says that it may have missed some.
	if err := l.Ask(t.Context(), at("10.0.0.2"), 10*time.Second, func(Answer) bool { return false }); !errors.Is(err, ErrOverrun) || !strings.HasPrefix(err.Error(), "listening on eth0: answers were lost: ") {
		t.Errorf("flooded: %v", err)
	}
}

// stopped reports whether reading has stopped for the rest of the period.
func (l *Line) stopped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}

// What passes the filter is about the address, and what is an answer for it passes.
func FuzzLineFilter(f *testing.F) {
	f.Add(unhex(f, kernelReply))
	f.Add(unhex(f, kernelRequest))
	f.Add(unhex(f, kernelNA))
	f.Add(unhex(f, kernelNS))
	v4, v6 := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8::2")
	arp, nd := filterVM(f, lineFilter(v4)), filterVM(f, lineFilter(v6))
	f.Fuzz(func(t *testing.T, b []byte) {
		passes := func(vm *bpf.VM) bool {
			n, err := vm.Run(b)
			if err != nil {
				t.Fatal(err)
			}
			return n > 0
		}
		c, ok := parseARP(b, toUs)
		about := len(b) >= 28 && bytes.Equal(b[:7], []byte{0, 1, 8, 0, 6, 4, 0}) && (b[7] == 1 || b[7] == 2) && netip.AddrFrom4([4]byte(b[14:])) == v4
		if got := passes(arp); got != about || ok && c.addr == v4 && !got {
			t.Errorf("%x passes the ARP filter: %v, want %v", b, got, about)
		}
		got := passes(nd)
		if c, ok := parseNA(b, toUs); ok && got != (c.addr == v6) {
			t.Errorf("%x for %s passes the ND filter: %v", b, c.addr, got)
		}
		if got && (len(b) < 64 || b[40] != 136 || netip.AddrFrom16([16]byte(b[48:])) != v6) {
			t.Errorf("%x passes the ND filter", b)
		}
	})
}

// filterVM has every frame be one to this host.
func filterVM(tb testing.TB, filter []bpf.Instruction) *bpf.VM {
	tb.Helper()
	p := slices.Clone(filter)
	for i, ins := range p {
		if ins == (bpf.LoadExtension{Num: bpf.ExtType}) {
			p[i] = bpf.LoadConstant{Val: unix.PACKET_HOST}
		}
	}
	vm, err := bpf.NewVM(p)
	if err != nil {
		tb.Fatal(err)
	}
	return vm
}

// One unicast request and its answer, on a socket of a Pool and on a Line. Most of the time is
// the other host's, and the way there and back.
func BenchmarkAsk(b *testing.B) {
	s := newSegment(b)
	s.host("b", macB, "10.0.0.2/24")
	target := at("10.0.0.2").to(macB)
	line := s.line("10.0.0.2")
	for _, bb := range []struct {
		name string
		ask  func(ctx context.Context, cancel func()) error
		ends error
	}{
		{"Pool", func(ctx context.Context, cancel func()) error {
			return s.conn.Ask(ctx, target, time.Minute, func(Answer) { cancel() })
		}, context.Canceled},
		{"Line", func(ctx context.Context, _ func()) error {
			return line.Ask(ctx, target, time.Minute, func(Answer) bool { return true })
		}, nil},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithCancel(b.Context())
				if err := bb.ask(ctx, cancel); !errors.Is(err, bb.ends) {
					b.Fatal(err)
				}
				cancel()
			}
		})
	}
}
