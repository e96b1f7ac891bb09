package solicit

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// listen has a host accept TCP connections at an address, and keep them.
func (s *segment) listen(h *lab.Host, addr string) {
	s.t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	var conns []net.Conn
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	}()
	s.t.Cleanup(func() {
		_ = l.Close()
		<-done
		for _, c := range conns {
			_ = c.Close()
		}
	})
}

// A host with two link-layer addresses acknowledges at each a connection that was made
// by one. Another host that has the address and serves it as well does not, nor does one
// that drops what it does not know; and the entry stays as it is.
func TestSameHost(t *testing.T) {
	for name, addr := range map[string]string{"IPv4": "10.0.0.2", "IPv6": "2001:db8::2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSegment(t)
			holder, twin, silent := s.l.Host("holder"), s.l.Host("twin"), s.l.Host("silent")
			holder.Plug(s.sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24", "2001:db8::2/64")
			holder.Plug(s.sw, "eth1", "02:00:00:00:00:12")
			twin.Plug(s.sw, "eth0", "02:00:00:00:00:03", "10.0.0.2/24", "2001:db8::2/64")
			silent.Plug(s.sw, "eth0", "02:00:00:00:00:04", "10.0.0.2/24", "2001:db8::2/64")
			silent.Firewall(t, "table inet f { chain in { type filter hook input priority 0\n tcp dport 6443 drop\n }\n }")
			for _, h := range []*lab.Host{twin, silent} {
				h.IP("neighbour replace 10.0.0.1 lladdr 02:00:00:00:00:0a dev eth0 nud permanent")
				h.IP("neighbour replace 2001:db8::1 lladdr 02:00:00:00:00:0a dev eth0 nud permanent")
			}
			s.settle(s.a, holder, twin, silent)
			s.a.IP("neighbour replace " + addr + " lladdr 02:00:00:00:00:02 dev eth0 nud reachable") // else any may answer
			server := net.JoinHostPort(addr, "6443")
			s.listen(holder, server)
			s.listen(twin, server)

			reaches := func(ctx context.Context, before func() error, mac string) (same bool, again, err error) {
				t.Helper()
				if err := s.a.Do(func() error {
					conn, dialed := net.DialTimeout("tcp", server, 2*time.Second)
					if dialed != nil {
						t.Fatal(dialed)
					}
					defer conn.Close()
					if err := before(); err != nil {
						t.Fatal(err)
					}
					to, _ := net.ParseMAC(mac)
					same, err = SameHost(ctx, s.port.Index, conn.(*net.TCPConn), to)
					_, again = conn.Write([]byte("x"))
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				return same, again, err
			}
			nop := func() error { return nil }
			for mac, want := range map[string]struct{ same, alive bool }{
				"02:00:00:00:00:02": {true, true},
				"02:00:00:00:00:12": {true, true},
				"02:00:00:00:00:03": {false, false}, // it resets what it does not know: evidence that it was asked
				"02:00:00:00:00:04": {false, true},
				"02:00:00:00:00:05": {false, true}, // nobody's
			} {
				same, again, err := reaches(t.Context(), nop, mac)
				if err != nil || same != want.same || (again == nil) != want.alive {
					t.Errorf("%s: same host %v, %v; then the connection: %v; want %+v", mac, same, err, again, want)
				}
			}
			if e := s.a.IP("neighbour show " + addr); !strings.Contains(e, "02:00:00:00:00:02") {
				t.Errorf("the entry has changed: %s", e)
			}
			if _, _, err := reaches(t.Context(), dropNetRaw, "02:00:00:00:00:12"); !errors.Is(err, ErrPermission) {
				t.Errorf("without CAP_NET_RAW: %v", err)
			}
			over, cancel := context.WithCancel(t.Context())
			cancel()
			if _, _, err := reaches(over, nop, "02:00:00:00:00:05"); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			if _, _, err := reaches(t.Context(), nop, "02:00:00:00:00:12:34:56"); !errors.Is(err, ErrNotEthernet) {
				t.Errorf("no Ethernet address: %v", err)
			}
		})
	}
}
