package kernel

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	// bufferSize is how much of a dump the kernel hands over at once. It has room for
	// slightly fewer entries of the neighbour table than a batch deletes (an IPv4 entry
	// takes 76 bytes), so that one batch deletes a whole part before it is old. The
	// kernel fills less than half of it unasked (NLMSG_GOODSIZE), and no other answer
	// takes more.
	bufferSize = 14 << 10

	// answerTimeout bounds every wait. The kernel answers within the send call
	// itself, so it should never be reached.
	answerTimeout = 5 * time.Second

	// dumpTries is how often a list is read that must be whole, as long as changes
	// interrupt it.
	dumpTries = 3
)

// message is one netlink message of an answer. Its body is valid until the
// next read.
type message struct {
	typ, flags uint16
	seq, port  uint32
	body       []byte
}

// conn is a netlink socket that reuses its buffers and allocates nothing per
// message. It is for one request at a time.
type conn struct {
	fd   int
	port uint32 // our own netlink port id
	seq  uint32
	out  []byte // the request
	buf  []byte // what was read of the answer

	unfinished bool // a dump was begun, and its end has not been seen

	// The system calls. Tests put faults in their way.
	sysSend func(fd int, p []byte, flags int) error
	sysRead func(fd int, p []byte) (n int, err error)
}

// protocolNames are the netlink protocols in use, for errors.
var protocolNames = map[int]string{unix.NETLINK_ROUTE: "route", unix.NETLINK_SOCK_DIAG: "sock_diag"}

// refusal adds to the error of a system call what a caller can act on.
func refusal(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES): // of a security module, or seccomp
		return fmt.Errorf("%w (%w)", neigh.ErrPermission, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ESOCKTNOSUPPORT):
		return fmt.Errorf("%w (%w)", neigh.ErrUnsupported, err)
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w (%w)", neigh.ErrNoMemory, err)
	}
	return err
}

// dial opens a socket of a netlink protocol (NETLINK_*) in the network namespace
// of the calling thread. The error wraps neigh.ErrUnsupported where the kernel does
// not have the protocol.
//
// The library's sockets are known to Go's poller, which then wakes up for each answer
// that is there already. This one is connected to the kernel, so that no other process
// can send to it (netlink_getsockbyportid in net/netlink/af_netlink.c).
func dial(protocol int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("opening netlink %s socket: %w", protocolNames[protocol], refusal(err))
	}
	c := &conn{fd: fd, buf: make([]byte, bufferSize), sysSend: unix.Send, sysRead: unix.Read}
	if c.port, err = bind(fd, 0); err == nil {
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("setting up netlink %s socket: %w", protocolNames[protocol], err)
	}
	return c, nil
}

func (c *conn) close() { _ = unix.Close(c.fd) }

// reserve returns the first of n fresh sequence numbers.
func (c *conn) reserve(n int) uint32 {
	first := c.seq + 1
	c.seq += uint32(n) //nolint:gosec // batch sizes
	return first
}

// send hands b, one or more whole messages, to the kernel, which works through
// all of them before the call returns.
func (c *conn) send(b []byte) error {
	for {
		switch err := c.sysSend(c.fd, b, 0); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("sending to netlink: %w", refusal(err))
		}
	}
}

// receive reads answers and calls handle for each message to this socket whose
// sequence number is in [first, last], until handle says that it is done. What
// else arrives is a leftover of a request that was given up, and is dropped.
func (c *conn) receive(first, last uint32, handle func(message) (done bool, err error)) error {
	var m message
	for {
		b, err := c.read()
		if err != nil {
			return err
		}
		for len(b) > 0 {
			rest, err := nextMessage(b, &m)
			if err != nil {
				return err
			}
			b = rest
			if m.port != c.port || m.seq-first > last-first {
				continue
			}
			if done, err := handle(m); done || err != nil {
				return err
			}
		}
	}
}

// ask sends a request, which request appends to b, and calls handle with the body of
// the message of type answer that the kernel answers it with. An acknowledgement ends
// it as well.
func (c *conn) ask(answer uint16, request func(b []byte, seq uint32) []byte, handle func(body []byte) error) error {
	seq := c.reserve(1)
	c.out = request(c.out[:0], seq)
	if err := c.send(c.out); err != nil {
		return err
	}
	return c.receive(seq, seq, func(m message) (bool, error) {
		switch m.typ {
		case unix.NLMSG_ERROR:
			return true, m.status()
		case answer:
			return true, handle(m.body)
		}
		return false, nil
	})
}

// begin asks for a dump, and returns the sequence number of its answers. Whoever
// sees the end of them calls finished.
func (c *conn) begin(request func(b []byte, seq uint32) []byte) (uint32, error) {
	if c.unfinished {
		if err := c.drain(); err != nil {
			return 0, err
		}
	}
	seq := c.reserve(1)
	c.out = request(c.out[:0], seq)
	if err := c.send(c.out); err != nil {
		return 0, err
	}
	c.unfinished = true
	return seq, nil
}

// finished notes that a dump has come to its end, unless the request for it was
// refused because another dump is under way.
func (c *conn) finished(err error) { c.unfinished = errors.Is(err, unix.EBUSY) }

// drain makes the kernel finish a dump that was given up: as long as one is under
// way, the kernel refuses another. The dump goes on when something is read
// (netlink_recvmsg), so there must be something to read: the acknowledgement of a
// message that asks for nothing.
func (c *conn) drain() error {
	if err := c.send(appendMessage(nil, unix.NLMSG_NOOP, unix.NLM_F_ACK, c.reserve(1), nil)); err != nil {
		return err
	}
	for {
		switch _, err := c.sysRead(c.fd, c.buf); {
		case err == nil, errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS):
		case errors.Is(err, unix.EAGAIN):
			c.unfinished = false
			return nil
		default:
			return fmt.Errorf("receiving from netlink: %w", refusal(err))
		}
	}
}

// dump asks for a dump and calls each for every message of the answer. It returns the
// first error, and reads to the end all the same: the kernel refuses another dump on
// this socket while one is under way.
func (c *conn) dump(request func(b []byte, seq uint32) []byte, each func(message) error) error {
	seq, err := c.begin(request)
	if err != nil {
		return err
	}
	var first error
	for done := false; !done; {
		err := c.receive(seq, seq, func(m message) (bool, error) {
			if m.flags&unix.NLM_F_DUMP_INTR != 0 {
				first = cmp.Or(first, neigh.ErrInterrupted)
			}
			if m.typ == unix.NLMSG_DONE || m.typ == unix.NLMSG_ERROR {
				done = true
				err := m.status()
				c.finished(err)
				return true, err
			}
			first = cmp.Or(first, each(m))
			return false, nil
		})
		first = cmp.Or(first, err)
		if !errors.Is(err, neigh.ErrMalformed) && !errors.Is(err, neigh.ErrOverrun) {
			break
		}
	}
	return first
}

// read returns one datagram. One that is longer than the buffer is cut off, and so is
// the last message in it: nextMessage finds that out.
func (c *conn) read() ([]byte, error) {
	var deadline time.Time
	for {
		switch n, err := c.sysRead(c.fd, c.buf); {
		case err == nil:
			return c.buf[:n], nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN): // it is there at once, as a rule
			if deadline.IsZero() {
				deadline = time.Now().Add(answerTimeout)
			}
			if err := c.wait(time.Until(deadline)); err != nil {
				return nil, err
			}
		case errors.Is(err, unix.ENOBUFS):
			return nil, neigh.ErrOverrun
		default:
			return nil, fmt.Errorf("receiving from netlink: %w", refusal(err))
		}
	}
}

// wait blocks until the socket is readable, for at most d.
func (c *conn) wait(d time.Duration) error {
	if d <= 0 {
		return neigh.ErrTimeout
	}
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}} //nolint:gosec // a file descriptor
	n, err := unix.Poll(fds, int(d.Milliseconds())+1)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("waiting for netlink: %w", err)
	case n == 0:
		return neigh.ErrTimeout
	}
	return nil
}

// nextMessage splits the first message off b, into m. It does not return the message:
// a struct of more than four fields is spilled and copied, which takes a tenth of the
// time in which an entry is decoded.
func nextMessage(b []byte, m *message) (rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return nil, fmt.Errorf("message header of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < unix.NLMSG_HDRLEN || n > len(b) {
		return nil, fmt.Errorf("message of %d bytes where %d are left: %w", n, len(b), neigh.ErrMalformed)
	}
	m.typ = binary.NativeEndian.Uint16(b[4:])
	m.flags = binary.NativeEndian.Uint16(b[6:])
	m.seq = binary.NativeEndian.Uint32(b[8:])
	m.port = binary.NativeEndian.Uint32(b[12:])
	m.body = b[unix.NLMSG_HDRLEN:n]
	return b[min(align(n), len(b)):], nil
}

// status returns what an NLMSG_ERROR or NLMSG_DONE message says: nil for an
// acknowledgement, the neigh sentinels for what callers tell apart, the errno
// otherwise. It is nil for any other message.
func (m *message) status() error {
	if m.typ != unix.NLMSG_ERROR && m.typ != unix.NLMSG_DONE {
		return nil
	}
	if len(m.body) < 4 {
		if m.typ == unix.NLMSG_DONE {
			return nil // libnl's view: kernels before 2.6 sent no code
		}
		return fmt.Errorf("status of %d bytes: %w", len(m.body), neigh.ErrMalformed)
	}
	code := -int32(binary.NativeEndian.Uint32(m.body)) //nolint:gosec // a negative errno
	if code == 0 {
		return nil
	}
	switch errno := unix.Errno(code); errno { //nolint:gosec // checked below by String
	case unix.ENOENT, unix.ENODEV:
		return fmt.Errorf("%w (%w)", neigh.ErrGone, errno)
	case unix.EPERM:
		return fmt.Errorf("%w (%w)", neigh.ErrPermission, errno)
	case unix.ENOBUFS:
		return fmt.Errorf("%w (%w)", neigh.ErrOverrun, errno)
	case unix.ENOMEM:
		return fmt.Errorf("%w (%w)", neigh.ErrNoMemory, errno)
	case unix.EBUSY: // a dump that was given up is still under way
		return fmt.Errorf("%w (%w)", neigh.ErrInterrupted, errno)
	case unix.EOPNOTSUPP:
		return fmt.Errorf("%w (%w)", neigh.ErrUnsupported, errno)
	default:
		return errno
	}
}
