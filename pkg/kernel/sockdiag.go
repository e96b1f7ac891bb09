package kernel

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	// maxSockets bounds what List returns.
	maxSockets = 1024

	// anyCookie is INET_DIAG_NOCOOKIE twice: it matches every socket.
	anyCookie = 1<<64 - 1

	// The states of include/net/tcp_states.h that a Socket can be in.
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpListen      = 10
	tcpStates      = 1<<tcpEstablished | 1<<tcpSynSent

	// From include/uapi/linux/inet_diag.h.
	tcpDiagGetSock  = 18 // TCPDIAG_GETSOCK
	diagMsgLen      = 72 // struct inet_diag_msg
	diagInfo        = 2  // INET_DIAG_INFO
	diagReqBytecode = 1  // INET_DIAG_REQ_BYTECODE
	diagRemoteGE    = 4  // INET_DIAG_BC_D_GE
	diagRemoteLE    = 5  // INET_DIAG_BC_D_LE
)

// Sockets are the TCP sockets of one network namespace: that of the thread that
// opened it. It is safe for concurrent use, one request at a time. Reading
// needs no capability.
type Sockets struct {
	mu   sync.Mutex // held while conn is in use
	conn *conn
}

// OpenSockets opens the sockets of the calling thread's network namespace. The
// error wraps neigh.ErrUnsupported where the kernel cannot list TCP sockets: it
// has no sock_diag, or lacks one of the modules inet_diag and tcp_diag and cannot
// load it (kernel.modules_disabled). It wraps neigh.ErrPermission where a security
// module or a filter of system calls denies it.
func OpenSockets() (*Sockets, error) {
	c, err := dial(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	s := &Sockets{conn: c}
	if err := s.check(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// check lists sockets once: a missing module shows only then. Any other error is
// ignored here, as the next list may succeed.
func (s *Sockets) check() error {
	_, err := s.List(0)
	if errors.Is(err, neigh.ErrUnsupported) || errors.Is(err, neigh.ErrPermission) {
		return fmt.Errorf("asking sock_diag: %w", err)
	}
	return nil
}

// Close closes the netlink socket.
func (s *Sockets) Close() { s.conn.close() }

// List returns the sockets that are established with, or connecting to, the
// given remote port, 1024 at most, in the order of their cookies. Sockets that
// change during the dump may be missing.
func (s *Sockets) List(port uint16) ([]neigh.Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []neigh.Socket
	var err error
	for range dumpTries {
		if list, err = s.dump(port); !errors.Is(err, neigh.ErrInterrupted) && !errors.Is(err, neigh.ErrOverrun) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing sockets to port %d: %w", port, err)
	}
	slices.SortFunc(list, func(a, b neigh.Socket) int { return cmp.Compare(a.Cookie, b.Cookie) })
	// A dump goes on by position in a hash chain: when a socket is put in front of it
	// meanwhile, it repeats one.
	return slices.CompactFunc(list, func(a, b neigh.Socket) bool { return a.Cookie == b.Cookie }), nil
}

// dump lists the sockets as the kernel dumps them.
func (s *Sockets) dump(port uint16) (list []neigh.Socket, err error) {
	err = s.conn.dump(func(b []byte, seq uint32) []byte {
		return appendSocketDump(b, port, seq)
	}, func(m message) error {
		if m.typ != tcpDiagGetSock || len(list) == maxSockets {
			return nil
		}
		var e neigh.Socket
		ok, err := decodeSocket(m.body, &e)
		if ok && e.Remote.Port() == port {
			list = append(list, e)
		}
		return err
	})
	switch {
	case errors.Is(err, neigh.ErrGone): // inet_diag_lock_handler
		err = fmt.Errorf("%w: no module tcp_diag: %w", neigh.ErrUnsupported, err)
	case errors.Is(err, neigh.ErrUnsupported): // sock_diag_rcv_msg
		err = fmt.Errorf("no module inet_diag: %w", err)
	}
	return list, err
}

// Get reads one socket afresh, without a dump. It returns an error that wraps
// neigh.ErrGone where the socket no longer exists, or is in another state than the
// two: in CLOSE_WAIT the peer has closed its side, in FIN_WAIT1 and after this
// host has, and neither waits for an answer any longer.
func (s *Sockets) Get(k *neigh.Socket) (neigh.Socket, error) {
	var got neigh.Socket
	ok := false
	err := s.exact(k, unix.SOCK_DIAG_BY_FAMILY, 0, func(body []byte) (err error) {
		ok, err = decodeSocket(body, &got)
		return err
	})
	if err == nil && !ok {
		err = neigh.ErrGone
	}
	if err != nil {
		return neigh.Socket{}, fmt.Errorf("reading socket %s to %s: %w", k.Local, k.Remote, err)
	}
	return got, nil
}

// Destroy closes exactly this socket, whoever owns it: what its owner does with
// it fails with ECONNABORTED, and the peer is sent a reset (tcp_abort). The error
// wraps neigh.ErrGone where the socket no longer exists, neigh.ErrPermission without
// CAP_NET_ADMIN, and neigh.ErrUnsupported where the kernel was built without
// CONFIG_INET_DIAG_DESTROY.
func (s *Sockets) Destroy(k *neigh.Socket) error {
	acknowledged := func([]byte) error { return nil } // there is no other answer
	if err := s.exact(k, unix.SOCK_DESTROY, unix.NLM_F_ACK, acknowledged); err != nil {
		return fmt.Errorf("closing socket %s to %s: %w", k.Local, k.Remote, err)
	}
	return nil
}

// exact sends a request about one socket. Its answer goes to handle, unless that is an
// acknowledgement.
func (s *Sockets) exact(k *neigh.Socket, typ, flags uint16, handle func(body []byte) error) error {
	if k.Cookie == anyCookie {
		return neigh.ErrGone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.ask(typ, func(b []byte, seq uint32) []byte {
		return appendSocketRequest(b, typ, flags, k, seq)
	}, handle)
}

// appendSocketDump appends a request for all sockets, of either family, that are
// in one of the two states and have that remote port. It is the older kind: with
// SOCK_DIAG_BY_FAMILY the kernel walks its table of connections, which has room
// for hundreds of thousands, once for each family (inet_diag_dump_compat).
func appendSocketDump(b []byte, port uint16, seq uint32) []byte {
	start := len(b)
	b = appendHeader(b, tcpDiagGetSock, unix.NLM_F_DUMP, seq)
	// struct inet_diag_req: family and prefix lengths are not looked at.
	b = append(b, 0, 0, 0, 1<<(diagInfo-1))
	b = append(b, make([]byte, 48)...) // struct inet_diag_sockid: any
	b = binary.NativeEndian.AppendUint32(b, tcpStates)
	b = append(b, 0, 0, 0, 0)
	// struct inet_diag_bc_op: code, yes, no. A condition that holds goes on at
	// yes, behind itself and its argument; one that does not goes to no, 4 bytes
	// beyond the end, which is how inet_diag_bc_run knows that it failed.
	op := func(ops []byte, code uint8, no uint16) []byte {
		ops = binary.NativeEndian.AppendUint16(append(ops, code, 8), no)
		return binary.NativeEndian.AppendUint16(append(ops, 0, 0), port)
	}
	b = appendAttr(b, diagReqBytecode, op(op(nil, diagRemoteGE, 20), diagRemoteLE, 12))
	return endMessage(b, start)
}

// appendSocketRequest appends a request about one socket. The kernel looks it
// up by its addresses and ports, and refuses it if the cookie is another's
// (inet_diag_find_one_icsk).
func appendSocketRequest(b []byte, typ, flags uint16, k *neigh.Socket, seq uint32) []byte {
	start := len(b)
	family := uint8(unix.AF_INET6)
	if k.Local.Addr().Is4() && k.Remote.Addr().Is4() && !k.Mapped {
		family = unix.AF_INET
	}
	b = appendHeader(b, typ, flags, seq)
	// struct inet_diag_req_v2
	b = append(b, family, unix.IPPROTO_TCP, 1<<(diagInfo-1), 0)
	b = binary.NativeEndian.AppendUint32(b, tcpStates)
	// struct inet_diag_sockid
	b = binary.BigEndian.AppendUint16(b, k.Local.Port())
	b = binary.BigEndian.AppendUint16(b, k.Remote.Port())
	b = appendAddress(appendAddress(b, family, k.Local.Addr()), family, k.Remote.Addr())
	b = binary.NativeEndian.AppendUint32(b, uint32(k.Index))  //nolint:gosec // an uint32 by origin
	b = binary.NativeEndian.AppendUint32(b, uint32(k.Cookie)) //nolint:gosec // the lower half
	b = binary.NativeEndian.AppendUint32(b, uint32(k.Cookie>>32))
	return endMessage(b, start)
}

// decodeSocket reads the body of an answer, struct inet_diag_msg, into s. It
// reports false for a socket of another family than IPv4 and IPv6, or in
// another state than the two, and an error that wraps neigh.ErrMalformed where
// the body does not parse.
func decodeSocket(b []byte, s *neigh.Socket) (bool, error) {
	if len(b) < diagMsgLen {
		return false, fmt.Errorf("inet_diag_msg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	family, state := b[0], b[1]
	if !isIP(family) || state != tcpEstablished && state != tcpSynSent {
		return false, nil
	}
	info, err := decodeDiag(b, s)
	if err != nil {
		return false, err
	}
	s.Established = state == tcpEstablished
	decodeProgress(info, s)
	s.Accepted = s.Established && accepted(info, binary.NativeEndian.Uint32(b[60:]))
	return true, nil
}

// decodeDiag reads struct inet_diag_msg, of an IP family, into s, and returns
// the struct tcp_info behind it, if there is one.
func decodeDiag(b []byte, s *neigh.Socket) (info []byte, err error) {
	family := b[0]
	// struct inet_diag_sockid
	id := b[4:52]
	local, remote := address(family, id[4:20]), address(family, id[20:36])
	*s = neigh.Socket{
		Local:  netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(id)),
		Remote: netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(id[2:])),
		Mapped: remote.Is4In6(),
		Index:  int(binary.NativeEndian.Uint32(id[36:])),
		Cookie: uint64(binary.NativeEndian.Uint32(id[40:])) | uint64(binary.NativeEndian.Uint32(id[44:]))<<32,
	}
	return findAttr(b[diagMsgLen:], diagInfo)
}

// appendAddress appends an address as struct inet_diag_sockid has it: 16 bytes.
func appendAddress(b []byte, family uint8, a netip.Addr) []byte {
	if family == unix.AF_INET {
		four := a.As4()
		return append(append(b, four[:]...), make([]byte, 12)...)
	}
	six := a.As16() // mapped, where it is IPv4
	return append(b, six[:]...)
}

// address reads what appendAddress has written.
func address(family uint8, b []byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrFrom16([16]byte(b))
}

// Where the fields of struct tcp_info are. It grows at its end: what an older
// kernel does not send counts as zero.
const (
	infoRetransmits  = 2
	infoLastSent     = 44
	infoLastReceived = 52
	infoAcked        = 120 // Linux 4.1
	infoReceived     = 128
	infoSegsIn       = 140 // Linux 4.2
	infoNotSent      = 144
	infoDelivered    = 192 // Linux 4.18
	infoSent         = 200 // Linux 4.19
	infoRetrans      = 208
)

func info32(b []byte, at int) uint32 {
	if len(b) < at+4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b[at:])
}

func info64(b []byte, at int) uint64 {
	if len(b) < at+8 {
		return 0
	}
	return binary.NativeEndian.Uint64(b[at:])
}

// decodeProgress reads from struct tcp_info how a connection goes.
func decodeProgress(b []byte, s *neigh.Socket) {
	if len(b) > infoRetransmits {
		s.Retransmits = int(b[infoRetransmits])
	}
	// Until the handshake is done nothing sets the times, and the kernel counts
	// from the start of its clock (tcp_finish_connect).
	if len(b) >= infoLastReceived+4 && s.Established {
		s.SinceSent = milliseconds(info32(b, infoLastSent))
		s.SinceReceived = milliseconds(info32(b, infoLastReceived))
	}
	s.Received, s.Sent = info64(b, infoReceived), info64(b, infoSent)
}

// accepted reports whether the peer opened an established connection. The side that
// opens one sends a SYN, and when that is acknowledged the kernel counts it like a
// byte of data (tcp_ack from tcp_rcv_synsent_state_process). The side that accepts one
// starts to count behind its SYN-ACK (tcp_create_openreq_child). So tcpi_bytes_acked
// is what was sent, less what was sent again and what is under way, and one more on
// the side that opened. Neither sum fits where a firewall or a queue of this host has
// dropped a packet within the send call, because the kernel counts it as sent.
//
// queued is idiag_wqueue: what is under way, and what is not sent yet.
func accepted(b []byte, queued uint32) bool {
	if len(b) < infoRetrans+8 {
		return false
	}
	underWay := uint64(queued) - uint64(info32(b, infoNotSent))
	return info64(b, infoAcked) == info64(b, infoSent)-info64(b, infoRetrans)-underWay
}

func milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
