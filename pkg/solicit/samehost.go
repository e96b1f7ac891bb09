package solicit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ackWithin is how long an acknowledgement is waited for: many times as long as any
	// host of a segment takes.
	ackWithin = 300 * time.Millisecond
	ackPoll   = 5 * time.Millisecond
	// ackRest is how long a connection rests before a segment: Linux acknowledges one
	// that is out of order once in half a second (tcp_invalid_ratelimit).
	ackRest = 600 * time.Millisecond
	// outdated is how far in the past the acknowledgement number of a segment lies. A
	// host that does not know the connection resets it with that number (RFC 9293
	// section 3.5.2), which is then too old for the kernel here. Connection tracking
	// lets it pass: less than MAXACKWINCONST of nf_conntrack_proto_tcp.c.
	outdated = 20000
)

// ErrUnacknowledged says that the other end of a connection does not acknowledge what it
// has already received. Then SameHost cannot tell hosts apart by it.
var ErrUnacknowledged = errors.New("a keep-alive was not acknowledged")

// SameHost finds out which of others are link-layer addresses of the host at the other
// end of a TCP connection, on the interface with this index. The connection is this
// host's, made by way of holder, and idle. The result is as long as others. It takes a
// second, and one more for each of them.
//
// A keep-alive segment of the connection is sent to holder and then to each of the others
// (RFC 9293 section 3.8.4: no data, and a sequence number that is acknowledged already).
// The host that has the connection acknowledges it. One that has the address, but not the
// connection, answers with a reset, which does the connection no harm. A router drops the
// segment: its TTL is 1. No neighbour entry is read or changed, and no other traffic is
// redirected. Somebody on the segment who answers for the holder can forge an
// acknowledgement.
//
// It is to be called in the network namespace of conn, and takes CAP_NET_RAW, and
// CAP_NET_ADMIN for TCP_REPAIR (tcp_can_repair_sock in net/ipv4/tcp.c): ErrPermission.
// The other errors are ErrUnacknowledged, that of ctx, and ErrNotEthernet.
func SameHost(ctx context.Context, index int, conn *net.TCPConn, holder net.HardwareAddr, others []net.HardwareAddr) ([]bool, error) {
	c, err := openTCP(conn)
	if err != nil {
		return nil, err
	}
	same := make([]bool, len(others))
	for i, to := range append([]net.HardwareAddr{holder}, others...) {
		acknowledged, err := c.keepAlive(ctx, index, conn, to)
		switch {
		case err != nil:
			return nil, fmt.Errorf("a keep-alive of %s to %s: %w", conn.RemoteAddr(), to, err)
		case i > 0:
			same[i-1] = acknowledged
		case !acknowledged:
			return nil, fmt.Errorf("%w: %s by %s", ErrUnacknowledged, conn.RemoteAddr(), to)
		}
	}
	return same, nil
}

// keepAlive sends a keep-alive segment to a link-layer address, and reports whether it
// was acknowledged.
func (c tcp) keepAlive(ctx context.Context, index int, conn *net.TCPConn, to net.HardwareAddr) (bool, error) {
	if len(to) != len(lladdr{}) {
		return false, ErrNotEthernet
	}
	rested := func(i *unix.TCPInfo) bool { return i.Last_ack_recv >= uint32(ackRest/time.Millisecond) }
	before, ok, err := c.await(ctx, rested, 2*ackRest)
	switch {
	case err != nil:
		return false, err
	case !ok:
		return false, errBusy
	}
	seq, ack, err := c.sequence()
	if err != nil {
		return false, fmt.Errorf("reading sequence numbers: %w", err)
	}
	local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	if err := sendPacket(index, lladdr(to), ackSegment(local, remote, seq-1, ack-outdated)); err != nil {
		return false, err
	}
	acknowledged := func(i *unix.TCPInfo) bool { return i.Last_ack_recv < before.Last_ack_recv }
	after, ok, err := c.await(ctx, acknowledged, ackWithin)
	if err == nil && after.Data_segs_in != before.Data_segs_in {
		return false, errBusy
	}
	return ok, err
}

var errBusy = errors.New("the connection is not idle")

// await waits until something is true of the connection, for a time at most, and reports
// whether it is. The connection has to stay idle.
func (c tcp) await(ctx context.Context, what func(*unix.TCPInfo) bool, within time.Duration) (i *unix.TCPInfo, ok bool, err error) {
	ticks := time.NewTicker(ackPoll)
	defer ticks.Stop()
	for deadline := time.Now().Add(within); ; {
		i, err := c.info()
		switch {
		case err != nil:
			return nil, false, err
		case i.State != tcpEstablished || i.Unacked > 0:
			return nil, false, errBusy
		case what(i):
			return i, true, nil
		case time.Now().After(deadline):
			return i, false, nil
		}
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-ticks.C:
		}
	}
}

// tcp is the socket of a connection.
type tcp struct{ syscall.RawConn }

func openTCP(conn *net.TCPConn) (tcp, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return tcp{}, fmt.Errorf("using a connection: %w", err)
	}
	return tcp{raw}, nil
}

func (c tcp) info() (i *unix.TCPInfo, err error) {
	if err := control(c, func(fd int) (err error) {
		i, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	}); err != nil {
		return nil, fmt.Errorf("TCP_INFO: %w", err)
	}
	return i, nil
}

// tcpEstablished is TCP_ESTABLISHED of include/net/tcp_states.h.
const tcpEstablished = 1

// repairOff is TCP_REPAIR_OFF_NO_WP, since Linux 4.20. Before, a window probe is sent,
// which is acknowledged as well.
const repairOff, repairOffWithProbe = -1, 0

// sequence returns the next sequence number that the connection sends, and the next that
// it expects. The kernel tells them where a connection is to be moved to another
// process, and sends nothing for it meanwhile.
func (c tcp) sequence() (seq, ack uint32, err error) {
	const receiving, sending = 1, 2 // TCP_RECV_QUEUE, TCP_SEND_QUEUE
	err = control(c, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return err
		}
		read := func(queue int, n *uint32) error {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue); err != nil {
				return err
			}
			value, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
			*n = uint32(value) //nolint:gosec // the bits are what matters
			return err
		}
		err := errors.Join(read(sending, &seq), read(receiving, &ack))
		if off := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOff); off != nil {
			err = errors.Join(err, off, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOffWithProbe))
		}
		return err
	})
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("CAP_NET_ADMIN: %w (%w)", ErrPermission, err)
	}
	return seq, ack, err
}

// sendPacket sends an IP packet to a link-layer address.
func sendPacket(index int, to lladdr, packet []byte) error {
	fd, err := openPacket()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	etherType := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		etherType = unix.ETH_P_IPV6
	}
	return sendto(fd, etherType, index, packet, to)
}

// ackSegment returns an IP packet with a TCP segment that acknowledges, and carries
// nothing. No router forwards it.
func ackSegment(local, remote netip.AddrPort, seq, ack uint32) []byte {
	const size, acks, window, hops, dontFragment = 20, 0x10, 512, 1, 0x40
	src, dst := local.Addr().Unmap().AsSlice(), remote.Addr().Unmap().AsSlice()
	segment := binary.BigEndian.AppendUint16(nil, local.Port())
	segment = binary.BigEndian.AppendUint16(segment, remote.Port())
	segment = binary.BigEndian.AppendUint32(segment, seq)
	segment = binary.BigEndian.AppendUint32(segment, ack)
	segment = append(segment, size/4<<4, acks, window>>8, window&0xff, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(segment[16:], ^onesSum(unix.IPPROTO_TCP+size, src, dst, segment))

	var packet []byte
	if len(dst) == 4 {
		packet = []byte{0x45, 0, 0, 20 + size, 0, 0, dontFragment, 0, hops, unix.IPPROTO_TCP, 0, 0}
		binary.BigEndian.PutUint16(packet[10:], ^onesSum(0, packet, src, dst))
	} else {
		packet = []byte{0x60, 0, 0, 0, 0, size, unix.IPPROTO_TCP, hops}
	}
	return slices.Concat(packet, src, dst, segment)
}
