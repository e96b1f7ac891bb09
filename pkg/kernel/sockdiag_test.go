package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Messages are put together by hand here, from the layout of struct
// inet_diag_msg, struct inet_diag_req_v2 and struct tcp_info.

// diagID returns a struct inet_diag_sockid.
func diagID(sport, dport uint16, src, dst [4]uint32, index uint32, cookie uint64) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	for _, word := range slices.Concat(src[:], dst[:]) {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return append(b, u32s(index, uint32(cookie), uint32(cookie>>32))...)
}

// diagMsg returns the body of a SOCK_DIAG_BY_FAMILY message.
func diagMsg(family, state uint8, id []byte, attrs ...[]byte) []byte {
	b := slices.Concat([]byte{family, state, 0xaa, 0xbb}, id, u32s(1, 2, 3, 4, 5))
	return append(b, slices.Concat(attrs...)...)
}

// tcpInfo returns the attribute of a kernel whose struct tcp_info has the given
// size. Every field that nobody reads is full of ones.
func tcpInfo(size int) []byte {
	b := bytes.Repeat([]byte{0xff}, 280)
	b[2] = 3 // tcpi_retransmits
	binary.NativeEndian.PutUint32(b[44:], 1500)
	binary.NativeEndian.PutUint32(b[52:], 3600_000)
	binary.NativeEndian.PutUint64(b[128:], 1<<40+5)
	binary.NativeEndian.PutUint32(b[144:], 0) // tcpi_notsent_bytes
	binary.NativeEndian.PutUint64(b[200:], 1<<41)
	return attr(diagInfo, b[:size]...)
}

var (
	id4     = diagID(40000, 6443, [4]uint32{0x0a000001}, [4]uint32{0x0a000002}, 7, 0x1122334455667788)
	id6     = diagID(40000, 6443, [4]uint32{0x20010db8, 0, 0, 1}, [4]uint32{0xfe800000, 0, 0, 2}, 1<<31, 9)
	mapped  = diagID(40000, 6443, [4]uint32{0, 0, 0xffff, 0x0a000001}, [4]uint32{0, 0, 0xffff, 0x0a000002}, 0, 9)
	fullMsg = diagMsg(unix.AF_INET, tcpEstablished, id4, attr(8, 0), attr(5, 'c', 'u', 'b', 'i', 'c', 0), tcpInfo(248), attr(15, 1))
)

func fullSocket() neigh.Socket {
	return neigh.Socket{
		Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.2:6443"),
		Index: 7, Cookie: 0x1122334455667788, Established: true,
		Retransmits: 3, SinceSent: 1500 * time.Millisecond, SinceReceived: time.Hour, Received: 1<<40 + 5, Sent: 1 << 41,
	}
}

func TestDecodeSocket(t *testing.T) {
	with := func(change func(*neigh.Socket)) neigh.Socket {
		s := fullSocket()
		change(&s)
		return s
	}
	bare := func(s *neigh.Socket) { s.Retransmits, s.SinceSent, s.SinceReceived, s.Received, s.Sent = 0, 0, 0, 0, 0 }
	tests := []struct {
		name string
		body []byte
		want neigh.Socket
	}{
		{"everything", fullMsg, fullSocket()},
		{"no attributes", diagMsg(unix.AF_INET, tcpEstablished, id4), with(bare)},
		{"IPv6", diagMsg(unix.AF_INET6, tcpEstablished, id6), with(func(s *neigh.Socket) {
			bare(s)
			s.Local, s.Remote = netip.MustParseAddrPort("[2001:db8::1]:40000"), netip.MustParseAddrPort("[fe80::2]:6443")
			s.Index, s.Cookie = 1<<31, 9
		})},
		{"IPv4 in an IPv6 socket", diagMsg(unix.AF_INET6, tcpEstablished, mapped, tcpInfo(248)), with(func(s *neigh.Socket) {
			s.Mapped, s.Index, s.Cookie = true, 0, 9
		})},
		// inet_diag_msg_common_fill clears what is behind an IPv4 address; should
		// it not, nobody looks there.
		{"words behind an IPv4 address", diagMsg(unix.AF_INET, tcpEstablished, diagID(40000, 6443, [4]uint32{0x0a000001, 1, 2, 3},
			[4]uint32{0x0a000002, 4, 5, 6}, 7, 0x1122334455667788), tcpInfo(248)), fullSocket()},
		{"connecting", diagMsg(unix.AF_INET, tcpSynSent, id4, tcpInfo(248)), with(func(s *neigh.Socket) {
			s.Established, s.SinceSent, s.SinceReceived = false, 0, 0
		})},
		{"as of Linux 6.18", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(280)), fullSocket()},
		{"as of Linux 4.1", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(136)), with(func(s *neigh.Socket) { s.Sent = 0 })},
		{"without bytes received", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(135)), with(func(s *neigh.Socket) { s.Received, s.Sent = 0, 0 })},
		{"as of Linux 2.6", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(104)), with(func(s *neigh.Socket) { s.Received, s.Sent = 0, 0 })},
		{"up to the times", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(56)), with(func(s *neigh.Socket) { s.Received, s.Sent = 0, 0 })},
		{"without times", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(55)), with(func(s *neigh.Socket) {
			bare(s)
			s.Retransmits = 3
		})},
		{"up to the retransmits", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(3)), with(func(s *neigh.Socket) {
			bare(s)
			s.Retransmits = 3
		})},
		{"without retransmits", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(2)), with(bare)},
		{"empty info", diagMsg(unix.AF_INET, tcpEstablished, id4, tcpInfo(0)), with(bare)},
		{"less than an attribute is left", append(bytes.Clone(fullMsg), 9, 9, 9), fullSocket()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Nothing of what was there may show through.
			got := fullSocket()
			got.Mapped, got.Cookie, got.Index, got.Retransmits, got.Received, got.Sent = true, 1, 1, 99, 99, 99
			ok, err := decodeSocket(tt.body, &got)
			if !ok || err != nil {
				t.Fatalf("decodeSocket: %v, %v", ok, err)
			}
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// counters returns the attribute of a connection that counted this.
func counters(acked, sent, retransmitted uint64, notSent uint32) []byte {
	b := make([]byte, 248)
	binary.NativeEndian.PutUint64(b[120:], acked)
	binary.NativeEndian.PutUint32(b[144:], notSent)
	binary.NativeEndian.PutUint64(b[200:], sent)
	binary.NativeEndian.PutUint64(b[208:], retransmitted)
	return attr(diagInfo, b...)
}

func TestWhoOpened(t *testing.T) {
	for _, tt := range []struct {
		name   string
		state  uint8
		info   []byte
		queued uint32 // idiag_wqueue
		want   bool
	}{
		{"opened, silent", tcpEstablished, counters(1, 0, 0, 0), 0, false},
		{"accepted, silent", tcpEstablished, counters(0, 0, 0, 0), 0, true},
		{"opened, sent and acknowledged", tcpEstablished, counters(101, 100, 0, 0), 0, false},
		{"accepted, sent and acknowledged", tcpEstablished, counters(100, 100, 0, 0), 0, true},
		{"opened, sent again", tcpEstablished, counters(101, 150, 50, 0), 0, false},
		{"accepted, sent again", tcpEstablished, counters(100, 150, 50, 0), 0, true},
		{"opened, under way, and more to send", tcpEstablished, counters(61, 100, 0, 30), 70, false},
		{"accepted, under way, and more to send", tcpEstablished, counters(60, 100, 0, 30), 70, true},
		{"accepted, nothing acknowledged yet", tcpEstablished, counters(0, 40, 0, 0), 40, true},
		{"sent, and dropped on this host", tcpEstablished, counters(101, 400, 50, 0), 0, false},
		{"connecting", tcpSynSent, counters(0, 0, 0, 0), 1, false},
		{"connecting, by other counts", tcpSynSent, counters(0, 0, 0, 0), 0, false},
		{"before Linux 4.19", tcpEstablished, attr(diagInfo, make([]byte, 215)...), 0, false},
		{"no info", tcpEstablished, nil, 0, false},
	} {
		body := diagMsg(unix.AF_INET, tt.state, id4, tt.info)
		binary.NativeEndian.PutUint32(body[60:], tt.queued)
		var s neigh.Socket
		if ok, err := decodeSocket(body, &s); !ok || err != nil || s.Accepted != tt.want {
			t.Errorf("%s: accepted %v, %v, %v; want %v", tt.name, s.Accepted, ok, err, tt.want)
		}
	}
}

func TestDecodeSocketSkips(t *testing.T) {
	for state := uint8(0); state < 16; state++ {
		var s neigh.Socket
		want := state == tcpEstablished || state == tcpSynSent
		if ok, err := decodeSocket(diagMsg(unix.AF_INET, state, id4), &s); ok != want || err != nil {
			t.Errorf("state %d: %v, %v; want %v", state, ok, err, want)
		}
	}
	for _, family := range []uint8{unix.AF_UNSPEC, unix.AF_UNIX, unix.AF_VSOCK, 255} {
		want := fullSocket()
		got := want
		if ok, err := decodeSocket(diagMsg(family, tcpEstablished, id4), &got); ok || err != nil || got != want {
			t.Errorf("family %d: %+v, %v, %v; want it skipped", family, got, ok, err)
		}
	}
}

func TestDecodeSocketRefuses(t *testing.T) {
	body := func(attrs ...[]byte) []byte { return diagMsg(unix.AF_INET, tcpEstablished, id4, attrs...) }
	for _, tt := range []struct {
		name string
		body []byte
		says string
	}{
		{"nothing", nil, "inet_diag_msg of 0 bytes"},
		{"one byte short", body()[:71], "inet_diag_msg of 71 bytes"},
		{"an attribute of length 0", body(u32s(0)), "attribute of 0 bytes where 4 are left"},
		{"an attribute shorter than its header", body([]byte{3, 0, diagInfo, 0}), "attribute of 3 bytes where 4 are left"},
		{"an attribute that is cut off", fullMsg[:len(fullMsg)-20], "attribute of 252 bytes where 240 are left"},
		{"an attribute longer than the message", body(u32s(0xffff)), "attribute of 65535 bytes where 4 are left"},
	} {
		var s neigh.Socket
		want := tt.says + ": malformed netlink message"
		if ok, err := decodeSocket(tt.body, &s); ok || !errors.Is(err, neigh.ErrMalformed) || err.Error() != want {
			t.Errorf("%s: %v, %v; want ErrMalformed, %s", tt.name, ok, err, want)
		}
	}
}

func FuzzDecodeSocket(f *testing.F) {
	seed(f, fullMsg)
	f.Add(diagMsg(unix.AF_INET6, tcpSynSent, id6, tcpInfo(104)))
	f.Add(diagMsg(unix.AF_INET6, tcpEstablished, mapped, tcpInfo(136)))
	f.Add(diagMsg(unix.AF_INET, tcpEstablished, id4, u32s(0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		var s neigh.Socket
		ok, err := decodeSocket(b, &s)
		switch {
		case !bytes.Equal(b, in):
			t.Error("the input was changed")
		case err != nil && (ok || !errors.Is(err, neigh.ErrMalformed)):
			t.Errorf("%v, %v: want false and ErrMalformed", ok, err)
		case !ok:
		case !s.Local.IsValid() || !s.Remote.IsValid() || s.Remote.Addr().Is4In6() || s.Local.Addr().Is4In6():
			t.Errorf("%s to %s", s.Local, s.Remote)
		case s.Remote.Addr().Is4() != (b[0] == unix.AF_INET || s.Mapped):
			t.Errorf("%s in family %d, mapped: %v", s.Remote, b[0], s.Mapped)
		case s.SinceSent < 0 || s.SinceReceived < 0 || s.Retransmits < 0 || s.Index < 0:
			t.Errorf("got %+v", s)
		}
		// Whatever was read can be asked for again.
		_ = appendSocketRequest(nil, unix.SOCK_DIAG_BY_FAMILY, 0, &s, 1)
	})
}

func TestAppendSocketRequest(t *testing.T) {
	with := func(local, remote string, mapped bool, index int, cookie uint64) *neigh.Socket {
		return &neigh.Socket{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Mapped: mapped, Index: index, Cookie: cookie}
	}
	for _, tt := range []struct {
		name   string
		s      *neigh.Socket
		family uint8
		id     []byte
	}{
		{"IPv4", with("10.0.0.1:40000", "10.0.0.2:6443", false, 7, 0x1122334455667788), unix.AF_INET, id4},
		{"IPv6", with("[2001:db8::1]:40000", "[fe80::2]:6443", false, 1<<31, 9), unix.AF_INET6, id6},
		{"IPv4 in an IPv6 socket", with("10.0.0.1:40000", "10.0.0.2:6443", true, 0, 9), unix.AF_INET6, mapped},
		{"nothing", &neigh.Socket{}, unix.AF_INET6, make([]byte, 48)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := appendSocketRequest(nil, unix.SOCK_DESTROY, unix.NLM_F_ACK, tt.s, 77)
			want := u32s(72)
			want = append(want, 21, 0, unix.NLM_F_ACK|unix.NLM_F_REQUEST, 0)
			want = append(want, u32s(77, 0)...)
			want = append(want, tt.family, unix.IPPROTO_TCP, 2, 0)
			want = append(want, u32s(1<<1|1<<2)...)
			want = append(want, tt.id...)
			if !bytes.Equal(got, want) {
				t.Errorf("got  % x\nwant % x", got, want)
			}
		})
	}
}

func TestAppendSocketDump(t *testing.T) {
	got := appendSocketDump(nil, 6443, 77)
	want := u32s(96)
	want = binary.NativeEndian.AppendUint16(want, 18)
	want = binary.NativeEndian.AppendUint16(want, unix.NLM_F_DUMP|unix.NLM_F_REQUEST)
	want = append(want, u32s(77, 0)...)
	want = append(want, 0, 0, 0, 2)
	want = append(want, make([]byte, 48)...)
	want = append(want, u32s(1<<1|1<<2, 0)...)
	op := func(code, yes uint8, no uint16) []byte {
		return binary.NativeEndian.AppendUint16([]byte{code, yes}, no)
	}
	want = append(want, attr(1, slices.Concat(op(4, 8, 20), op(0, 0, 6443), op(5, 8, 12), op(0, 0, 6443))...)...)
	if !bytes.Equal(got, want) {
		t.Errorf("got  % x\nwant % x", got, want)
	}
}

func TestStatusUnsupported(t *testing.T) {
	code := -int32(unix.EOPNOTSUPP)
	m := message{typ: unix.NLMSG_ERROR, body: u32s(uint32(code))}
	if err := m.status(); !errors.Is(err, neigh.ErrUnsupported) || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
}

// eventually asks every few milliseconds until the answer is yes.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !yes() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// pair is a client and a server on a switch. The server has 10.0.0.2,
// 2001:db8::2 and fe80::ff:fe00:2, listens on all of them, and keeps what it
// accepts.
type pair struct {
	sw             *lab.Switch
	client, server *lab.Host
	port           lab.Port // of the server
	sockets        *Sockets // of the client
	accepted       chan net.Conn
}

const apiPort = 6443

func newPair(t testing.TB) *pair {
	t.Helper()
	l := lab.Start(t)
	p := &pair{sw: l.Switch(), client: l.Host("client"), server: l.Host("server"), accepted: make(chan net.Conn, 16)}
	p.client.Plug(p.sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24", "2001:db8::1/64")
	p.port = p.server.Plug(p.sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24", "2001:db8::2/64")
	p.sockets = openSockets(t, p.client)
	p.listen(t, p.server, apiPort)
	return p
}

func openSockets(t testing.TB, h *lab.Host) *Sockets {
	t.Helper()
	var s *Sockets
	if err := h.Do(func() (err error) {
		s, err = OpenSockets()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (p *pair) listen(t testing.TB, h *lab.Host, port uint16) net.Listener {
	t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.accepted <- c
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l
}

// dial connects a host to an address, and returns both ends.
func (p *pair) dial(t testing.TB, h *lab.Host, addr string) (near, far net.Conn) {
	t.Helper()
	if err := h.Do(func() (err error) {
		near, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	far = <-p.accepted
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// connect starts a connection of a plain socket. An IPv6 one may be told to
// speak IPv4, which Go's own never do.
func connect(t testing.TB, h *lab.Host, family int, to unix.Sockaddr, flags int) {
	t.Helper()
	err := h.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		err = unix.Connect(fd, to)
		if errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// connecting leaves n sockets in SYN_SENT: to an address that a machine has
// which nobody ever saw.
func (p *pair) connecting(t testing.TB, n int) {
	t.Helper()
	p.client.IP("neigh replace 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent")
	for range n {
		connect(t, p.client, unix.AF_INET, &unix.SockaddrInet4{Port: apiPort, Addr: [4]byte{10, 0, 0, 9}}, unix.SOCK_NONBLOCK)
	}
}

// only lists the sockets and returns the one there is.
func (p *pair) only(t testing.TB) *neigh.Socket {
	t.Helper()
	list, err := p.sockets.List(apiPort)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %+v, %v; want one socket", list, err)
	}
	return &list[0]
}

func (p *pair) get(t testing.TB, k *neigh.Socket) neigh.Socket {
	t.Helper()
	s, err := p.sockets.Get(k)
	if err != nil {
		t.Fatal(err)
	}
	if s.Cookie != k.Cookie || s.Local != k.Local || s.Remote != k.Remote || s.Index != k.Index || s.Mapped != k.Mapped {
		t.Fatalf("asked for %+v, got %+v", k, s)
	}
	return s
}

func TestListFindsEveryKind(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.listen(t, p.server, 6444)
	p.listen(t, p.client, apiPort) // listening, and served, sockets have it as their local port
	near4, _ := p.dial(t, p.client, "10.0.0.2:6443")
	near6, _ := p.dial(t, p.client, "[2001:db8::2]:6443")
	scoped, _ := p.dial(t, p.client, "[fe80::ff:fe00:2%eth0]:6443")
	connect(t, p.client, unix.AF_INET6, &unix.SockaddrInet6{Port: apiPort, Addr: netip.MustParseAddr("::ffff:10.0.0.2").As16()}, 0)
	far := <-p.accepted
	defer far.Close()
	p.connecting(t, 1)
	p.dial(t, p.client, "10.0.0.2:6444")
	p.dial(t, p.server, "10.0.0.1:6443")

	type kind struct {
		remote      string
		mapped      bool
		established bool
	}
	want := map[kind]netip.AddrPort{ // and the local address, if known
		{"10.0.0.2:6443", false, true}:          near4.LocalAddr().(*net.TCPAddr).AddrPort(),
		{"[2001:db8::2]:6443", false, true}:     near6.LocalAddr().(*net.TCPAddr).AddrPort(),
		{"[fe80::ff:fe00:2]:6443", false, true}: scoped.LocalAddr().(*net.TCPAddr).AddrPort(),
		{"10.0.0.2:6443", true, true}:           {},
		{"10.0.0.9:6443", false, false}:         {},
	}
	list, err := p.sockets.List(apiPort)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		local, ok := want[kind{s.Remote.String(), s.Mapped, s.Established}]
		if !ok {
			t.Errorf("listed, but not wanted: %+v", s)
			continue
		}
		if local.IsValid() && s.Local != netip.AddrPortFrom(local.Addr().WithZone(""), local.Port()) {
			t.Errorf("%s: local address %s, want %s", s.Remote, s.Local, local)
		}
		if link := s.Remote.Addr().IsLinkLocalUnicast(); link != (s.Index != 0) {
			t.Errorf("%s: bound to device %d", s.Remote, s.Index)
		}
		if s.SinceSent > time.Minute || s.SinceReceived > time.Minute || s.Received != 0 {
			t.Errorf("a new socket: %+v", s)
		}
		p.get(t, &s)
	}
	if len(list) != len(want) {
		t.Errorf("%d sockets, want %d: %+v", len(list), len(want), list)
	}
	// On the server nobody speaks to that remote port but for the one.
	served, err := openSockets(t, p.server).List(apiPort)
	if err != nil || len(served) != 1 || served[0].Remote != netip.MustParseAddrPort("10.0.0.1:6443") {
		t.Errorf("on the server: %+v, %v; want the socket to the client", served, err)
	}
	if list, err := p.sockets.List(1); err != nil || len(list) != 0 {
		t.Errorf("to a port that nobody uses: %+v, %v", list, err)
	}
}

// A peer may open a connection from the port of an API server, which is free for
// bind, and which address translation gives out.
func TestListTellsWhoOpened(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	peer := lab.Start(t).Host("peer")
	port := peer.Plug(p.sw, "eth0", "02:00:00:00:00:03", "10.0.0.3/24", "10.0.0.13/24", "2001:db8::3/64")
	const service = 9100
	l := p.listen(t, p.client, service)
	p.listen(t, p.client, service+1)
	inbound := func(from, to string) (near, far net.Conn) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)), Timeout: 5 * time.Second}
		if err := peer.Do(func() (err error) {
			far, err = d.Dial("tcp", to)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		near = <-p.accepted
		t.Cleanup(func() { _, _ = near.Close(), far.Close() })
		return near, far
	}
	out, served := p.dial(t, p.client, "10.0.0.2:6443")
	in, client := inbound("10.0.0.3:6443", "10.0.0.1:9100") // mapped, as the listener is an IPv6 one
	p.dial(t, p.client, "[2001:db8::2]:6443")
	inbound("[2001:db8::3]:6443", "[2001:db8::1]:9100")
	p.client.Sysctl("net/ipv4/tcp_syncookies", "2")
	inbound("10.0.0.13:6443", "10.0.0.1:9101")
	p.connecting(t, 1)

	check := func(when string) {
		t.Helper()
		list, err := p.sockets.List(apiPort)
		if err != nil || len(list) != 6 {
			t.Fatalf("%s: %+v, %v; want six sockets", when, list, err)
		}
		for _, s := range list {
			want := strings.HasSuffix(s.Remote.Addr().String(), "3")
			if s.Accepted != want {
				t.Errorf("%s: %+v; accepted should be %v", when, s, want)
			}
			if got := p.get(t, &s); got.Accepted != want {
				t.Errorf("%s: looked up: %+v; accepted should be %v", when, got, want)
			}
		}
	}
	check("at first")
	talk := func(a, b net.Conn, n int) {
		t.Helper()
		if _, err := a.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		talk(out, served, 30000)
		talk(served, out, 500)
		talk(in, client, 30000)
		talk(client, in, 500)
	}
	check("after much was said")
	for _, name := range []string{p.port.Name, port.Name} {
		p.sw.Host().IP("link set " + name + " down")
	}
	for _, c := range []net.Conn{out, in} {
		if _, err := c.Write(make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "retransmissions", func() bool {
		list, err := p.sockets.List(apiPort)
		return err == nil && retransmitting(list, netip.MustParseAddr("10.0.0.2")) && retransmitting(list, netip.MustParseAddr("10.0.0.3"))
	})
	check("with nothing acknowledged")
	for _, name := range []string{p.port.Name, port.Name} {
		p.sw.Host().IP("link set " + name + " up")
	}
	for _, c := range []net.Conn{served, client} {
		if _, err := io.ReadFull(c, make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
	}
	check("after a loss")
	_ = l.Close()
	check("with nobody listening any more")
}

func retransmitting(list []neigh.Socket, to netip.Addr) bool {
	return slices.ContainsFunc(list, func(s neigh.Socket) bool { return s.Established && s.Remote.Addr() == to && s.Retransmits > 1 })
}

// More than one read of a dump, and many at the same time.
func TestListManySockets(t *testing.T) {
	p := newPair(t)
	const count = 300
	p.connecting(t, count)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			list, err := p.sockets.List(apiPort)
			if err != nil || len(list) != count {
				t.Errorf("%d sockets, %v; want %d", len(list), err, count)
				return
			}
			if !slices.IsSortedFunc(list, func(a, b neigh.Socket) int { return int(a.Cookie) - int(b.Cookie) }) {
				t.Error("not in the order of cookies")
			}
			for _, s := range list[:50] {
				if got, err := p.sockets.Get(&s); err != nil || got.Cookie != s.Cookie || got.Established {
					t.Errorf("got %+v, %v; want %+v", got, err, s)
				}
			}
		})
	}
	wg.Wait()
}

func TestSocketGone(t *testing.T) {
	p := newPair(t)
	near, far := p.dial(t, p.client, "10.0.0.2:6443")
	s := p.only(t)
	gone := func(what string, k neigh.Socket) {
		t.Helper()
		if _, err := p.sockets.Get(&k); !errors.Is(err, neigh.ErrGone) {
			t.Errorf("Get %s: %v, want ErrGone", what, err)
		}
		if err := p.sockets.Destroy(&k); !errors.Is(err, neigh.ErrGone) && !errors.Is(err, neigh.ErrUnsupported) {
			t.Errorf("Destroy %s: %v, want ErrGone", what, err)
		}
	}
	other := *s
	other.Cookie++
	gone("with another cookie", other)
	other.Cookie = 1<<64 - 1 // INET_DIAG_NOCOOKIE, which is any
	gone("with the cookie of any socket", other)
	other = *s
	other.Local = netip.AddrPortFrom(s.Local.Addr(), s.Local.Port()^1)
	gone("with another port", other)
	gone("that never was", neigh.Socket{})
	p.get(t, s)

	// CLOSE_WAIT: the socket exists, but nobody answers on it any more.
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := near.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
	if _, err := p.sockets.Get(s); !errors.Is(err, neigh.ErrGone) {
		t.Errorf("in CLOSE_WAIT: %v, want ErrGone", err)
	}
	if list, err := p.sockets.List(apiPort); err != nil || len(list) != 0 {
		t.Errorf("in CLOSE_WAIT: %+v, %v; want nothing listed", list, err)
	}
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	gone("that was closed", *s)
}

// What the suspicion of a frozen server and of a lost one is built on.
func TestSocketTimes(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	near, far := p.dial(t, p.client, "10.0.0.2:6443")
	s := p.only(t)
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(near, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if got := p.get(t, s); got.Received != 5 || got.SinceReceived > time.Second || got.Retransmits != 0 {
		t.Errorf("after receiving: %+v", got)
	}
	eventually(t, "data received some time ago", func() bool { return p.get(t, s).SinceReceived >= 200*time.Millisecond })
	// The other side's kernel acknowledges, and its program says nothing.
	if _, err := near.Write([]byte("anybody there?")); err != nil {
		t.Fatal(err)
	}
	got := p.get(t, s)
	if got.SinceReceived < 200*time.Millisecond || got.SinceSent >= got.SinceReceived {
		t.Errorf("after sending: sent %v, received %v ago", got.SinceSent, got.SinceReceived)
	}
	sent := time.Now()
	eventually(t, "data sent some time ago", func() bool { return p.get(t, s).SinceSent >= 500*time.Millisecond })
	if got := p.get(t, s); got.Retransmits != 0 || time.Since(sent) < 450*time.Millisecond || got.SinceReceived < 650*time.Millisecond {
		t.Errorf("acknowledged, but unanswered: %+v", got)
	}

	p.sw.Host().IP("link set " + p.port.Name + " down")
	if _, err := near.Write([]byte("and now?")); err != nil {
		t.Fatal(err)
	}
	lost := time.Now()
	eventually(t, "two retransmissions", func() bool { return p.get(t, s).Retransmits >= 2 })
	if got := p.get(t, s); got.SinceSent >= time.Since(lost) || !got.Established {
		t.Errorf("unacknowledged: %+v; want the last retransmission counted as sent", got)
	}
	p.sw.Host().IP("link set " + p.port.Name + " up")
	eventually(t, "an acknowledgement", func() bool { return p.get(t, s).Retransmits == 0 })
}

func TestSocketConnecting(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.connecting(t, 1)
	s := p.only(t)
	eventually(t, "a retransmitted SYN", func() bool {
		got := p.get(t, s)
		if got.Established || got.SinceSent != 0 || got.SinceReceived != 0 || got.Received != 0 {
			t.Fatalf("connecting: %+v", got)
		}
		return got.Retransmits > 0
	})
	destroy(t, p, s)
	if _, err := p.sockets.Get(s); !errors.Is(err, neigh.ErrGone) {
		t.Errorf("after Destroy: %v, want ErrGone", err)
	}
}

func destroy(t *testing.T, p *pair, s *neigh.Socket) {
	t.Helper()
	err := p.sockets.Destroy(s)
	if errors.Is(err, neigh.ErrUnsupported) {
		t.Skip(err) // CONFIG_INET_DIAG_DESTROY
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDestroy(t *testing.T) {
	p := newPair(t)
	for _, addr := range []string{"10.0.0.2:6443", "[2001:db8::2]:6443", "[fe80::ff:fe00:2%eth0]:6443"} {
		t.Run(strings.NewReplacer(":", "_", "%", "_").Replace(addr), func(t *testing.T) {
			near, far := p.dial(t, p.client, addr)
			s := p.only(t)
			near2, far2 := p.dial(t, p.client, addr)
			read := make(chan error)
			go func() {
				_, err := near.Read(make([]byte, 1))
				read <- err
			}()
			destroy(t, p, s)
			if err := <-read; !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("the blocked read: %v, want ECONNABORTED", err)
			}
			if _, err := far.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the peer: %v, want ECONNRESET", err)
			}
			if err := p.sockets.Destroy(s); !errors.Is(err, neigh.ErrGone) {
				t.Errorf("once more: %v, want ErrGone", err)
			}
			if _, err := far2.Write([]byte{1}); err != nil {
				t.Error(err)
			}
			if _, err := near2.Read(make([]byte, 1)); err != nil {
				t.Errorf("another socket to the same address: %v", err)
			}
			if left := p.only(t); left.Local.Port() != near2.LocalAddr().(*net.TCPAddr).AddrPort().Port() {
				t.Errorf("left: %+v", left)
			}
			_ = near2.Close()
		})
	}
}

// A kernel without sock_diag, or without its modules, is told from one that has them
// and is in trouble for a moment.
func TestSocketsThatCannotBeListed(t *testing.T) {
	h := lab.Start(t).Host("node")
	err := h.Do(func() error {
		if err := lab.WithoutNetlink(unix.NETLINK_SOCK_DIAG); err != nil {
			t.Fatal(err)
		}
		if table, err := Open(); err != nil {
			t.Errorf("the neighbour table: %v", err)
		} else {
			table.Close()
		}
		_, err := OpenSockets()
		return err
	})
	if want := "opening netlink sock_diag socket: not supported by this kernel (protocol not supported)"; !errors.Is(err, neigh.ErrUnsupported) || err.Error() != want {
		t.Errorf("without sock_diag: %v, want %s", err, want)
	}
	for _, tt := range []struct {
		name string
		recv func([]byte, *faultyConn) ([]byte, error)
		is   error // nil: they can be listed
		says string
	}{
		{"no tcp_diag", refused(unix.ENOENT), neigh.ErrUnsupported, "not supported by this kernel: no module tcp_diag: not there (no such file or directory)"},
		{"no inet_diag", refused(unix.EOPNOTSUPP), neigh.ErrUnsupported, "no module inet_diag: not supported by this kernel (operation not supported)"},
		{"denied by a security module", refused(unix.EPERM), neigh.ErrPermission, "not permitted (operation not permitted)"},
		{"out of memory", refused(unix.ENOMEM), nil, ""},
		{"interrupted", refused(unix.EBUSY), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openSockets(t, h)
			faulty := breakable(s.conn)
			faulty.set(listing, &fault{recv: tt.recv, lost: true}) // TCPDIAG_GETSOCK has the number of RTM_GETLINK
			err := s.check()
			if faulty.lift() == 0 {
				t.Fatal("the fault did not strike")
			}
			switch {
			case tt.is == nil && err != nil:
				t.Errorf("%v, want no error", err)
			case tt.is != nil && (!errors.Is(err, tt.is) || err.Error() != "asking sock_diag: listing sockets to port 0: "+tt.says):
				t.Errorf("%v, want %s", err, tt.says)
			}
		})
	}
}

func TestSocketsWithoutNetAdmin(t *testing.T) {
	p := newPair(t)
	near, far := p.dial(t, p.client, "10.0.0.2:6443")
	// Capabilities belong to the thread, and the thread that Do uses is thrown
	// away.
	err := p.client.Do(func() error {
		if err := dropNetAdmin(); err != nil {
			return err
		}
		sockets, err := OpenSockets()
		if err != nil {
			return err
		}
		defer sockets.Close()
		list, err := sockets.List(apiPort)
		if err != nil || len(list) != 1 {
			return fmt.Errorf("listing needs no capability, but: %v, %w", list, err)
		}
		if _, err := sockets.Get(&list[0]); err != nil {
			return fmt.Errorf("looking up needs no capability, but: %w", err)
		}
		err = sockets.Destroy(&list[0])
		if errors.Is(err, neigh.ErrUnsupported) || errors.Is(err, neigh.ErrPermission) {
			return nil
		}
		return fmt.Errorf("destroying: %w, want ErrPermission", err)
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := far.Write([]byte{1}); err != nil {
		t.Error(err)
	}
	if _, err := near.Read(make([]byte, 1)); err != nil {
		t.Errorf("the socket: %v", err)
	}
}

func BenchmarkSockets(b *testing.B) {
	p := newPair(b)
	for range 4 {
		p.dial(b, p.client, "10.0.0.2:6443")
	}
	p.dial(b, p.client, "[2001:db8::2]:6443")
	list, err := p.sockets.List(apiPort)
	if err != nil || len(list) != 5 {
		b.Fatal(list, err)
	}
	b.Run("List", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.sockets.List(apiPort); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.sockets.Get(&list[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
