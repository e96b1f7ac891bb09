package solicit

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
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

// A host with three link-layer addresses acknowledges at each a connection that was made
// by one. Another host that has the address and serves it as well does not, nor does one
// that drops what it does not know, nor a router that would pass it on. The connection
// and the entry stay as they are.
func TestSameHost(t *testing.T) {
	for name, addr := range map[string]string{"IPv4": "10.0.0.2", "IPv6": "2001:db8::2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSegment(t)
			holder, twin, silent, router := s.l.Host("holder"), s.l.Host("twin"), s.l.Host("silent"), s.l.Host("router")
			holder.Plug(s.sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24", "2001:db8::2/64")
			holder.Plug(s.sw, "eth1", "02:00:00:00:00:12")
			holder.Plug(s.sw, "eth2", "02:00:00:00:00:22")
			twin.Plug(s.sw, "eth0", "02:00:00:00:00:03", "10.0.0.2/24", "2001:db8::2/64")
			silent.Plug(s.sw, "eth0", "02:00:00:00:00:04", "10.0.0.2/24", "2001:db8::2/64")
			silent.Firewall(t, "table inet f { chain in { type filter hook input priority 0; tcp dport 6443 drop; }; }")
			router.Plug(s.sw, "eth0", "02:00:00:00:00:05", "10.0.0.3/24", "2001:db8::3/64")
			router.Sysctl("net/ipv4/ip_forward", "1")
			router.Sysctl("net/ipv6/conf/all/forwarding", "1")
			for _, h := range []*lab.Host{twin, silent} {
				h.IP("neighbour replace 10.0.0.1 lladdr 02:00:00:00:00:0a dev eth0 nud permanent")
				h.IP("neighbour replace 2001:db8::1 lladdr 02:00:00:00:00:0a dev eth0 nud permanent")
			}
			router.IP("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent")
			router.IP("neighbour replace 2001:db8::2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent")
			s.settle(s.a, holder, twin, silent, router)
			s.a.IP("neighbour replace " + addr + " lladdr 02:00:00:00:00:02 dev eth0 nud reachable") // else any may answer
			server := net.JoinHostPort(addr, "6443")
			s.listen(holder, server)
			s.listen(twin, server)

			compare := func(before func() error, ctx context.Context, macs ...string) (same []bool, again, err error) {
				t.Helper()
				all := make([]net.HardwareAddr, len(macs))
				for i, m := range macs {
					all[i], _ = net.ParseMAC(m)
				}
				if err := s.a.Do(func() error {
					conn, dialed := net.DialTimeout("tcp", server, 2*time.Second)
					if dialed != nil {
						return dialed
					}
					defer conn.Close()
					if err := before(); err != nil {
						return err
					}
					same, err = SameHost(ctx, s.port.Index, conn.(*net.TCPConn), all[0], all[1:])
					_, again = conn.Write([]byte("x"))
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				return same, again, err
			}
			nop := func() error { return nil }
			same, again, err := compare(nop, t.Context(), "02:00:00:00:00:02", // the holder
				"02:00:00:00:00:12", "02:00:00:00:00:22", // its other ones
				"02:00:00:00:00:03", "02:00:00:00:00:04", "02:00:00:00:00:05", "02:00:00:00:00:06") // other hosts, and nobody
			if want := []bool{true, true, false, false, false, false}; err != nil || !slices.Equal(same, want) || again != nil {
				t.Errorf("%v, %v, then the connection: %v; want %v", same, err, again, want)
			}
			if resets(t, twin) == 0 {
				t.Error("the other server was not asked: this shows nothing")
			}
			if e := s.a.IP("neighbour show " + addr); !strings.Contains(e, "02:00:00:00:00:02") {
				t.Errorf("the entry has changed: %s", e)
			}
			// By way of a router that answers for the address.
			s.a.IP("neighbour replace " + addr + " lladdr 02:00:00:00:00:05 dev eth0 nud reachable")
			if same, again, err := compare(nop, t.Context(), "02:00:00:00:00:05", "02:00:00:00:00:02"); !errors.Is(err, ErrUnacknowledged) || again != nil {
				t.Errorf("by a router: %v, %v, then the connection: %v", same, err, again)
			}
			if _, _, err := compare(dropNetRaw, t.Context(), "02:00:00:00:00:02"); !errors.Is(err, ErrPermission) {
				t.Errorf("without CAP_NET_RAW: %v", err)
			}
			over, cancel := context.WithCancel(t.Context())
			cancel()
			if _, _, err := compare(nop, over, "02:00:00:00:00:02"); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			if _, _, err := compare(nop, t.Context(), "02:00:00:00:00:12:34:56"); !errors.Is(err, ErrNotEthernet) {
				t.Errorf("no Ethernet address: %v", err)
			}
		})
	}
}

// resets returns how many TCP resets a host has sent.
func resets(t *testing.T, h *lab.Host) int {
	t.Helper()
	_, tcp, _ := strings.Cut(h.Run("cat", "/proc/net/snmp"), "\nTcp: ")
	names, values, _ := strings.Cut(tcp, "\nTcp: ")
	i := slices.Index(strings.Fields(names), "OutRsts")
	n, err := strconv.Atoi(strings.Fields(values)[i])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
