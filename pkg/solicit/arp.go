package solicit

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The ARP packet of RFC 826 for Ethernet and IPv4, without the Ethernet header.
const (
	arpLen        = 28
	arpEthernet   = 1
	arpRequest    = 1
	arpReply      = 2
	arpLengths    = 6<<8 | 4 // of hardware and protocol addresses
	arpOp         = 6        // offsets
	arpSender     = 8
	arpSenderAddr = 14
	arpTargetAddr = 24
)

func arpProtocol() protocol {
	return protocol{
		etherType: unix.ETH_P_ARP,
		filter:    arpFilter(),
		parse:     parseARPReply,
		solicitation: func(b []byte, own lladdr, t *Target) ([]byte, lladdr) {
			return appendARPRequest(b, own, t.Source, t.Addr), broadcast
		},
	}
}

// appendARPRequest appends the request for target. The target hardware address
// is left zero in a unicast request too, as the kernel does (arp_solicit).
func appendARPRequest(b []byte, own lladdr, source, target netip.Addr) []byte {
	return appendARP(b, arpRequest, own, source, lladdr{}, target)
}

// appendARP appends a packet of the operation op.
func appendARP(b []byte, op uint16, sender lladdr, senderAddr netip.Addr, target lladdr, targetAddr netip.Addr) []byte {
	b = binary.BigEndian.AppendUint16(b, arpEthernet)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = binary.BigEndian.AppendUint16(b, arpLengths)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, sender[:]...)
	b = append(b, senderAddr.AsSlice()...)
	b = append(b, target[:]...)
	return append(b, targetAddr.AsSlice()...)
}

// parseARPReply returns what a reply says about its sender.
func parseARPReply(b []byte, h header) (claim, bool) {
	c, op, ok := parseARP(b, h)
	if !ok || op != arpReply {
		return claim{}, false
	}
	return c, true
}

// parseARPSender is parseARPReply for requests as well. A host that asks from an address
// holds it as much as one that answers for it: RFC 5227 section 2.1.1.
func parseARPSender(b []byte, h header) (claim, bool) {
	c, op, ok := parseARP(b, h)
	c.solicited = c.solicited && op == arpReply
	return c, ok
}

// isGratuitous reports whether a packet that parseARP accepts is from and for one address:
// gratuitous ARP, by which a host announces it (RFC 5227 section 3; arp_is_garp), even if
// only to one host.
func isGratuitous(b []byte) bool {
	return len(b) >= arpLen && bytes.Equal(b[arpSenderAddr:][:4], b[arpTargetAddr:][:4])
}

// parseARP returns what a request or a reply says about its sender, and which of them
// it is. The target fields are not looked at: the kernel does not either, and RFC 5227
// has replies to nobody in particular. What follows the packet pads the frame.
func parseARP(b []byte, h header) (c claim, op uint16, ok bool) {
	if len(b) < arpLen ||
		binary.BigEndian.Uint16(b) != arpEthernet ||
		binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP ||
		binary.BigEndian.Uint16(b[4:]) != arpLengths {
		return claim{}, 0, false
	}
	if op = binary.BigEndian.Uint16(b[arpOp:]); op != arpRequest && op != arpReply {
		return claim{}, 0, false
	}
	return claim{
		addr:      netip.AddrFrom4([4]byte(b[arpSenderAddr:])),
		lladdr:    lladdr(b[arpSender:]),
		solicited: h.toUs,
	}, op, true
}
