package solicit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// readBuffer is room for the answers that arrive while the caller is busy
	// with one: some hundreds, as each takes up to 4 KiB of driver memory.
	readBuffer = 1 << 20
	// maxQueued is more frames than that holds, of 768 bytes with all that the
	// kernel counts, in twice the room that was asked for.
	maxQueued = 4096
	// restBuffer makes it the least that the kernel allows, SOCK_MIN_RCVBUF: a few
	// frames. More that arrive at rest are dropped, and wake nobody.
	restBuffer = 0

	// restType is what a busy protocol's socket is bound to at rest: an
	// EtherType that IEEE 802 sets aside for experiments. A packet socket
	// cannot be unbound: packet_do_bind takes protocol 0 for the one it has.
	restType = unix.ETH_P_802_EX1
)

// socket is a packet socket for one protocol on one interface. Between listen and
// rest it has room for answers; at rest it lets in a few at most, and the next
// listen drops those. To change the filter instead would cost more than all else
// that is done to ask one host: the kernel translates it each time.
//
// SOCK_DGRAM has the kernel write and strip the Ethernet header, which makes
// VLAN devices, bonds and bridges look alike. Unlike a tap for all protocols,
// such a socket sees what the kernel's own ARP and IPv6 see: after XDP and tc.
type socket struct {
	protocol

	index int
	name  string
	file  *os.File // deadlines and waiting, by Go's poller
	raw   syscall.RawConn

	in, out []byte // of the Ask that is listening
}

// open opens a socket on the interface with this index, in the network namespace of the
// calling thread. It is used from any thread afterwards. The interface may be down.
func open(index int, p protocol) (*socket, error) {
	if index <= 0 {
		return nil, fmt.Errorf("interface index %d: %w", index, ErrGone)
	}
	fd, err := openPacket()
	if err != nil {
		return nil, err
	}
	s := &socket{protocol: p, index: index, name: fmt.Sprintf("interface %d", index), file: os.NewFile(uintptr(fd), "packet"), in: make([]byte, maxFrame)}
	if err := s.setUp(); err != nil {
		_ = s.close()
		return nil, err
	}
	return s, nil
}

// openPacket opens a packet socket. Of its protocol, 0, nothing arrives: there is no
// filter yet.
func openPacket() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return 0, fmt.Errorf("opening packet socket: CAP_NET_RAW: %w (%w)", ErrPermission, err)
	case err != nil:
		return 0, fmt.Errorf("opening packet socket: %w", err)
	}
	return fd, nil
}

func (s *socket) setUp() (err error) {
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return s.fail("setting up packet socket", err)
	}
	// The name is for messages. net.InterfaceByIndex would dump all devices.
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return s.fail("naming", err)
	}
	ifr.SetUint32(uint32(s.index)) //nolint:gosec // positive
	if err := s.control(func(fd int) error { return unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr) }); err != nil {
		return s.fail("naming", err)
	}
	s.name = ifr.Name()
	if err := s.attach(s.filter); err != nil {
		return err
	}
	if err := s.size(restBuffer); err != nil {
		return err
	}
	if s.busy {
		return nil // bound by the first Ask
	}
	if err := s.bind(s.etherType); err != nil {
		return err
	}
	_, err = s.lladdr()
	return err
}

// size sets how much may wait to be read.
func (s *socket) size(bytes int) error {
	if err := s.control(func(fd int) error {
		// FORCE goes beyond net.core.rmem_max, and needs CAP_NET_ADMIN.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) == nil {
			return nil
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	}); err != nil {
		return s.fail("sizing the buffer of a packet socket", err)
	}
	return nil
}

// close takes some milliseconds: the kernel waits for all CPUs to be done with a packet
// socket (synchronize_net in packet_release).
func (s *socket) close() error {
	if err := s.file.Close(); err != nil {
		return s.fail("closing packet socket", err)
	}
	return nil
}

// fail names the interface, and the sentinel of errnos that have one.
func (s *socket) fail(action string, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		err = fmt.Errorf("%w (%w)", ErrGone, err)
	case errors.Is(err, unix.ENETDOWN):
		err = fmt.Errorf("%w (%w)", ErrDown, err)
	}
	return fmt.Errorf("%s on %s: %w", action, s.name, err)
}

// control runs fn with the file descriptor.
func (s *socket) control(fn func(fd int) error) error { return control(s.raw, fn) }

// control runs fn with the file descriptor of a connection.
func control(raw syscall.RawConn, fn func(fd int) error) error {
	var err error
	if c := raw.Control(func(fd uintptr) { err = fn(int(fd)) }); c != nil {
		return c
	}
	return err
}

func (s *socket) attach(filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return s.fail("assembling filter", err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := s.control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}) //nolint:gosec // a dozen
	}); err != nil {
		return s.fail("attaching filter", err)
	}
	return nil
}

// bind makes the socket receive frames of the EtherType. It costs nothing where it
// does already; otherwise the kernel waits for a grace period (packet_do_bind).
func (s *socket) bind(etherType uint16) error {
	sa := &unix.SockaddrLinklayer{Protocol: networkOrder(etherType), Ifindex: s.index}
	if err := s.control(func(fd int) error { return unix.Bind(fd, sa) }); err != nil {
		return s.fail("binding packet socket", err)
	}
	return nil
}

// lladdr returns the interface's link-layer address as it is now.
func (s *socket) lladdr() (own lladdr, err error) {
	err = s.control(func(fd int) (err error) {
		own, err = s.lladdrBy(fd)
		return err
	})
	return own, err
}

func (s *socket) lladdrBy(fd int) (lladdr, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return lladdr{}, s.fail("reading the address", err)
	}
	ll, ok := sa.(*unix.SockaddrLinklayer)
	switch {
	case !ok || ll.Halen == 0 && ll.Hatype == 0: // packet_getname of a device that has gone
		return lladdr{}, s.fail("reading the address", unix.ENODEV)
	case ll.Hatype != unix.ARPHRD_ETHER || int(ll.Halen) != len(lladdr{}):
		return lladdr{}, fmt.Errorf("%s is of ARPHRD type %d with addresses of %d bytes: %w", s.name, ll.Hatype, ll.Halen, ErrNotEthernet)
	}
	return lladdr(ll.Addr[:]), nil
}

// listen makes room for answers, and drops what came before. It returns the interface's
// Ethernet address, which can change while the interface lives: bonds take that of another
// port.
func (s *socket) listen() (own lladdr, err error) {
	if s.busy {
		if err := s.bind(s.etherType); err != nil {
			return lladdr{}, err
		}
	}
	if err := s.control(func(fd int) error { s.drain(fd); return nil }); err != nil {
		return lladdr{}, err
	}
	if err := s.size(readBuffer); err != nil {
		return lladdr{}, err
	}
	if err := s.overrun(); err != nil && !errors.Is(err, ErrOverrun) {
		return lladdr{}, err
	}
	return s.lladdr()
}

// drain empties the queue, of what comes meanwhile too, within reason, and reports
// whether there were frames. Errors are of the past as well: an interface that went
// down and up again leaves one.
func (s *socket) drain(fd int) (any bool) {
	for range maxQueued {
		switch _, _, err := unix.Recvfrom(fd, s.in[:1], 0); {
		case err == nil:
			any = true
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
		default:
			return any
		}
	}
	return any
}

// rest undoes listen. What fails here fails because the interface is gone, and
// then nothing arrives either. A deadline that is left behind would wake the
// process when it comes.
func (s *socket) rest() {
	_ = s.file.SetReadDeadline(time.Time{})
	_ = s.size(restBuffer)
	if s.busy {
		_ = s.bind(restType)
	}
}

// abortOn makes reads fail with os.ErrDeadlineExceeded once ctx is
// done, until release is called.
func (s *socket) abortOn(ctx context.Context) (release func()) {
	aborted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(aborted)
		_ = s.file.SetReadDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-aborted
		}
	}
}

// send hands a frame to the interface. It does not wait: an interface that does not
// take even one has not sent what it was given before.
func (s *socket) send(frame []byte, to lladdr) error {
	if err := s.control(func(fd int) error { return s.sendto(fd, frame, to) }); err != nil {
		return s.fail("sending", err)
	}
	return nil
}

func (s *socket) sendto(fd int, frame []byte, to lladdr) error {
	return sendto(fd, s.etherType, s.index, frame, to)
}

// sendto sends a frame by a packet socket, which need not be bound.
func sendto(fd int, etherType uint16, index int, frame []byte, to lladdr) error {
	sa := &unix.SockaddrLinklayer{Protocol: networkOrder(etherType), Ifindex: index, Halen: uint8(len(to))}
	copy(sa.Addr[:], to[:])
	for {
		if err := unix.Sendto(fd, frame, 0, sa); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// readUntil sets when receive fails with os.ErrDeadlineExceeded.
func (s *socket) readUntil(t time.Time) error {
	if err := s.file.SetReadDeadline(t); err != nil {
		return s.fail("setting deadlines", err)
	}
	return nil
}

// receive reads one frame and returns what is behind the Ethernet header, valid
// until the next call: nothing, if that does not fit.
func (s *socket) receive() (b []byte, h header, err error) {
	if r := s.raw.Read(func(fd uintptr) bool {
		b, h, err = s.recvfrom(int(fd))
		return !errors.Is(err, unix.EAGAIN)
	}); r != nil && errors.Is(r, os.ErrDeadlineExceeded) { // is how every Ask ends
		return nil, header{}, r
	} else if r != nil {
		return nil, header{}, s.fail("receiving", r)
	}
	return b, h, err
}

// recvfrom is receive, but fails with EAGAIN where there is no frame.
func (s *socket) recvfrom(fd int) ([]byte, header, error) {
	for {
		n, from, err := unix.Recvfrom(fd, s.in, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, header{}, err
		case err != nil:
			return nil, header{}, s.fail("receiving", err)
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || n > len(s.in) {
			return nil, header{}, nil
		}
		return s.in[:n], header{source: lladdr(ll.Addr[:]), toUs: ll.Pkttype == unix.PACKET_HOST}, nil
	}
}

// overrun returns ErrOverrun if frames were dropped for want of buffer since
// it was last called.
func (s *socket) overrun() error {
	var stats *unix.TpacketStats
	err := s.control(func(fd int) (err error) {
		stats, err = unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		return err
	})
	switch {
	case err != nil:
		return s.fail("reading statistics", err)
	case stats.Drops > 0:
		return fmt.Errorf("listening on %s: %w: %d", s.name, ErrOverrun, stats.Drops)
	}
	return nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
