package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Events reports changes of the neighbour table of one network namespace as
// they happen. It is for one goroutine; Close may come from any.
type Events struct{ subscription }

// Subscribe starts listening in the network namespace of the calling thread.
// What happens from now on is queued by the kernel until Next is called.
func Subscribe() (*Events, error) {
	s, err := newSubscription("neighbour events", unix.NETLINK_ROUTE, 1<<(unix.RTNLGRP_NEIGH-1), nil)
	if err != nil {
		return nil, err
	}
	return &Events{s}, nil
}

// Next waits for the kernel's next datagram and calls visit for each entry in
// it that is new or has changed. The entry is reused: visit copies what it
// keeps. It returns the error of ctx once that is done; one that wraps
// neigh.ErrOverrun where events were lost, after which the caller reads the
// entries that it cares for and goes on; and one that wraps neigh.ErrMalformed
// where a message does not parse.
func (e *Events) Next(ctx context.Context, visit func(*neigh.Entry)) error {
	return e.next(ctx, func(b []byte) error { return decodeEvents(b, visit) })
}

// subscription is a netlink socket that the kernel's messages to multicast
// groups come to. It is for one goroutine; Close may come from any.
type subscription struct {
	what string   // what it is about, for errors
	file *os.File // deadlines and waiting, by Go's poller
	raw  syscall.RawConn
	buf  []byte
}

// newSubscription joins groups, a bit mask, of a netlink protocol (NETLINK_*) in the
// network namespace of the calling thread. A filter, which may be nil, sees each
// message from its struct nlmsghdr on, and what it drops wakes nobody.
func newSubscription(what string, protocol int, groups uint32, filter []bpf.RawInstruction) (subscription, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return subscription{}, fmt.Errorf("opening netlink %s socket: %w", protocolNames[protocol], err)
	}
	s := subscription{what: what, file: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, bufferSize)}
	if len(filter) > 0 {
		err = attach(fd, filter) // first, or there would be messages that it has not seen
	}
	if err == nil {
		_, err = bind(fd, groups)
	}
	if err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		s.Close()
		return subscription{}, fmt.Errorf("subscribing to %s: %w", what, err)
	}
	return s, nil
}

// bind binds a netlink socket to groups, a bit mask, and returns its port id. It asks
// which groups that became: the kernel silently leaves out those that it does not know
// (netlink_bind).
func bind(fd int, groups uint32) (port uint32, err error) {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return 0, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	sa, ok := name.(*unix.SockaddrNetlink)
	if !ok || sa.Groups&groups != groups {
		return 0, neigh.ErrUnsupported
	}
	return sa.Pid, nil
}

// attach puts a filter in front of a socket.
func attach(fd int, filter []bpf.RawInstruction) error {
	program := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		program[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}) //nolint:gosec // a handful
}

// Close ends the subscription, and with an error a Next under way.
func (e *subscription) Close() { _ = e.file.Close() }

// next waits for the kernel's next datagram and hands it to decode.
func (e *subscription) next(ctx context.Context, decode func([]byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("waiting for %s: %w", e.what, err)
	}
	// If ctx is done just as something is read, the deadline may be set late. Then the
	// next call, with another ctx, returns at once; that is all.
	defer context.AfterFunc(ctx, func() { _ = e.file.SetReadDeadline(time.Unix(1, 0)) })()
	b, err := e.read()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ctx.Err()
	case err == nil:
		err = decode(b)
	}
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", e.what, err)
	}
	return nil
}

// read waits for a datagram from the kernel.
func (e *subscription) read() (b []byte, err error) {
	if r := e.raw.Read(func(fd uintptr) bool {
		b, err = receiveEvents(int(fd), e.buf)
		return !errors.Is(err, unix.EAGAIN)
	}); r != nil {
		return nil, r
	}
	return b, err
}

// receiveEvents returns the next datagram from the kernel that is queued, or
// EAGAIN. Overruns are reported once (netlink_overrun in net/netlink/af_netlink.c),
// and nothing new is queued until what is there has been read.
func receiveEvents(fd int, buf []byte) ([]byte, error) {
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			return nil, neigh.ErrOverrun
		case err != nil:
			return nil, err
		}
		// Any local process may send to a netlink port; only the kernel has id 0.
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue
		}
		if n > len(buf) {
			return nil, fmt.Errorf("event of %d bytes cut off at %d: %w", n, len(buf), neigh.ErrMalformed)
		}
		return buf[:n], nil
	}
}

// decodeEvents calls visit for each entry in a datagram.
func decodeEvents(b []byte, visit func(*neigh.Entry)) error {
	return decodeAll(b, unix.RTM_NEWNEIGH, decodeEntry, visit)
}

// decodeAll decodes each message of a type in a datagram, and calls visit for those
// that decode does not skip.
func decodeAll[T any](b []byte, typ uint16, decode func([]byte, *T) (bool, error), visit func(*T)) error {
	var m message
	var v T
	for len(b) > 0 {
		rest, err := nextMessage(b, &m)
		if err != nil {
			return err
		}
		b = rest
		if m.typ != typ {
			continue
		}
		ok, err := decode(m.body, &v)
		if err != nil {
			return err
		}
		if ok {
			visit(&v)
		}
	}
	return nil
}
