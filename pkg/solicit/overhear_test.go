package solicit

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// overhear listens for an address through a pool, for a while.
func (s *segment) overhear(p *Pool, addr string, d time.Duration) (heard <-chan string) {
	s.t.Helper()
	c := make(chan string, 100)
	if err := s.a.Do(func() error {
		return p.Overhear(s.port.Index, netip.MustParseAddr(addr), time.Now().Add(d), func(a Answer, announced bool) {
			c <- fmt.Sprintf("%s announced=%v override=%v", a.LLAddr, announced, a.Override)
		})
	}); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// ear returns that of the segment's host, nil where nobody listens.
func (s *segment) ear(p *Pool, v4 bool) *ear {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ears[socketKey{s.port.Index, v4}]
}

// An announcement is told from an answer, however late that is: nobody asks here. The
// end of the frames is told by one more announcement, from another host.
func TestOverhear(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	p := s.pool(func(string) (string, error) { return "10.0.0.1", nil })
	puppet := s.puppet(0)
	us, mac, last := lladdr{2, 0, 0, 0, 0, 0xa}, net.HardwareAddr(puppetMAC[:]).String(), lladdr{2, 0xbb, 0, 0, 0, 2}
	holder, other, asker := netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("2001:db8::8"), netip.MustParseAddr("2001:db8::1")
	all := netip.MustParseAddr("ff02::1")
	arp := func(to lladdr, packet []byte) []byte { return frame(to, puppetMAC, unix.ETH_P_ARP, packet) }
	nd := func(to lladdr, packet []byte) []byte { return frame(to, puppetMAC, unix.ETH_P_IPV6, packet) }
	option := append([]byte{2, 1}, puppetMAC[:]...)
	group := lladdr{0x33, 0x33, 0, 0, 0, 1}
	for _, tt := range []struct {
		addr   string
		frames [][]byte
		want   []string
	}{
		{"10.0.0.7", [][]byte{
			arp(us, arpReplyPacket(puppetMAC, "10.0.0.7", us, "10.0.0.1")),               // an answer
			arp(us, arpReplyPacket(puppetMAC, "10.0.0.7", us, "10.0.0.1")),               // and again
			arp(us, arpReplyPacket(puppetMAC, "10.0.0.8", us, "10.0.0.1")),               // for another address
			arp(us, arpReplyPacket(lladdr{}, "10.0.0.7", us, "10.0.0.1")),                // nobody's
			arp(broadcast, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.9")),          // it asks
			arp(broadcast, arpRequestPacket(puppetMAC, "10.0.0.7", "10.0.0.7")),          // gratuitous, as a request
			arp(broadcast, arpReplyPacket(puppetMAC, "10.0.0.7", broadcast, "10.0.0.7")), // as a reply
			arp(us, arpReplyPacket(puppetMAC, "10.0.0.7", us, "10.0.0.7")),               // to us alone
			arp(broadcast, arpReplyPacket(puppetMAC, "10.0.0.7", lladdr{}, "10.0.0.1")),  // an answer for all to hear
			frame(broadcast, last, unix.ETH_P_ARP, arpRequestPacket(last, "10.0.0.7", "10.0.0.7")),
		}, []string{
			mac + " announced=false override=false", mac + " announced=false override=false",
			mac + " announced=true override=false", mac + " announced=true override=false",
			mac + " announced=true override=false", mac + " announced=true override=false",
		}},
		{"2001:db8::7", [][]byte{
			nd(us, naPacket(holder, asker, holder, 0x60, option...)),
			nd(us, naPacket(holder, asker, holder, 0x40, option...)),
			nd(us, naPacket(other, asker, other, 0x60, option...)),
			nd(group, naPacket(holder, all, holder, 0x20, option...)),
			nd(us, naPacket(holder, asker, holder, 0x20, option...)),
			frame(group, last, unix.ETH_P_IPV6, naPacket(holder, all, holder, 0x20, append([]byte{2, 1}, last[:]...)...)),
		}, []string{
			mac + " announced=false override=true", mac + " announced=false override=false",
			mac + " announced=true override=true", mac + " announced=true override=true",
		}},
	} {
		heard := s.overhear(p, tt.addr, time.Minute)
		e := s.ear(p, netip.MustParseAddr(tt.addr).Is4())
		again := s.overhear(p, tt.addr, time.Minute)
		if s.ear(p, netip.MustParseAddr(tt.addr).Is4()) != e {
			t.Error("two sockets listen for two")
		}
		puppet.send(tt.frames...)
		end := fmt.Sprintf("%s announced=true override=%v", net.HardwareAddr(last[:]), netip.MustParseAddr(tt.addr).Is6())
		for _, c := range []<-chan string{heard, again} {
			var got []string
			for {
				select {
				case h := <-c:
					got = append(got, h)
				case <-time.After(10 * time.Second):
					t.Fatalf("%s: heard %q, and not the end", tt.addr, got)
				}
				if got[len(got)-1] == end {
					break
				}
			}
			if got = got[:len(got)-1]; !slices.Equal(got, tt.want) {
				t.Errorf("%s:\ngot  %q\nwant %q", tt.addr, got, tt.want)
			}
		}
		// One whose time is over hears no more, and the other does.
		e.mu.Lock()
		e.wanted[0].until = time.Now()
		e.mu.Unlock()
		puppet.send(tt.frames[len(tt.frames)-1])
		if h := <-again; h != end || len(heard) != 0 {
			t.Errorf("%s: heard %d after its time, the other %q", tt.addr, len(heard), h)
		}
	}
}

// When nobody listens any more the socket is given back, at rest, for others to ask by or
// to listen.
func TestOverhearGivesBack(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24", "2001:db8::2/64")
	p := s.pool(func(addr string) (string, error) {
		if addr == "10.0.0.2" {
			return "10.0.0.1", nil
		}
		return "2001:db8::1", nil
	})
	for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
		key := socketKey{s.port.Index, addr == "10.0.0.2"}
		for range 3 {
			heard := s.overhear(p, addr, 500*time.Millisecond)
			e := s.ear(p, addr == "10.0.0.2")
			// Those who ask meanwhile use another.
			answers, err := s.through(p, window, addr)
			if err != nil || len(answers) != 1 {
				t.Fatalf("%v, %v", answers, err)
			}
			if want := macB + " announced=false override=" + fmt.Sprint(addr != "10.0.0.2"); <-heard != want {
				t.Errorf("%s: want %q heard", addr, want)
			}
			s.overhear(p, addr, 700*time.Millisecond) // has it listen longer
			begun := time.Now()
			if <-e.done; time.Since(begun) < 600*time.Millisecond {
				t.Errorf("it listens for %v", time.Since(begun))
			}
			if len(p.ears) != 0 || len(p.idle[key]) != 2 || len(e.wanted) > 2 {
				t.Errorf("%d ears, %d sockets at rest", len(p.ears), len(p.idle[key]))
			}
		}
	}
}

// Of those who do not listen any more nothing is kept.
func TestOverhearForgets(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	p := s.pool(func(string) (string, error) { return "10.0.0.1", nil })
	s.overhear(p, "10.0.0.2", time.Minute)
	for i := range 100 {
		s.overhear(p, fmt.Sprintf("10.0.1.%d", i), -time.Second)
	}
	if e := s.ear(p, true); len(e.wanted) > 2 {
		t.Errorf("%d are remembered", len(e.wanted))
	}
}

// When its interface fails, the ear is given up, and the next one has a new one.
func TestOverhearFails(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24")
	p := s.pool(func(string) (string, error) { return "10.0.0.1", nil })
	s.overhear(p, "10.0.0.2", time.Minute)
	e := s.ear(p, true)
	s.a.IP("link set dev eth0 down")
	<-e.done
	if !e.socket.closed() || s.ear(p, true) != nil {
		t.Error("it is kept")
	}
	s.a.IP("link set dev eth0 up")
	s.settle(s.a)
	heard := s.overhear(p, "10.0.0.2", time.Minute)
	if _, err := s.through(p, window, "10.0.0.2"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-time.After(10 * time.Second):
		t.Error("nothing is heard when the interface is up again")
	}

	until, hear := time.Now().Add(time.Minute), func(Answer, bool) {}
	for index, addr := range map[int]string{s.port.Index: "224.0.0.1", 12345: "10.0.0.2"} {
		if err := s.a.Do(func() error { return p.Overhear(index, netip.MustParseAddr(addr), until, hear) }); err == nil || len(p.ears) != 1 {
			t.Errorf("%s on interface %d: %v, %d ears", addr, index, err, len(p.ears))
		}
	}
	last := s.ear(p, true)
	p.Close()
	select {
	case <-last.done:
	default:
		t.Error("somebody listens when the Pool is closed")
	}
	if err := p.Overhear(s.port.Index, netip.MustParseAddr("10.0.0.2"), until, hear); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed Pool: %v", err)
	}
}
