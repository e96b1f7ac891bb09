package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// closedInfo returns the attribute of a socket that received segments, and of
// whose packets some were delivered.
func closedInfo(size int, segsIn, delivered uint32) []byte {
	b := make([]byte, 280)
	binary.NativeEndian.PutUint32(b[140:], segsIn)
	binary.NativeEndian.PutUint32(b[192:], delivered)
	return attr(diagInfo, b[:size]...)
}

func TestDecodeDestroyed(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		info                 []byte
		established, refused bool
	}{
		{"refused", closedInfo(248, 1, 0), false, true},
		{"given up", closedInfo(248, 0, 0), false, false},
		{"established", closedInfo(248, 2, 2), true, false},
		{"accepted, and closed without a word", closedInfo(248, 3, 1), true, false},
		{"before Linux 4.18", closedInfo(192, 1, 0), false, false},
		{"before Linux 4.18, established", counters(2, 0, 0, 0)[:4+192], true, false},
		{"no info", nil, false, false},
	} {
		body := diagMsg(unix.AF_INET, 7, id4, tt.info)
		if tt.info != nil {
			binary.NativeEndian.PutUint16(body[diagMsgLen:], uint16(len(tt.info)))
		}
		got := fullSocket()
		ok, err := decodeDestroyed(body, &got)
		want := neigh.Socket{
			Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.2:6443"),
			Index: 7, Cookie: 0x1122334455667788, Established: tt.established, Refused: tt.refused,
		}
		if !ok || err != nil || got != want {
			t.Errorf("%s: %v, %v\ngot  %+v\nwant %+v", tt.name, ok, err, got, want)
		}
	}
	var s neigh.Socket
	if ok, err := decodeDestroyed(diagMsg(unix.AF_VSOCK, 7, id4), &s); ok || err != nil {
		t.Errorf("another family: %v, %v; want it skipped", ok, err)
	}
	for _, b := range [][]byte{nil, fullMsg[:71], fullMsg[:len(fullMsg)-20]} {
		if ok, err := decodeDestroyed(b, &s); ok || !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("%d bytes: %v, %v; want ErrMalformed", len(b), ok, err)
		}
	}
}

func FuzzDecodeDestroyed(f *testing.F) {
	message := netlinkMessage(unix.SOCK_DIAG_BY_FAMILY, 0, 0, diagMsg(unix.AF_INET, 7, id4, closedInfo(248, 1, 0)))
	seed(f, message)
	f.Add(netlinkMessage(unix.SOCK_DIAG_BY_FAMILY, 0, 0, diagMsg(unix.AF_INET6, 7, mapped, closedInfo(104, 1, 0))))
	f.Add(append(bytes.Clone(message), message[:90]...))
	f.Add(netlinkMessage(unix.NLMSG_ERROR, 0, 0, u32s(0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		visited := 0
		err := decodeDestroyedAll(b, func(s *neigh.Socket) {
			visited++
			if !s.Local.IsValid() || !s.Remote.IsValid() || s.Refused && s.Established {
				t.Errorf("%+v", s)
			}
		})
		if err != nil && !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("%v, want ErrMalformed", err)
		}
		if visited > len(b)/(unix.NLMSG_HDRLEN+diagMsgLen) {
			t.Errorf("%d sockets in %d bytes", visited, len(b))
		}
	})
}

func TestPortFilter(t *testing.T) {
	to := func(port uint16) []byte {
		return netlinkMessage(unix.SOCK_DIAG_BY_FAMILY, 0, 0, diagMsg(unix.AF_INET, 7, diagID(port^1, port, [4]uint32{}, [4]uint32{}, 0, 1)))
	}
	many := make([]uint16, maxPorts)
	for i := range many {
		many[i] = uint16(10000 + i)
	}
	for _, ports := range [][]uint16{{6443}, {6443, 16443}, many} {
		vm, err := bpf.NewVM(portFilter(ports))
		if err != nil {
			t.Fatal(err)
		}
		passes := func(b []byte) bool {
			n, err := vm.Run(b)
			if err != nil {
				t.Fatal(err)
			}
			return n > 0
		}
		for _, port := range ports {
			if !passes(to(port)) {
				t.Errorf("to %d, of %d: dropped", port, len(ports))
			}
		}
		for _, port := range []uint16{0, 22, 6442, 6444, 0x2b19} { // 6443 the other way round
			if passes(to(port)) {
				t.Errorf("to %d: passed by a filter for %v", port, ports)
			}
		}
		if passes(to(ports[0])[:remotePort+1]) {
			t.Error("passed although cut off")
		}
	}
	for _, ports := range [][]uint16{nil, make([]uint16, maxPorts+1)} {
		if d, err := SubscribeDestroyed(ports...); err == nil {
			d.Close()
			t.Errorf("%d ports were accepted", len(ports))
		}
	}
}

func destroyedOn(t testing.TB, h *lab.Host, ports ...uint16) *Destroyed {
	t.Helper()
	var d *Destroyed
	if err := h.Do(func() (err error) {
		d, err = SubscribeDestroyed(ports...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// awaitDestroyed returns the next socket that is told of.
func awaitDestroyed(t testing.TB, d *Destroyed) (got neigh.Socket) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	seen := 0
	for seen == 0 {
		if err := d.Next(ctx, func(s *neigh.Socket) { got, seen = *s, seen+1 }); err != nil {
			t.Fatal(err)
		}
	}
	if seen != 1 {
		t.Fatalf("%d sockets in a datagram, want one", seen)
	}
	return got
}

// What a refused connection leaves behind, as programs open it that do not wait
// in connect.
func TestDestroyedTellsOfTheRefused(t *testing.T) {
	p := newPair(t)
	peer := lab.Start(t).Host("peer")
	peer.Plug(p.sw, "eth0", "02:00:00:00:00:03", "10.0.0.3/24", "2001:db8::3/64")
	p.client.Run("ping", "-c1", "-W5", "10.0.0.3") // no test of address resolution
	p.client.Run("ping", "-c1", "-W5", "2001:db8::3")
	d := destroyedOn(t, p.client, 16443, apiPort)
	try := func(network, addr string) {
		if err := p.client.Do(func() error {
			c, err := net.DialTimeout(network, addr, 5*time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err
		}); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("%s: %v, want it refused", addr, err)
		}
	}
	expect := func(what, remote string, mapped, refused bool) {
		t.Helper()
		got := awaitDestroyed(t, d)
		if got.Remote != netip.MustParseAddrPort(remote) || got.Mapped != mapped || got.Refused != refused || got.Established == refused || got.Local.Port() == 0 || got.Cookie == 0 {
			t.Errorf("%s: %+v; want %s, mapped %v, refused %v", what, got, remote, mapped, refused)
		}
	}
	try("tcp", "10.0.0.3:22") // another port
	try("tcp", "10.0.0.3:6443")
	expect("IPv4", "10.0.0.3:6443", false, true)
	try("tcp", "[2001:db8::3]:16443")
	expect("IPv6", "[2001:db8::3]:16443", false, true)
	err := p.client.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet6{Port: apiPort, Addr: netip.MustParseAddr("::ffff:10.0.0.3").As16()}
		if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	expect("mapped", "10.0.0.3:6443", true, true)

	// Not those that were accepted, and have come to an end.
	near, far := p.dial(t, p.client, "10.0.0.2:6443")
	_ = far.Close()
	_ = near.Close()
	expect("closed in order", "10.0.0.2:6443", false, false)
	p.listen(t, p.client, 9100)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 3), Port: apiPort}, Timeout: 5 * time.Second}
	var in net.Conn
	if err := peer.Do(func() (err error) {
		in, err = dialer.Dial("tcp", "10.0.0.1:9100")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	accepted := <-p.accepted
	_ = in.(*net.TCPConn).SetLinger(0)
	_ = in.Close()
	if _, err := accepted.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("%v, want a reset", err)
	}
	_ = accepted.Close()
	expect("reset by the peer that had opened it", "10.0.0.3:6443", true, false)

	// Nobody answers, and the owner loses patience.
	p.client.IP("neigh replace 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_ = p.client.Do(func() error {
		_, err := (&net.Dialer{}).DialContext(ctx, "tcp", "10.0.0.9:6443")
		return err
	})
	if got := awaitDestroyed(t, d); got.Refused || got.Established || got.Remote != netip.MustParseAddrPort("10.0.0.9:6443") {
		t.Errorf("given up: %+v", got)
	}

	d.Close()
	if err := d.Next(context.Background(), func(*neigh.Socket) {}); err == nil || err.Error() != "waiting for destroyed sockets: use of closed file" {
		t.Errorf("closed: %v", err)
	}
}

// Whoever may open the socket may listen (NL_CFG_F_NONROOT_RECV of
// net/core/sock_diag.c).
func TestDestroyedWithoutNetAdmin(t *testing.T) {
	p := newPair(t)
	var d *Destroyed
	if err := p.client.Do(func() (err error) {
		if err := dropNetAdmin(); err != nil {
			return err
		}
		d, err = SubscribeDestroyed(6444)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_ = p.client.Do(func() error {
		_, err := net.Dial("tcp", "10.0.0.2:6444")
		return err
	})
	if got := awaitDestroyed(t, d); !got.Refused {
		t.Errorf("%+v, want it refused", got)
	}
}

func BenchmarkRefused(b *testing.B) {
	p := newPair(b)
	d := destroyedOn(b, p.client, 6444)
	var took time.Duration
	for b.Loop() {
		_ = p.client.Do(func() error {
			_, err := net.Dial("tcp", "10.0.0.2:6444")
			return err
		})
		start := time.Now()
		awaitDestroyed(b, d)
		took += time.Since(start)
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/wait")
}
