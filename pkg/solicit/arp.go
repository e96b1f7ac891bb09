package solicit

import (
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
	b = binary.BigEndian.AppendUint16(b, arpEthernet)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = binary.BigEndian.AppendUint16(b, arpLengths)
	b = binary.BigEndian.AppendUint16(b, arpRequest)
	b = append(b, own[:]...)
	b = append(b, source.AsSlice()...)
	b = append(b, make([]byte, len(own))...)
	return append(b, target.AsSlice()...)
}

// parseARPReply returns what a reply says about its sender. The target fields
// are not looked at: the kernel does not either, and RFC 5227 has replies to
// nobody in particular. What follows the packet pads the frame.
func parseARPReply(b []byte, h header) (claim, bool) {
	if len(b) < arpLen ||
		binary.BigEndian.Uint16(b) != arpEthernet ||
		binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP ||
		binary.BigEndian.Uint16(b[4:]) != arpLengths ||
		binary.BigEndian.Uint16(b[arpOp:]) != arpReply {
		return claim{}, false
	}
	return claim{
		addr:      netip.AddrFrom4([4]byte(b[arpSenderAddr:])),
		lladdr:    lladdr(b[arpSender:]),
		solicited: h.toUs,
	}, true
}
