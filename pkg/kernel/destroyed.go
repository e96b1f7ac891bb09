package kernel

import (
	"context"
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	// Multicast groups of enum sknetlink_groups, include/uapi/linux/sock_diag.h.
	destroyedTCP4 = 1 // SKNLGRP_INET_TCP_DESTROY
	destroyedTCP6 = 3 // SKNLGRP_INET6_TCP_DESTROY

	// remotePort is where idiag_dport is, counted from the struct nlmsghdr.
	remotePort = unix.NLMSG_HDRLEN + 6

	// maxPorts bounds what one subscription asks for: a jump of the filter
	// reaches 255 instructions far.
	maxPorts = 200
)

// Destroyed reports TCP sockets of one network namespace that the kernel has
// taken down. No list shows those that were refused: they live for a tenth of a
// millisecond. It is for one goroutine; Close may come from any.
//
// For as long as one is open, each TCP socket of the machine that is taken down
// costs the kernel a message (sock_diag_broadcast_destroy).
type Destroyed struct{ subscription }

// SubscribeDestroyed starts listening, in the network namespace of the calling
// thread, for sockets that spoke, or wanted to, to one of the remote ports: 1 to
// 200 of them. It needs no capability (NL_CFG_F_NONROOT_RECV). The error wraps
// neigh.ErrPermission where it is refused all the same, and neigh.ErrUnsupported
// where the kernel does not report them.
func SubscribeDestroyed(ports ...uint16) (*Destroyed, error) {
	if len(ports) == 0 || len(ports) > maxPorts {
		return nil, fmt.Errorf("subscribing to destroyed sockets: %d ports, want 1 to %d", len(ports), maxPorts)
	}
	filter, err := bpf.Assemble(portFilter(ports))
	if err != nil {
		return nil, fmt.Errorf("subscribing to destroyed sockets: %w", err)
	}
	s, err := newSubscription("destroyed sockets", unix.NETLINK_SOCK_DIAG, 1<<(destroyedTCP4-1)|1<<(destroyedTCP6-1), filter)
	if err != nil {
		return nil, refusal(err)
	}
	return &Destroyed{s}, nil
}

// portFilter accepts the messages about sockets with one of the remote ports.
func portFilter(ports []uint16) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: remotePort, Size: 2}}
	for i, port := range ports {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: uint8(len(ports) - i)}) //nolint:gosec // maxPorts
	}
	return append(p, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: 1<<32 - 1})
}

// Next waits for the kernel's next datagram and calls visit for each socket in
// it. The socket is reused: visit copies what it keeps. Established says whether
// it ever was, Refused whether a reset came instead; neither is set where nobody
// answered, or the owner gave up. Accepted, Retransmits and the times are not filled
// in.
//
// Where connect blocks, as Go's never does, the kernel has forgotten the remote
// port of what was refused (tcp_disconnect), so it is not reported; and a
// socket is reported once its last packet is gone, which an unresolved neighbour
// may delay by seconds. For the errors see Events.Next.
func (d *Destroyed) Next(ctx context.Context, visit func(*neigh.Socket)) error {
	return d.next(ctx, func(b []byte) error { return decodeDestroyedAll(b, visit) })
}

func decodeDestroyedAll(b []byte, visit func(*neigh.Socket)) error {
	return decodeAll(b, unix.SOCK_DIAG_BY_FAMILY, decodeDestroyed, visit)
}

// decodeDestroyed reads a message of inet_diag_handler_get_info into s. It
// reports false for another family than IPv4 and IPv6.
//
// The state is always TCP_CLOSE by then. What was established has had a packet
// acknowledged (tcpi_delivered: the SYN, or the SYN-ACK); what was refused has
// received one all the same.
func decodeDestroyed(b []byte, s *neigh.Socket) (bool, error) {
	if len(b) < diagMsgLen {
		return false, fmt.Errorf("inet_diag_msg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	if !isIP(b[0]) {
		return false, nil
	}
	info, err := decodeDiag(b, s)
	if err != nil {
		return false, err
	}
	s.Received = info64(info, infoReceived)
	s.Established = info32(info, infoDelivered) > 0 || info64(info, infoAcked) > 0 || s.Received > 0
	s.Refused = !s.Established && len(info) >= infoDelivered+4 && info32(info, infoSegsIn) > 0
	return true, nil
}
