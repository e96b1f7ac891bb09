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

// overhear listens for an address through a pool.
func (s *segment) overhear(p *Pool, addr string) (heard <-chan string, stop func()) {
	s.t.Helper()
	c := make(chan string, 100)
	if err := s.a.Do(func() (err error) {
		stop, err = p.Overhear(s.port.Index, netip.MustParseAddr(addr), func(a Answer, announced bool) {
			c <- fmt.Sprintf("%s announced=%v override=%v", a.LLAddr, announced, a.Override)
		})
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return c, stop
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
		heard, stop := s.overhear(p, tt.addr)
		again, stopAgain := s.overhear(p, tt.addr)
		if n := len(p.ears); n != 1 {
			t.Errorf("%d sockets listen for two", n)
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
		// One that has stopped hears no more, and the other does.
		stop()
		puppet.send(tt.frames[len(tt.frames)-1])
		if h := <-again; h != end || len(heard) != 0 {
			t.Errorf("%s: heard %q after stop, the other %q", tt.addr, <-heard, h)
		}
		stopAgain()
	}
}

// The last who stops gives the socket back, at rest, for others to ask by or to listen.
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
		var first *Conn
		for i := range 3 {
			heard, stop := s.overhear(p, addr)
			e := p.ears[earKey{s.port.Index, addr == "10.0.0.2"}]
			// Those who ask meanwhile use another.
			answers, err := s.through(p, window, addr)
			if err != nil || len(answers) != 1 {
				t.Fatalf("%v, %v", answers, err)
			}
			if want := macB + " announced=false override=" + fmt.Sprint(addr != "10.0.0.2"); <-heard != want {
				t.Errorf("%s: want %q heard", addr, want)
			}
			stop()
			stop() // is of no consequence
			<-e.done
			if len(p.ears) != 0 || len(p.idle[s.port.Index]) != 2 {
				t.Errorf("%d ears, %d Conns at rest", len(p.ears), len(p.idle[s.port.Index]))
			}
			if i > 0 && e.conn != first && p.idle[s.port.Index][0].Conn != first && p.idle[s.port.Index][1].Conn != first {
				t.Error("another Conn was opened")
			}
			first = e.conn
		}
	}
}

// When its interface fails, the ear is given up, and the next one has a new one.
func TestOverhearFails(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24")
	p := s.pool(func(string) (string, error) { return "10.0.0.1", nil })
	_, stop := s.overhear(p, "10.0.0.2")
	e := p.ears[earKey{s.port.Index, true}]
	s.a.IP("link set dev eth0 down")
	<-e.done
	if !e.conn.closed.Load() {
		t.Error("the Conn is kept")
	}
	s.a.IP("link set dev eth0 up")
	s.settle(s.a)
	heard, stopAgain := s.overhear(p, "10.0.0.2")
	stop() // does not end the other
	if _, err := s.through(p, window, "10.0.0.2"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-time.After(10 * time.Second):
		t.Error("nothing is heard when the interface is up again")
	}
	defer stopAgain()

	hear := func(Answer, bool) {}
	for index, addr := range map[int]string{s.port.Index: "224.0.0.1", 12345: "10.0.0.2"} {
		if err := s.a.Do(func() error {
			_, err := p.Overhear(index, netip.MustParseAddr(addr), hear)
			return err
		}); err == nil || len(p.ears) != 1 {
			t.Errorf("%s on interface %d: %v, %d ears", addr, index, err, len(p.ears))
		}
	}
	last := p.ears[earKey{s.port.Index, true}]
	p.Close()
	select {
	case <-last.done:
	default:
		t.Error("somebody listens when the Pool is closed")
	}
	if _, err := p.Overhear(s.port.Index, netip.MustParseAddr("10.0.0.2"), hear); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed Pool: %v", err)
	}
}
