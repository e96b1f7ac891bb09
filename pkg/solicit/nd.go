package solicit

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Neighbor Solicitation and Advertisement of RFC 4861 sections 4.3 and 4.4 in
// their IPv6 packet (RFC 8200 section 3), without the Ethernet header.
const (
	ipv6Len        = 40
	ipv6Version    = 6 << 28
	ipv6PayloadLen = 4 // offsets
	ipv6NextHeader = 6
	ipv6HopLimit   = 7
	ipv6Source     = 8
	ipv6Dest       = 24

	ndHopLimit = 255 // forwarding would have made it less: RFC 4861 section 3.1
	ndLen      = 24  // of either message, without options
	ndType     = ipv6Len
	ndCode     = ipv6Len + 1
	ndChecksum = ipv6Len + 2
	ndFlags    = ipv6Len + 4
	ndTarget   = ipv6Len + 8
	ndOptions  = ipv6Len + ndLen

	ndSolicitation  = 135
	ndAdvertisement = 136

	ndRouter    = 0x80
	ndSolicited = 0x40
	ndOverride  = 0x20

	optSource = 1 // option types
	optTarget = 2
	optUnit   = 8 // bytes
)

func ndProtocol() protocol {
	return protocol{
		etherType: unix.ETH_P_IPV6,
		filter:    ndFilter(),
		parse:     parseNA,
		busy:      true,
		solicitation: func(b []byte, own lladdr, t *Target) ([]byte, lladdr) {
			group := solicitedNode(t.Addr)
			dst := group
			// From the unspecified address even a solicitation to one host is
			// addressed to the group: RFC 4861 section 7.1.1.
			if t.LLAddr != nil && !t.Source.IsUnspecified() {
				dst = t.Addr
			}
			return appendNS(b, own, t.Source, dst, t.Addr), multicastLLAddr(group)
		},
	}
}

// solicitedNode returns the group that the holders of a listen to: RFC 4291
// section 2.7.1.
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// multicastLLAddr returns the Ethernet address of a group: RFC 2464 section 7.
func multicastLLAddr(group netip.Addr) lladdr {
	b := group.As16()
	return lladdr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// appendNS appends the solicitation for target to the address dst. It carries
// the source link-layer address option unless source is unspecified (RFC 4861
// section 4.3).
func appendNS(b []byte, own lladdr, source, dst, target netip.Addr) []byte {
	if source.IsUnspecified() {
		return appendND(b, ndSolicitation, 0, source, dst, target)
	}
	return appendND(b, ndSolicitation, 0, source, dst, target, append([]byte{optSource, 1}, own[:]...)...)
}

// appendNA appends the advertisement by which own announces target to all nodes on the
// link: RFC 4861 section 7.2.6. It is what the kernel sends with ndisc_notify
// (ndisc_send_unsol_na). Without the flag of a router, hosts that have target for one
// would take their default route by it away (ndisc_recv_na).
func appendNA(b []byte, own lladdr, target netip.Addr, router bool) []byte {
	flags := byte(ndOverride)
	if router {
		flags |= ndRouter
	}
	return appendND(b, ndAdvertisement, flags, target, netip.IPv6LinkLocalAllNodes(), target, append([]byte{optTarget, 1}, own[:]...)...)
}

// appendND appends a message of the given type about target, with one option or none.
func appendND(b []byte, typ, flags byte, source, dst, target netip.Addr, option ...byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, ipv6Version)
	b = binary.BigEndian.AppendUint16(b, uint16(ndLen+len(option))) //nolint:gosec // 32 at most
	b = append(b, unix.IPPROTO_ICMPV6, ndHopLimit)
	b = append(b, source.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = append(b, typ, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	b = append(b, option...)
	packet := b[start:]
	binary.BigEndian.PutUint16(packet[ndChecksum:], ^sum(packet))
	return b
}

// parseNA returns what a valid advertisement says. The checks are those of RFC
// 4861 section 7.1.2, and of ndisc_recv_na for the length of the option: what the
// kernel drops is not reported.
func parseNA(b []byte, h header) (claim, bool) {
	if len(b) < ndOptions || binary.BigEndian.Uint32(b)>>28 != 6 {
		return claim{}, false
	}
	// What follows the packet pads the frame.
	n := int(binary.BigEndian.Uint16(b[ipv6PayloadLen:]))
	if n < ndLen || n > len(b)-ipv6Len {
		return claim{}, false
	}
	b = b[:ipv6Len+n]
	if b[ipv6NextHeader] != unix.IPPROTO_ICMPV6 || b[ipv6HopLimit] != ndHopLimit ||
		b[ndType] != ndAdvertisement || b[ndCode] != 0 || sum(b) != 0xffff {
		return claim{}, false
	}
	flags := b[ndFlags]
	c := claim{
		addr:      netip.AddrFrom16([16]byte(b[ndTarget:])),
		lladdr:    h.source,
		solicited: flags&ndSolicited != 0,
		override:  flags&ndOverride != 0,
	}
	if c.addr.IsMulticast() || c.solicited && netip.AddrFrom16([16]byte(b[ipv6Dest:])).IsMulticast() {
		return claim{}, false
	}
	found := false
	for b = b[ndOptions:]; len(b) > 0; {
		if len(b) < optUnit {
			return claim{}, false
		}
		typ, n := b[0], int(b[1])*optUnit
		if n == 0 || n > len(b) {
			return claim{}, false
		}
		// The first counts (ndisc_parse_options).
		if typ == optTarget && !found {
			if n != optUnit {
				return claim{}, false
			}
			c.lladdr, found = lladdr(b[2:]), true
		}
		b = b[n:]
	}
	return c, true
}

// sum returns the ones' complement sum over the pseudo-header (RFC 8200 section
// 8.1) and the payload of an ICMPv6 packet without extension headers: 0xffff if
// its checksum is right, the complement of the checksum if that is zero.
func sum(packet []byte) uint16 {
	return onesSum(uint32(len(packet)-ipv6Len)+unix.IPPROTO_ICMPV6, packet[ipv6Source:]) //nolint:gosec // at most 64 KiB
}

// onesSum returns the ones' complement sum of parts (RFC 1071), added to what is given.
// All but the last have an even number of bytes.
func onesSum(s uint32, parts ...[]byte) uint16 {
	for _, b := range parts {
		for ; len(b) > 1; b = b[2:] {
			s += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			s += uint32(b[0]) << 8
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
