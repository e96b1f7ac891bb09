package kernel

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// ProcSockets are the TCP sockets of one network namespace, as text in
// /proc/net/tcp and tcp6: for kernels without sock_diag. It shows which
// connections there are, and of how they go only the retransmissions, takes longer
// the more there are of any port, and changes nothing. It is safe for concurrent use.
type ProcSockets struct {
	mu    sync.Mutex
	files []*os.File // which are of the namespace they were opened in
}

// OpenProcSockets opens the sockets of the calling thread's network namespace.
func OpenProcSockets() (*ProcSockets, error) {
	p := &ProcSockets{}
	for _, name := range [...]string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/thread-self/net/" + name)                    //nolint:gosec // one of two names
		if err != nil && (name == "tcp" || !errors.Is(err, os.ErrNotExist)) { // no tcp6: no IPv6
			p.Close()
			return nil, fmt.Errorf("opening the list of sockets: %w", err)
		}
		if err == nil {
			p.files = append(p.files, f)
		}
	}
	return p, nil
}

// Close closes the files.
func (p *ProcSockets) Close() {
	for _, f := range p.files {
		_ = f.Close()
	}
}

// List returns what Sockets.List does. The cookie is the number of the socket's
// inode, and a connection counts as accepted where this host listens on its local
// port. The device that a socket is bound to is not shown.
func (p *ProcSockets) List(port uint16) ([]neigh.Socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found procList
	for _, f := range p.files {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("listing sockets to port %d: %w", port, err)
		}
		if err := found.read(f, port); err != nil {
			return nil, fmt.Errorf("listing sockets to port %d in %s: %w", port, f.Name(), err)
		}
	}
	return found.sockets(), nil
}

// Get fails: one socket cannot be asked for.
func (p *ProcSockets) Get(k *neigh.Socket) (neigh.Socket, error) {
	return neigh.Socket{}, fmt.Errorf("reading socket %s to %s: %w", k.Local, k.Remote, neigh.ErrUnsupported)
}

// Destroy fails: a socket cannot be closed.
func (p *ProcSockets) Destroy(k *neigh.Socket) error {
	return fmt.Errorf("closing socket %s to %s: %w", k.Local, k.Remote, neigh.ErrUnsupported)
}

// procList is what is of interest of the files.
type procList struct {
	found     []neigh.Socket
	listeners []netip.AddrPort
}

// read takes in one file: a line of headings, and then one for each socket. The
// error wraps neigh.ErrMalformed where a line does not parse.
func (l *procList) read(r io.Reader, port uint16) error {
	lines := bufio.NewScanner(r)
	lines.Scan()
	for lines.Scan() {
		s, state, err := parseProcSocket(lines.Text())
		switch {
		case err != nil:
			return err
		case state == tcpListen:
			l.listeners = append(l.listeners, s.Local)
		case (state == tcpEstablished || state == tcpSynSent) && s.Remote.Port() == port:
			l.found = append(l.found, s)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line without end: %w", neigh.ErrMalformed)
	}
	return lines.Err()
}

// sockets returns what was found, as List does.
func (l *procList) sockets() []neigh.Socket {
	slices.SortStableFunc(l.found, func(a, b neigh.Socket) int { return cmp.Compare(a.Cookie, b.Cookie) })
	list := slices.CompactFunc(l.found, func(a, b neigh.Socket) bool { return a == b })
	list = list[:min(len(list), maxSockets)]
	for i := range list {
		list[i].Accepted = list[i].Established && slices.ContainsFunc(l.listeners, func(at netip.AddrPort) bool {
			return at.Port() == list[i].Local.Port() && (at.Addr().IsUnspecified() || at.Addr() == list[i].Local.Addr())
		})
	}
	return list
}

// parseProcSocket reads a line of get_tcp4_sock (net/ipv4/tcp_ipv4.c) or
// get_tcp6_sock, such as
//
//	1: 0100000A:9C40 0200000A:192B 01 00000000:00000000 00:00000000 00000000 0 0 4711 ...
//
// with the local address, the remote one, the state, two queues, a timer, the
// retransmission timeouts, the user, another count, and the inode.
func parseProcSocket(line string) (s neigh.Socket, state uint64, err error) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return s, 0, fmt.Errorf("line of %d words: %w", len(f), neigh.ErrMalformed)
	}
	local, ok := parseProcAddr(f[1])
	remote, ok2 := parseProcAddr(f[2])
	state, err1 := strconv.ParseUint(f[3], 16, 8)
	retransmits, err2 := strconv.ParseUint(f[6], 16, 32)
	inode, err3 := strconv.ParseUint(f[9], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil || !ok || !ok2 {
		return s, 0, fmt.Errorf("line %q: %w", line, neigh.ErrMalformed)
	}
	return neigh.Socket{
		Local:       netip.AddrPortFrom(local.Addr().Unmap(), local.Port()),
		Remote:      netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()),
		Mapped:      remote.Addr().Is4In6(),
		Cookie:      inode,
		Established: state == tcpEstablished,
		Retransmits: int(retransmits),
	}, state, nil
}

// parseProcAddr reads an address, as words of 32 bits in the order of this host's
// bytes, and a port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	words, after, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	port, err2 := strconv.ParseUint(after, 16, 16)
	if errors.Join(err, err2) != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(port)), true
}
