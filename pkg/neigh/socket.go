package neigh

import (
	"net/netip"
	"time"
)

// Socket is a TCP socket of this host that speaks, or is about to speak, to a
// remote address, with what the kernel knows of how that goes: struct
// inet_diag_msg of include/uapi/linux/inet_diag.h and struct tcp_info of
// include/uapi/linux/tcp.h, which tcp_get_info in net/ipv4/tcp.c fills in.
type Socket struct {
	Local, Remote netip.AddrPort // unmapped, without a zone: Index is the zone
	Mapped        bool           // an IPv6 socket that speaks IPv4 (::ffff:0:0/96)
	Index         int            // the device it is bound to (idiag_if), 0 for none
	Cookie        uint64         // the kernel's number for it, never given twice (sock_gen_cookie)
	Established   bool           // false: SYN_SENT; of one that was destroyed, whether it ever was

	// Accepted says that the peer opened the connection, and not this host. It
	// is known of established sockets since Linux 4.19, and false where it is not.
	Accepted bool
	// Refused says of a socket that was destroyed that the peer answered its SYN
	// with a reset: nobody listens there (since Linux 4.18).
	Refused bool

	// Retransmits counts the retransmission timeouts in a row without an
	// acknowledgement (tcpi_retransmits); of the SYN, where it is not
	// established.
	Retransmits int

	// How long ago it last sent and last received data, or was established if
	// that was later (tcpi_last_data_sent and tcpi_last_data_recv, in
	// milliseconds, with the resolution of the kernel's clock: 1 to 10 ms). A
	// retransmission counts as sent. Both are 0 where it is not established.
	SinceSent, SinceReceived time.Duration

	// Received is how many bytes were received, and acknowledged
	// (tcpi_bytes_received, Linux 4.1; 0 on kernels that do not send it).
	Received uint64
	// Sent is how many bytes were sent, retransmissions included (tcpi_bytes_sent,
	// Linux 4.19; 0 on kernels that do not send it).
	Sent uint64
}
