package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// procLine returns a line as the kernel of this machine writes it.
func procLine(local, remote string, state, retransmits, inode int) string {
	words := func(s string) (out string) {
		a := netip.MustParseAddrPort(s)
		for b := a.Addr().AsSlice(); len(b) > 0; b = b[4:] {
			out += fmt.Sprintf("%08X", binary.NativeEndian.Uint32(b))
		}
		return fmt.Sprintf("%s:%04X", out, a.Port())
	}
	return fmt.Sprintf("   1: %s %s %02X 00000000:00000000 00:00000000 %08X     0        0 %d 1 0000000000000000 20 4 30 10 -1\n",
		words(local), words(remote), state, retransmits, inode)
}

const procHeadings = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestParseProc(t *testing.T) {
	var l procList
	for _, file := range []string{
		procHeadings +
			procLine("127.0.0.1:9100", "0.0.0.0:0", 10, 0, 1) +
			procLine("10.0.0.1:40000", "10.0.0.2:6443", 1, 0, 12) +
			procLine("10.0.0.1:40001", "10.0.0.2:6443", 2, 3, 11) +
			procLine("10.0.0.1:40002", "10.0.0.2:6443", 8, 0, 13) + // CLOSE_WAIT
			procLine("10.0.0.1:40003", "10.0.0.2:6444", 1, 0, 14) +
			procLine("10.0.0.1:9100", "10.0.0.3:6443", 1, 0, 15) + // the listener has another address
			procLine("10.0.0.1:40000", "10.0.0.2:6443", 1, 0, 12), // told twice
		procHeadings +
			procLine("[::]:9101", "[::]:0", 10, 0, 2) +
			procLine("[2001:db8::1]:40000", "[2001:db8::2]:6443", 1, 0, 16) +
			procLine("[::ffff:10.0.0.1]:9101", "[::ffff:10.0.0.3]:6443", 1, 0, 17),
		procHeadings,
		"",
	} {
		if err := l.read(strings.NewReader(file), 6443); err != nil {
			t.Fatal(err)
		}
	}
	socket := func(local, remote string, inode uint64, change func(*neigh.Socket)) neigh.Socket {
		s := neigh.Socket{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Cookie: inode, Established: true}
		change(&s)
		return s
	}
	plain := func(*neigh.Socket) {}
	want := []neigh.Socket{
		socket("10.0.0.1:40001", "10.0.0.2:6443", 11, func(s *neigh.Socket) { s.Established, s.Retransmits = false, 3 }),
		socket("10.0.0.1:40000", "10.0.0.2:6443", 12, plain),
		socket("10.0.0.1:9100", "10.0.0.3:6443", 15, plain),
		socket("[2001:db8::1]:40000", "[2001:db8::2]:6443", 16, plain),
		socket("10.0.0.1:9101", "10.0.0.3:6443", 17, func(s *neigh.Socket) { s.Mapped, s.Accepted = true, true }),
	}
	got := l.sockets()
	if len(got) != len(want) {
		t.Fatalf("got %+v, want %d sockets", got, len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
}

func FuzzParseProc(f *testing.F) {
	f.Add(procLine("10.0.0.1:40000", "10.0.0.2:6443", 1, 0, 12))
	f.Add(procLine("[::ffff:10.0.0.1]:9101", "[::ffff:10.0.0.3]:6443", 10, 255, 17))
	f.Add("1: 0100000A:9C40 0200000A:192B 01 0:0 0:0 0 0 0")
	f.Add("1: 0100000A 0200000A: 01 0:0 0:0 0 0 0 0")
	f.Add("1: 01000g0A:1 0200000A:1 01 0:0 0:0 0 0 0 0")
	f.Add("1: 0100000A:1 0200000A:1 100 0:0 0:0 0 0 0 0")
	f.Fuzz(func(t *testing.T, line string) {
		s, _, err := parseProcSocket(line)
		switch {
		case err != nil && !errors.Is(err, neigh.ErrMalformed):
			t.Errorf("%v, want ErrMalformed", err)
		case err == nil && (!s.Local.IsValid() || !s.Remote.IsValid() || s.Remote.Addr().Is4In6() || s.Retransmits < 0):
			t.Errorf("%+v", s)
		}
		var l procList
		if err := l.read(strings.NewReader(procHeadings+line), 6443); err != nil && !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("%v, want ErrMalformed", err)
		}
	})
}

// Both ways to the list of sockets have to agree on what both can tell.
func TestProcSockets(t *testing.T) {
	p := newPair(t)
	peer := lab.Start(t).Host("peer")
	peer.Plug(p.sw, "eth0", "02:00:00:00:00:03", "10.0.0.3/24")
	p.listen(t, p.client, 9100)
	p.dial(t, p.client, "10.0.0.2:6443")
	p.dial(t, p.client, "[2001:db8::2]:6443")
	p.connecting(t, 1)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 3), Port: apiPort}, Timeout: 5 * time.Second}
	var in net.Conn
	if err := peer.Do(func() (err error) {
		in, err = dialer.Dial("tcp", "10.0.0.1:9100")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer func() { _ = (<-p.accepted).Close() }()

	var sockets *ProcSockets
	if err := p.client.Do(func() (err error) {
		sockets, err = OpenProcSockets()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	type told struct {
		local, remote                 netip.AddrPort
		mapped, established, accepted bool
	}
	common := func(list []neigh.Socket) map[told]int {
		m := make(map[told]int)
		for _, s := range list {
			m[told{s.Local, s.Remote, s.Mapped, s.Established, s.Accepted}]++
		}
		return m
	}
	for range 2 { // the files are read again
		list, err := sockets.List(apiPort)
		if err != nil || len(list) != 4 {
			t.Fatalf("%+v, %v; want four sockets", list, err)
		}
		want, err := p.sockets.List(apiPort)
		if err != nil {
			t.Fatal(err)
		}
		wanted := common(want)
		for k, n := range common(list) {
			if wanted[k] != n {
				t.Errorf("%+v: %d times, by sock_diag %d times", k, n, wanted[k])
			}
		}
		for _, s := range list {
			if s.Cookie == 0 && !s.Accepted { // what nobody has accepted yet has no inode
				t.Errorf("%+v", s)
			}
		}
		if _, err := sockets.Get(&list[0]); !errors.Is(err, neigh.ErrUnsupported) {
			t.Errorf("Get: %v, want ErrUnsupported", err)
		}
		if err := sockets.Destroy(&list[0]); !errors.Is(err, neigh.ErrUnsupported) {
			t.Errorf("Destroy: %v, want ErrUnsupported", err)
		}
	}
}

// What kernels without CONFIG_INET_DIAG, and sandboxes, say.
func TestNoSockDiag(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ESOCKTNOSUPPORT} {
		err := lab.Start(t).Host("a").Do(func() error {
			if err := denyWith(errno, []uint32{unix.SYS_SOCKET}); err != nil {
				t.Fatal(err)
			}
			if _, err := SubscribeDestroyed(apiPort); !errors.Is(err, neigh.ErrUnsupported) {
				t.Errorf("subscribing: %v, want ErrUnsupported", err)
			}
			if p, err := OpenProcSockets(); err != nil {
				t.Errorf("the other way: %v", err)
			} else {
				p.Close()
			}
			_, err := OpenSockets()
			return err
		})
		if !errors.Is(err, neigh.ErrUnsupported) || !errors.Is(err, errno) {
			t.Errorf("%v, want ErrUnsupported and %v", err, errno)
		}
	}
}
