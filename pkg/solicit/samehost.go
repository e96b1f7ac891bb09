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
	// sameHostWithin is how long an acknowledgement is waited for: many times as long
	// as any host of a segment takes.
	sameHostWithin = 300 * time.Millisecond
	sameHostPoll   = 5 * time.Millisecond
)

// SameHost reports whether the host at the other end of a TCP connection is the one
// behind a link-layer address, too, on the interface with this index. The connection
// is this host's, and idle: all that was sent is acknowledged.
//
// A keep-alive segment of the connection is sent to the link-layer address (RFC 9293
// section 3.8.4: no data, and a sequence number that is acknowledged already). Whoever
// has the connection acknowledges it. Another host that has the address resets it
// (section 3.5.2), which ends conn. So nothing that anybody else sends goes another way,
// and no neighbour entry is read or changed. False is that nothing was acknowledged.
//
// It is to be called in the network namespace of conn, and takes CAP_NET_RAW, and
// CAP_NET_ADMIN for TCP_REPAIR (tcp_can_repair_sock in net/ipv4/tcp.c): ErrPermission.
func SameHost(ctx context.Context, index int, conn *net.TCPConn, to net.HardwareAddr) (bool, error) {
	if len(to) != len(lladdr{}) {
		return false, fmt.Errorf("cannot send to %s: %w", to, ErrNotEthernet)
	}
	c, err := openTCP(conn)
	if err != nil {
		return false, err
	}
	seq, ack, err := c.sequence()
	if err != nil {
		return false, fmt.Errorf("reading the sequence numbers of a connection: %w", explainTCP(err))
	}
	before, err := c.info()
	if err != nil {
		return false, err
	}
	local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	if err := sendPacket(index, lladdr(to), ackSegment(local, remote, seq-1, ack)); err != nil {
		return false, fmt.Errorf("sending a keep-alive for %s to %s: %w", remote, to, explainTCP(err))
	}
	ticks := time.NewTicker(sameHostPoll)
	defer ticks.Stop()
	for deadline := time.Now().Add(sameHostWithin); time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("waiting for an acknowledgement by %s: %w", to, ctx.Err())
		case <-ticks.C:
		}
		now, err := c.info()
		switch {
		case err != nil:
			return false, err
		case now.State != tcpEstablished || now.Data_segs_in != before.Data_segs_in:
			return false, nil // it was reset, or the server had something to say
		case now.Segs_in != before.Segs_in:
			return true, nil
		}
	}
	return false, nil
}

func explainTCP(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w (%w)", ErrPermission, err)
	}
	return err
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

func (c tcp) control(fn func(fd int) error) error {
	var err error
	if closed := c.Control(func(fd uintptr) { err = fn(int(fd)) }); closed != nil {
		return closed
	}
	return err
}

func (c tcp) info() (i *unix.TCPInfo, err error) {
	if err := c.control(func(fd int) (err error) {
		i, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	}); err != nil {
		return nil, fmt.Errorf("TCP_INFO: %w", err)
	}
	return i, nil
}

// tcpEstablished is TCP_ESTABLISHED of include/net/tcp_states.h.
const tcpEstablished = 1

// repairOff is TCP_REPAIR_OFF_NO_WP, since Linux 4.20: without it a window probe is
// sent, which is acknowledged as well.
const repairOff = -1

// sequence returns the next sequence number that the connection sends, and the next that
// it expects. The kernel tells them where a connection is to be moved to another
// process, and sends nothing for it meanwhile.
func (c tcp) sequence() (seq, ack uint32, err error) {
	const receiving, sending = 1, 2 // TCP_RECV_QUEUE, TCP_SEND_QUEUE
	err = c.control(func(fd int) error {
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
		return errors.Join(read(sending, &seq), read(receiving, &ack), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOff))
	})
	return seq, ack, err
}

// sendPacket sends an IP packet to a link-layer address.
func sendPacket(index int, to lladdr, packet []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // receives nothing
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	sa := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: index, Halen: uint8(len(to))}
	if packet[0]>>4 == 6 {
		sa.Protocol = networkOrder(unix.ETH_P_IPV6)
	}
	copy(sa.Addr[:], to[:])
	return unix.Sendto(fd, packet, unix.MSG_DONTWAIT, sa)
}

// ackSegment returns an IP packet with a TCP segment that acknowledges, and carries
// nothing.
func ackSegment(local, remote netip.AddrPort, seq, ack uint32) []byte {
	const size, acks, window, hops, dontFragment = 20, 0x10, 512, 64, 0x40
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
