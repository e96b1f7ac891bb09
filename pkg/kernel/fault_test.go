package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/metrics"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
)

// request kinds, as the sweep makes them.
const (
	dumping  = "dump"
	listing  = "list" // devices, addresses and routes
	reading  = "get"
	deleting = "delete"
	changing = "change"
)

func kindOf(b []byte) string {
	switch typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]); {
	case typ == unix.RTM_DELNEIGH:
		return deleting
	case typ == unix.RTM_NEWNEIGH:
		return changing
	case typ == unix.RTM_GETLINK, typ == unix.RTM_GETADDR, typ == unix.RTM_GETROUTE:
		return listing
	case flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP:
		return dumping
	}
	return reading
}

// fault is something that goes wrong at the socket.
type fault struct {
	name string
	send func() error
	// recv is what a read returns in place of the kernel's own datagram, which is
	// lost; of a dump only where lost says so, because the kernel keeps what a full
	// buffer has no room for until there is some (netlink_dump).
	recv func(own []byte, at *faultyConn) ([]byte, error)
	// before is what a read returns ahead of the kernel's own datagram.
	before func(at *faultyConn) ([]byte, error)

	lost   bool
	reason string // what the fault is counted as, "" where nobody is to notice
	says   string // in the error
}

var (
	notice = func(errno unix.Errno, seq, port uint32) []byte {
		b := netlinkMessage(unix.NLMSG_ERROR, 0, seq, u32s(^uint32(errno)+1), make([]byte, 16))
		binary.NativeEndian.PutUint32(b[12:], port)
		return b
	}
	failsWith = func(errno unix.Errno) func([]byte, *faultyConn) ([]byte, error) {
		return func([]byte, *faultyConn) ([]byte, error) { return nil, errno }
	}
	refused = func(errno unix.Errno) func([]byte, *faultyConn) ([]byte, error) {
		return func(_ []byte, at *faultyConn) ([]byte, error) { return notice(errno, at.seq, at.port), nil }
	}
	sendFails = func(errno unix.Errno) func() error { return func() error { return errno } }
)

var socketFaults = []fault{
	{name: "send ENOBUFS", send: sendFails(unix.ENOBUFS), reason: "memory", says: "sending to netlink: the kernel is out of memory (no buffer space available)"},
	{name: "send ENOMEM", send: sendFails(unix.ENOMEM), reason: "memory", says: "sending to netlink: the kernel is out of memory (cannot allocate memory)"},
	{name: "send EPERM", send: sendFails(unix.EPERM), reason: "permission", says: "sending to netlink: not permitted (operation not permitted)"},
	{name: "send EIO", send: sendFails(unix.EIO), reason: "other", says: "sending to netlink: input/output error"},

	{name: "read ENOBUFS", recv: failsWith(unix.ENOBUFS), reason: "overrun", says: "netlink receive buffer overrun"},
	{name: "read ENOMEM", recv: failsWith(unix.ENOMEM), reason: "memory", says: "receiving from netlink: the kernel is out of memory (cannot allocate memory)"},
	{name: "read EIO", recv: failsWith(unix.EIO), reason: "other", says: "receiving from netlink: input/output error"},
	{name: "read EINTR", before: func(*faultyConn) ([]byte, error) { return nil, unix.EINTR }},
	{name: "read EAGAIN", before: func(*faultyConn) ([]byte, error) { return nil, unix.EAGAIN }},

	{name: "answer EBUSY", recv: refused(unix.EBUSY), lost: true, reason: "interrupted", says: "dump was interrupted (device or resource busy)"},
	{name: "answer ENOMEM", recv: refused(unix.ENOMEM), lost: true, reason: "memory", says: "the kernel is out of memory (cannot allocate memory)"},
	{name: "answer ENOBUFS", recv: refused(unix.ENOBUFS), lost: true, reason: "overrun", says: "netlink receive buffer overrun (no buffer space available)"},
	{name: "answer EPERM", recv: refused(unix.EPERM), lost: true, reason: "permission", says: "not permitted (operation not permitted)"},

	{name: "short message", recv: func(own []byte, _ *faultyConn) ([]byte, error) { return own[:9], nil }, reason: "malformed", says: "message header of 9 bytes: malformed netlink message"},
	{name: "message cut off", recv: func(own []byte, _ *faultyConn) ([]byte, error) { return own[:len(own)-4], nil }, reason: "malformed", says: " are left: malformed netlink message"},
	{name: "message longer than itself", recv: func(own []byte, _ *faultyConn) ([]byte, error) {
		binary.NativeEndian.PutUint32(own, 1<<31)
		return own, nil
	}, reason: "malformed", says: "message of 2147483648 bytes where "},
	{name: "message longer than the buffer", recv: func(own []byte, _ *faultyConn) ([]byte, error) {
		binary.NativeEndian.PutUint32(own, bufferSize+4)
		return append(own, make([]byte, bufferSize)...), nil
	}, reason: "malformed", says: fmt.Sprintf("message of %d bytes where %d are left", bufferSize+4, bufferSize)},

	{name: "answer to another request", before: func(at *faultyConn) ([]byte, error) {
		return notice(unix.EPERM, at.seq+1000, at.port), nil
	}},
	{name: "answer to another socket", before: func(at *faultyConn) ([]byte, error) {
		return notice(unix.EPERM, at.seq, at.port+1), nil
	}},
}

// Those of dumps alone.
var dumpFaults = []fault{
	{name: "dump interrupted", recv: func(own []byte, _ *faultyConn) ([]byte, error) {
		own[6] |= unix.NLM_F_DUMP_INTR
		return own, nil
	}, lost: true, reason: "interrupted", says: "dump was interrupted"},
	{name: "entry without an address", recv: func(_ []byte, at *faultyConn) ([]byte, error) {
		b := netlinkMessage(unix.RTM_NEWNEIGH, unix.NLM_F_MULTI, at.seq, ndmsg(unix.AF_INET, 2, 4, 0, lladdr))
		binary.NativeEndian.PutUint32(b[12:], at.port)
		return b, nil
	}, reason: "malformed", says: "dumping neighbour table: entry without an address: malformed netlink message"},
	{name: "attribute longer than its message", recv: func(own []byte, _ *faultyConn) ([]byte, error) {
		binary.NativeEndian.PutUint16(own[unix.NLMSG_HDRLEN+ndmsgLen:], 60000)
		return own, nil
	}, reason: "malformed", says: "dumping neighbour table: attribute of 60000 bytes where "},
	{name: "dump ends with an error", recv: func(_ []byte, at *faultyConn) ([]byte, error) {
		b := netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_MULTI, at.seq, u32s(^uint32(unix.ENOMEM)+1))
		binary.NativeEndian.PutUint32(b[12:], at.port)
		return b, nil
	}, reason: "memory", says: "dumping neighbour table: the kernel is out of memory"},
}

// faultyConn puts a fault in the way of a conn.
type faultyConn struct {
	port uint32

	mu    sync.Mutex
	fault *fault // nil: all is well
	kind  string // of requests that it hits
	last  string // kind of the request under way
	seq   uint32 // of its last message
	hits  int
	said  bool // before has been returned for this request
}

func (f *faultyConn) set(kind string, what *fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.fault, f.hits = kind, what, 0
}

// lift ends the fault and returns how often it struck.
func (f *faultyConn) lift() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = nil
	return f.hits
}

// socketOf is the socket on which a table sends requests of a kind.
func socketOf(t *Table, kind string) *conn {
	if kind == dumping || kind == listing {
		return t.dumps
	}
	return t.conn
}

// breakable makes c fail as f says.
func breakable(c *conn) *faultyConn {
	f := &faultyConn{port: c.port}
	c.sysSend = func(fd int, p []byte, flags int) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.last, f.said = kindOf(p), false
		for rest := p; len(rest) > 0; {
			var m message
			next, err := nextMessage(rest, &m)
			if err != nil {
				return err
			}
			f.seq, rest = m.seq, next
		}
		if f.fault != nil && f.fault.send != nil && f.last == f.kind {
			f.hits++
			return f.fault.send() // without an error it is swallowed
		}
		return unix.Send(fd, p, flags)
	}
	c.sysRead = func(fd int, p []byte) (int, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		hit := f.fault != nil && f.last == f.kind
		if hit && f.fault.before != nil && !f.said {
			f.said = true
			f.hits++
			b, err := f.fault.before(f)
			return copy(p, b), err
		}
		flags := 0
		hit = hit && f.fault.recv != nil
		if hit && (f.kind == dumping || f.kind == listing) && !f.fault.lost {
			if hit = !f.said; hit {
				f.said, flags = true, unix.MSG_PEEK
			}
		}
		n, _, err := unix.Recvfrom(fd, p, flags)
		if hit && err == nil {
			f.hits++
			b, err := f.fault.recv(bytes.Clone(p[:n]), f)
			return copy(p, b), err
		}
		return n, err
	}
	return f
}

// Whatever goes wrong at the socket, and whatever the sweep was doing: the
// fault is counted by its name, the next scan does everything that was due, and
// nothing that belongs to others is lost.
func TestFaultsAtTheSocket(t *testing.T) {
	t.Parallel()
	h, index := faultyHost(t)
	silence := fault{name: "no answer", send: func() error { return nil }, reason: "timeout", says: "no answer from the kernel"}
	for _, kind := range []string{listing, dumping, reading, deleting, changing} {
		faults := append([]fault(nil), socketFaults...)
		if kind == dumping {
			faults = append(faults, dumpFaults...)
		}
		for _, f := range faults {
			t.Run(kind+"/"+f.name, func(t *testing.T) { socketFails(t, h, index, kind, &f) })
		}
		// It takes as long as the agent waits.
		t.Run(kind+"/"+silence.name, func(t *testing.T) {
			t.Parallel()
			h, index := faultyHost(t)
			socketFails(t, h, index, kind, &silence)
		})
	}
}

// faultyHost returns a host with entries that belong to others, and the index of its
// device.
func faultyHost(t *testing.T) (*lab.Host, int) {
	t.Helper()
	h, index := host(t)
	// Nobody is there to answer for what is in use. The kernel must not find that out
	// while the agent waits for an answer of its own, which takes as long.
	h.Sysctl("net/ipv4/neigh/eth0/delay_first_probe_time", "60")
	h.Batch(`neigh add 10.0.0.101 lladdr 02:00:00:00:01:01 dev eth0 nud permanent
neigh add 10.0.0.102 lladdr 02:00:00:00:01:02 dev eth0 nud noarp
neigh add 10.0.0.103 lladdr 02:00:00:00:01:03 dev eth0 nud stale extern_learn
neigh add 10.0.0.104 lladdr 02:00:00:00:01:04 dev eth0 nud stale protocol zebra`)
	return h, index
}

// socketFails has one fault happen, and looks at what is left.
func socketFails(t *testing.T, h *lab.Host, index int, kind string, f *fault) {
	t.Helper()
	survives(t, open(t, h), kind, f, func() {
		h.Batch(`neigh replace 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale
neigh replace 2001:db8::50 lladdr 02:00:00:00:00:50 dev eth0 nud stale
neigh replace 10.0.0.51 lladdr 02:00:00:00:00:51 dev eth0 nud reachable
neigh replace 10.0.0.52 lladdr 02:00:00:00:00:52 dev eth0 nud reachable`)
	})
	left := dump(t, open(t, h))
	for addr, there := range map[string]bool{
		"10.0.0.50": false, "2001:db8::50": false, "10.0.0.51": true, "10.0.0.52": true,
		"10.0.0.101": true, "10.0.0.102": true, "10.0.0.103": true, "10.0.0.104": true,
	} {
		if _, ok := left[key(addr, index)]; ok != there {
			t.Errorf("%s in the table: %v, want %v", addr, ok, there)
		}
	}
}

// survives sweeps a table, filled by fill, while it fails, and once more when it
// works again.
func survives(t *testing.T, table *Table, kind string, what *fault, fill func()) {
	faulty := breakable(socketOf(table, kind))
	var sweeper *sweep.Sweeper
	m := metrics.New(metrics.Info{})
	scope := &policy.Scope{}
	timing := policy.Timing{Interval: 4 * time.Millisecond, Lead: 4 * time.Millisecond} // everything is due
	type scanned struct {
		err, ready     error
		hits, verified int
	}
	scans, proceed := make(chan scanned), make(chan struct{})
	verified, hits := 0, 0
	sweeper = sweep.New(sweep.Config{
		Table: table, Scope: scope, Timing: timing, ScanPeriod: 5 * time.Millisecond,
		Verifier: &sweep.InPlace{Table: table, Scope: scope, Timing: policy.NewTiming(time.Hour, time.Second)},
		Log:      slog.New(slog.DiscardHandler),
		Events: sweep.Events{
			Scanned: func(took time.Duration, err error) {
				m.Scanned(time.Now(), took, err)
				hits += faulty.lift()
				scans <- scanned{err, sweeper.Ready(time.Now()), hits, verified}
				<-proceed
			},
			Renewed: func(_ string, how sweep.Method, r sweep.Result, _ time.Duration) {
				if how == sweep.ByStale && r == sweep.OK {
					verified++
				}
			},
		},
	})
	m.ObserveSweep(sweeper.Report, func() bool { return true })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sweeper.Run(ctx) }()
	next := func() scanned {
		select {
		case s := <-scans:
			return s
		case <-time.After(20 * time.Second):
			t.Fatal("no scan ends")
			return scanned{}
		}
	}
	fill()
	next() // what is in use is held back by the first scan, and asked for in the next
	fill()
	verified = 0
	faulty.set(kind, what)
	proceed <- struct{}{}
	first := next()
	proceed <- struct{}{}
	second := next()
	stop()
	close(proceed)
	if err := <-ended; err != nil {
		t.Error(err)
	}

	if first.hits == 0 {
		t.Fatal("the fault did not strike")
	}
	if want := what.reason; want == "" {
		if first.err != nil || first.ready != nil {
			t.Errorf("the scan failed: %v; ready: %v", first.err, first.ready)
		}
	} else {
		if first.err == nil || neigh.FailureReason(first.err) != want || !strings.Contains(first.err.Error(), what.says) {
			t.Errorf("the scan failed with %v, counted as %q; want %q, %q", first.err, neigh.FailureReason(first.err), want, what.says)
		}
		if !errors.Is(first.ready, first.err) {
			t.Errorf("ready after it: %v, want why not", first.ready)
		}
		w := httptest.NewRecorder()
		m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if sample := `arp_cache_cleaner_scan_failures_total{reason="` + want + `"} 1`; !strings.Contains(w.Body.String(), sample) {
			t.Errorf("the metrics do not say %s", sample)
		}
	}
	if second.err != nil {
		t.Errorf("the next scan failed too: %v", second.err)
	}
	if second.verified < 2 {
		t.Errorf("%d entries were verified by the end of the next scan, want both", second.verified)
	}
}

// The list of sockets comes through the same conn, by another decoder.
func TestFaultsWhileListingSockets(t *testing.T) {
	h, _ := host(t)
	noModule := fault{name: "answer ENOENT", recv: refused(unix.ENOENT), lost: true, reason: "other", says: "not supported by this kernel: no module tcp_diag: not there"}
	for _, f := range append(append([]fault(nil), socketFaults...), dumpFaults[0], noModule) {
		t.Run(f.name, func(t *testing.T) {
			var s *Sockets
			if err := h.Do(func() (err error) {
				s, err = OpenSockets()
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			faulty := breakable(s.conn)
			faulty.set(listing, &f) // TCPDIAG_GETSOCK has the number of RTM_GETLINK
			_, err := s.List(6443)
			if faulty.lift() == 0 {
				t.Fatal("the fault did not strike")
			}
			switch {
			case f.reason == "" && err != nil:
				t.Errorf("listing failed: %v", err)
			case f.reason != "" && (err == nil || neigh.FailureReason(err) != f.reason ||
				!strings.HasPrefix(err.Error(), "listing sockets to port 6443: ") || !strings.Contains(err.Error(), f.says)):
				t.Errorf("listing failed with %v, counted as %q; want %q, %q", err, neigh.FailureReason(err), f.reason, f.says)
			}
			if _, err := s.List(6443); err != nil {
				t.Errorf("listing once more: %v", err)
			}
		})
	}
}

// A dump that was given up does not stand in the way of the next one, however
// much of it was left.
func TestDumpGivenUp(t *testing.T) {
	h, _ := host(t)
	var lines strings.Builder
	const entries = 700
	for i := range entries {
		fmt.Fprintf(&lines, "neigh replace 2001:db8::1:%x lladdr 02:00:00:00:00:50 dev eth0 nud permanent\n", i)
	}
	h.Batch(lines.String())
	table := open(t, h)
	count := func() (n int, err error) {
		err = table.Dump(func(*neigh.Entry) { n++ })
		return n, err
	}
	all, err := count()
	if err != nil || all < entries {
		t.Fatalf("%d entries, %v", all, err)
	}
	for _, at := range []int{1, 2, 3} {
		reads := 0
		table.dumps.sysRead = func(fd int, p []byte) (int, error) {
			if reads++; reads == at {
				return 0, unix.ENOMEM
			}
			return unix.Read(fd, p)
		}
		if n, err := count(); !errors.Is(err, neigh.ErrNoMemory) || n >= all {
			t.Errorf("given up at read %d: %d entries of %d, %v", at, n, all, err)
		}
		if n, err := count(); err != nil || n != all {
			t.Errorf("after one that was given up at read %d: %d entries of %d, %v", at, n, all, err)
		}
	}
	// Nor does it where nobody knew.
	if err := table.dumps.send(appendRequest(nil, &request{typ: unix.RTM_GETNEIGH, flags: unix.NLM_F_DUMP}, table.dumps.reserve(1))); err != nil {
		t.Fatal(err)
	}
	if _, err := count(); !errors.Is(err, unix.EBUSY) || !errors.Is(err, neigh.ErrInterrupted) {
		t.Errorf("while another is under way: %v, want EBUSY", err)
	}
	if n, err := count(); err != nil || n != all {
		t.Errorf("after that: %d entries of %d, %v", n, all, err)
	}
}

// Any process may send to a netlink port, and the sequence numbers are easily guessed. To
// a socket that is connected to the kernel, nobody else may.
func TestAnswersComeFromTheKernel(t *testing.T) {
	h, index := host(t)
	h.IP("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent")
	table := open(t, h)
	bare := bareSocket(t, h)
	for _, tt := range []struct {
		what string
		port uint32
		want error
	}{
		{"a socket that is not connected", bare.port, nil},
		{"the table's", table.conn.port, unix.ECONNREFUSED},
		{"that for dumps", table.dumps.port, unix.ECONNREFUSED},
	} {
		from := bareSocket(t, h)
		forged := notice(unix.EPERM, table.conn.seq+1, tt.port)
		err := unix.Sendto(from.fd, forged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: tt.port})
		if !errors.Is(err, tt.want) {
			t.Errorf("a message to %s: %v, want %v", tt.what, err, tt.want)
		}
	}
	if e, err := table.Get(key("10.0.0.2", index)); err != nil || e.State != neigh.Permanent {
		t.Errorf("%+v, %v", e, err)
	}
}

// bareSocket is a netlink socket that is connected to nobody.
func bareSocket(t *testing.T, h *lab.Host) (s struct {
	fd   int
	port uint32
}) {
	t.Helper()
	if err := h.Do(func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err == nil {
			s.port, err = bind(s.fd, 0)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	return s
}
