package solicit

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The filters are classic BPF (Documentation/networking/filter.rst). Offsets
// count from the network header, as a SOCK_DGRAM socket sees the frame. A load
// from beyond its end drops it.

// test is one condition on a frame.
type test struct {
	load bpf.Instruction
	cond bpf.JumpTest
	want uint32
}

// arpFilter is for replies, and for gratuitous ARP in the form of a request.
func arpFilter() []bpf.Instruction {
	rest := filter(
		test{bpf.LoadAbsolute{Off: 0, Size: 4}, bpf.JumpEqual, arpEthernet<<16 | unix.ETH_P_IP},
		test{bpf.LoadAbsolute{Off: 4, Size: 2}, bpf.JumpEqual, arpLengths},
		etherType(unix.ETH_P_ARP), incoming(),
	)
	return append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: arpOp, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arpReply, SkipTrue: 4}, // to the rest
		bpf.LoadAbsolute{Off: arpTargetAddr, Size: 4},
		bpf.TAX{},
		bpf.LoadAbsolute{Off: arpSenderAddr, Size: 4},
		bpf.JumpIfX{Cond: bpf.JumpEqual, SkipFalse: uint8(len(rest) - 1)}, //nolint:gosec // a dozen
	}, rest...)
}

// ndFilter is for packets without extension headers, as every advertisement is
// in practice; RFC 6980 section 5 has fragments dropped. The next header is tested
// first, so that one test rejects other traffic.
func ndFilter() []bpf.Instruction {
	return filter(append(advertisement(), etherType(unix.ETH_P_IPV6), incoming())...)
}

func advertisement() []test {
	return []test{
		{bpf.LoadAbsolute{Off: ipv6NextHeader, Size: 2}, bpf.JumpEqual, unix.IPPROTO_ICMPV6<<8 | ndHopLimit},
		{bpf.LoadAbsolute{Off: ndType, Size: 2}, bpf.JumpEqual, ndAdvertisement << 8},
	}
}

// lineFilter is for what comes in about one address: ARP requests and replies from
// it, Neighbor Advertisements with it as their target. It belongs to a socket that
// is bound to the EtherType.
func lineFilter(a netip.Addr) []bpf.Instruction {
	if a.Is4() {
		return filter(
			test{bpf.LoadAbsolute{Off: arpSenderAddr, Size: 4}, bpf.JumpEqual, binary.BigEndian.Uint32(a.AsSlice())},
			test{bpf.LoadAbsolute{Off: arpOp, Size: 2}, bpf.JumpLessOrEqual, arpReply},
			test{bpf.LoadAbsolute{Off: arpOp, Size: 2}, bpf.JumpGreaterOrEqual, arpRequest},
			test{bpf.LoadAbsolute{Off: 0, Size: 4}, bpf.JumpEqual, arpEthernet<<16 | unix.ETH_P_IP},
			test{bpf.LoadAbsolute{Off: 4, Size: 2}, bpf.JumpEqual, arpLengths},
			test{bpf.LoadAbsolute{Off: arpLen - 4, Size: 4}, bpf.JumpGreaterOrEqual, 0}, // it is that long
			incoming(),
		)
	}
	tests := advertisement()
	for i := range uint32(4) {
		tests = append(tests, test{
			bpf.LoadAbsolute{Off: ndTarget + 4*i, Size: 4}, bpf.JumpEqual, binary.BigEndian.Uint32(a.AsSlice()[4*i:]),
		})
	}
	return filter(append(tests, incoming())...)
}

// etherType tells frames apart on a socket that changes from one to another.
func etherType(t uint32) test {
	return test{bpf.LoadExtension{Num: bpf.ExtProto}, bpf.JumpEqual, t}
}

// incoming holds for what the kernel itself takes in: PACKET_HOST, BROADCAST
// and MULTICAST. That leaves out our own frames (PACKET_OUTGOING), and those to
// other hosts that an interface in promiscuous mode sees (PACKET_OTHERHOST;
// arp_rcv and ip6_rcv_core drop them).
func incoming() test {
	return test{bpf.LoadExtension{Num: bpf.ExtType}, bpf.JumpLessOrEqual, unix.PACKET_MULTICAST}
}

// filter accepts, whole, the frames that all tests hold for.
func filter(tests ...test) []bpf.Instruction {
	p := make([]bpf.Instruction, 0, 2*len(tests)+2)
	for i, t := range tests {
		rest := len(tests) - i - 1
		p = append(p, t.load, bpf.JumpIf{Cond: t.cond, Val: t.want, SkipFalse: uint8(2*rest + 1)}) //nolint:gosec // a handful
	}
	return append(p, bpf.RetConstant{Val: 1<<32 - 1}, bpf.RetConstant{Val: 0})
}
