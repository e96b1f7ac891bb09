package solicit

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// announcer opens one for an address of the segment's host.
func (s *segment) announcer(addr string) *Announcer {
	s.t.Helper()
	var a *Announcer
	if err := s.a.Do(func() (err error) {
		a, err = DialAnnouncer(s.port.Index, netip.MustParseAddr(addr))
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return a
}

// probed returns who was heard.
func (a *Announcer) probed(t *testing.T) []string {
	t.Helper()
	var heard []Answer
	if err := a.Probe(t.Context(), window, func(a Answer) { heard = append(heard, a) }); err != nil {
		t.Fatal(err)
	}
	return holders(heard)
}

// The kernel announces its addresses by itself, where it is told to. What it sends then
// is what is sent here, but for the reply that goes along with its request.
func TestAnnouncesAsTheKernelAnnounces(t *testing.T) {
	s := newSegment(t)
	p := s.puppet(unix.ETH_P_ARP)
	s.a.Sysctl("net/ipv4/conf/eth0/arp_notify", "1")
	s.a.Sysctl("net/ipv6/conf/eth0/ndisc_notify", "1")
	mine := lladdr{2, 0, 0, 0, 0, 0xa}
	notify := func() {
		s.a.IP("link set eth0 address 02:00:00:00:00:0f")
		s.a.IP("link set eth0 address 02:00:00:00:00:0a")
	}
	arp := func(op byte) func(b []byte) bool {
		return func(b []byte) bool { return b[7] == op && bytes.Equal(b[8:14], mine[:]) }
	}
	notify()
	want := p.next(arp(1))
	four := s.announcer("10.0.0.1")
	if err := four.Announce(false); err != nil {
		t.Fatal(err)
	}
	if got := p.next(arp(1)); !bytes.Equal(got[:28], want[:28]) {
		t.Errorf("request: %x, the kernel's is %x", got, want)
	}
	if got, want := p.next(arp(2)), arpReplyPacket(mine, "10.0.0.1", mine, "10.0.0.1"); !bytes.Equal(got[:28], want) {
		t.Errorf("reply: %x, want %x", got, want)
	}

	six := s.announcer("2001:db8::1%eth0")
	nd := tap(t, p.host, p.port, unix.ETH_P_IPV6)
	about := func(b []byte) bool {
		return len(b) >= 72 && b[6] == 58 && b[40] == 136 && netip.AddrFrom16([16]byte(b[48:])) == six.addr && bytes.Equal(b[66:72], mine[:])
	}
	for _, router := range []string{"0", "1"} {
		s.a.Sysctl("net/ipv6/conf/eth0/forwarding", router)
		notify()
		want := nd.next(about)
		if err := six.Announce(router == "1"); err != nil {
			t.Fatal(err)
		}
		if got := nd.next(about); !bytes.Equal(got, want) {
			t.Errorf("advertisement: %x, the kernel's is %x", got, want)
		}
	}
}

// An announcement moves the entry of whoever has one, and makes none.
func TestAnnouncementsMoveEntries(t *testing.T) {
	s := newSegment(t)
	peer := s.host("b", macB, "10.0.0.2/24", "2001:db8::2/64")
	stranger := s.host("c", macC, "10.0.0.3/24", "2001:db8::3/64")
	for _, addr := range []string{"10.0.0.1", "2001:db8::1"} {
		peer.IP("neigh replace " + addr + " lladdr 02:00:00:00:00:99 dev eth0 nud reachable")
		if err := s.announcer(addr).Announce(false); err != nil {
			t.Fatal(err)
		}
		moved := func() bool { return strings.Contains(peer.IP("neigh show "+addr), "lladdr 02:00:00:00:00:0a") }
		for deadline := time.Now().Add(5 * time.Second); !moved(); <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not moved: %s", peer.IP("neigh show"))
			}
		}
		if made := stranger.IP("neigh show " + addr); made != "" {
			t.Errorf("made: %s", made)
		}
	}
}

// A probe hears whoever answers for the address, and whoever speaks from it; and it
// leaves no trace on who hears it.
func TestProbeHearsHolders(t *testing.T) {
	s := newSegment(t)
	b := s.l.Host("b")
	port := b.Plug(s.sw, "eth0", macB, "10.0.0.2/24", "2001:db8::2/64")
	s.settle(b)
	four, six := s.announcer("10.0.0.1"), s.announcer("2001:db8::1")
	heard := b.HearSolicitations(port)
	for _, a := range []*Announcer{four, six} {
		if got := a.probed(t); got != nil {
			t.Errorf("with no other holder: %q", got)
		}
	}
	for _, a := range []*Announcer{four, six} {
		select {
		case got := <-heard:
			if got.Target != a.addr || !got.Sender.IsUnspecified() || !got.ToAll {
				t.Errorf("it heard %+v", got)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("it heard no probe")
		}
	}
	if left := b.IP("neigh show"); left != "" {
		t.Errorf("a probe left %s", left)
	}

	b.IP("addr add 10.0.0.1/24 dev eth0")
	b.IP("addr add 2001:db8::1/64 dev eth0 nodad")
	for _, a := range []*Announcer{four, six} {
		if got, want := a.probed(t), []string{a.addr.String() + " " + macB}; !slices.Equal(got, want) {
			t.Errorf("with another holder: %q, want %q", got, want)
		}
	}
	b.Sysctl("net/ipv4/conf/all/arp_ignore", "8") // it does not answer, but speaks
	if got := four.probed(t); got != nil {
		t.Errorf("with a holder who does not answer: %q", got)
	}
	p := s.puppet(unix.ETH_P_ARP)
	p.serve(func(f []byte) {
		if asksFor(f, "10.0.0.1") {
			p.send(frame(broadcast, puppetMAC, unix.ETH_P_ARP, arpRequestPacket(puppetMAC, "10.0.0.1", "10.0.0.3")))
		}
	})
	if got, want := four.probed(t), []string{"10.0.0.1 02:bb:00:00:00:01"}; !slices.Equal(got, want) {
		t.Errorf("with a holder who asks: %q, want %q", got, want)
	}
}

func TestAnnouncerFails(t *testing.T) {
	s := newSegment(t)
	dial := func(before func() error, index int, addr string) error {
		return s.a.Do(func() error {
			if err := before(); err != nil {
				t.Fatal(err)
			}
			a, err := DialAnnouncer(index, netip.MustParseAddr(addr))
			if err == nil {
				_ = a.Close()
			}
			return err
		})
	}
	nop := func() error { return nil }
	if err := dial(nop, s.port.Index, "224.0.0.1"); err == nil || !strings.HasSuffix(err.Error(), ": 224.0.0.1 is not an address that a neighbour holds") {
		t.Errorf("group: %v", err)
	}
	if err := dial(nop, 1, "10.0.0.1"); !errors.Is(err, ErrNotEthernet) {
		t.Errorf("lo: %v", err)
	}
	if err := dial(dropNetRaw, s.port.Index, "10.0.0.1"); !errors.Is(err, ErrPermission) {
		t.Errorf("without CAP_NET_RAW: %v", err)
	}
	a := s.announcer("10.0.0.1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Probe(ctx, time.Minute, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	s.a.IP("link set eth0 down")
	if err := a.Announce(false); !errors.Is(err, ErrDown) {
		t.Errorf("down: %v", err)
	}
	if err := a.Probe(t.Context(), time.Minute, nil); !errors.Is(err, ErrDown) {
		t.Errorf("down: %v", err)
	}
	s.a.IP("link del eth0")
	if err := a.Announce(false); !errors.Is(err, ErrGone) {
		t.Errorf("gone: %v", err)
	}
}
