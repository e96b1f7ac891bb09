// Package solicit asks a link for the link-layer address of protocol addresses,
// by ARP request (RFC 826) and IPv6 Neighbor Solicitation (RFC 4861), and
// reports every answer. Where the kernel's own resolution takes one answer,
// this sees all holders of an address: one, two that quarrel, or none.
//
// It works on packet sockets and leaves the neighbour table alone. The kernel
// sees the same answers, and does with them what it does with any: it updates
// an entry that exists, and makes none (arp_process in net/ipv4/arp.c with
// arp_accept 0, ndisc_recv_na in net/ipv6/ndisc.c).
//
// A Pool asks for any addresses, now and then, and overhears what comes later than an
// Ask listens (overhear.go). A Line (line.go) is for an address that is asked for all
// the time, and hears it announced as well. An Announcer (announce.go) is for one of
// this host's own. SameHost tells two link-layer addresses of one host from two hosts,
// by a TCP connection.
//
// arp.go and nd.go are pure: bytes to values and back. filter.go is what the
// kernel runs on each frame, socket.go the only file that knows the socket.
package solicit

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// What a caller can act on. Errors that are one of these wrap it, and the errno below
// it.
var (
	// ErrPermission: the namespace does not grant CAP_NET_RAW.
	ErrPermission = errors.New("not permitted")
	// ErrNotEthernet: the interface has no Ethernet addresses to ask for.
	ErrNotEthernet = errors.New("not an Ethernet interface")
	// ErrGone: the interface does not exist, or no longer exists.
	ErrGone = errors.New("interface is gone")
	// ErrDown: the interface is down.
	ErrDown = errors.New("interface is down")
	// ErrOverrun: answers came faster than they were taken, and the kernel
	// dropped some. Those that were reported are true, but there were more.
	ErrOverrun = errors.New("answers were lost")
)

// Target is one address to be asked for.
type Target struct {
	// Addr is the address whose holders are wanted. A zone is ignored.
	Addr netip.Addr
	// Source is the protocol address the solicitation comes from, of the same
	// family. It should be what the kernel would use: holders learn it, and
	// proxies and filters look at it. A Pool looks it up where it is the zero
	// value; a Line needs it. Unspecified, it makes an ARP probe (RFC 5227) or a
	// solicitation as in duplicate address detection (RFC 4862 section 5.4.2):
	// those leave no trace on the holder, but proxy ARP does not answer, and a
	// host that is about to take Addr would back off.
	Source netip.Addr
	// LLAddr is where the solicitation is sent. Nil asks everybody: broadcast,
	// or the solicited-node multicast group (RFC 4861 section 7.2.2).
	LLAddr net.HardwareAddr
}

// Answer is the claim of one host to hold Addr.
type Answer struct {
	Addr netip.Addr
	// LLAddr are the 6 bytes that the answer carries (ARP sender hardware
	// address, ND target link-layer address option); for a Neighbor
	// Advertisement without the option, the Ethernet source.
	LLAddr net.HardwareAddr
	// RTT is the time since just before the solicitation was handed to the kernel,
	// until the answer was read.
	RTT time.Duration
	// Solicited says that the answer is one to this host. Otherwise it is an
	// announcement to all that came within the window (gratuitous ARP reply,
	// unsolicited advertisement), or the answer to an ND solicitation without
	// a source. The kernel makes an entry NUD_REACHABLE on solicited answers
	// only. It reads an ARP reply's Ethernet destination, and so do we.
	Solicited bool
	// Override is the flag of a Neighbor Advertisement (RFC 4861 section 4.4).
	// Without it the kernel does not change an address it has.
	Override bool
}

// checkAddr says what is wrong with an address that cannot be asked for.
func checkAddr(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("%s is not an address that a neighbour holds", a)
	}
	return nil
}

// check says what is wrong with a target that cannot be asked for.
func (t *Target) check() error {
	if err := checkAddr(t.Addr); err != nil {
		return err
	}
	switch {
	case !t.Source.IsValid() || t.Source.Is4() != t.Addr.Is4() || t.Source.Is4In6() || t.Source.IsMulticast():
		return fmt.Errorf("cannot ask for %s from %s", t.Addr, t.Source)
	case t.LLAddr != nil && len(t.LLAddr) != len(lladdr{}):
		return fmt.Errorf("cannot ask %s for %s: %w", t.LLAddr, t.Addr, ErrNotEthernet)
	}
	return nil
}
