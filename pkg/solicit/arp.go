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
		parse:     parseARP,
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

// parseARP returns what a request or a reply says about its sender: a host that asks from
// an address holds it as much as one that answers for it (RFC 5227 section 2.1.1). The
// target hardware address is not looked at: the kernel does not either, and RFC 5227 has
// replies to nobody in particular. What follows the packet pads the frame.
func parseARP(b []byte, h header) (claim, bool) {
	if len(b) < arpLen ||
		binary.BigEndian.Uint16(b) != arpEthernet ||
		binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP ||
		binary.BigEndian.Uint16(b[4:]) != arpLengths {
		return claim{}, false
	}
	op := binary.BigEndian.Uint16(b[arpOp:])
	if op != arpRequest && op != arpReply {
		return claim{}, false
	}
	return claim{
		addr:       netip.AddrFrom4([4]byte(b[arpSenderAddr:])),
		lladdr:     lladdr(b[arpSender:]),
		solicited:  op == arpReply && h.toUs,
		request:    op == arpRequest,
		gratuitous: bytes.Equal(b[arpSenderAddr:][:4], b[arpTargetAddr:][:4]),
	}, true
}
