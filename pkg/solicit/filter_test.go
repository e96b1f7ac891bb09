package solicit

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The filters in the simulator of x/net/bpf, which does not know what the
// kernel says about a frame: that is put in as constants.
func TestFilters(t *testing.T) {
	holder, us := netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::1")
	var (
		reply   = unhex(t, kernelReply)
		na      = unhex(t, kernelNA)
		request = unhex(t, kernelRequest)
		ns      = unhex(t, kernelNS)
		tcp     = slices.Concat([]byte{0x60, 0, 0, 0, 0, 20, 6, 64}, holder.AsSlice(), us.AsSlice(), make([]byte, 20))
	)
	with := func(b []byte, off int, v byte) []byte {
		b = slices.Clone(b)
		b[off] = v
		return b
	}
	tests := []struct {
		name      string
		filter    []bpf.Instruction
		b         []byte
		etherType uint32
		pkttype   uint32
		want      bool
	}{
		{"reply", arpFilter(), reply, unix.ETH_P_ARP, unix.PACKET_HOST, true},
		{"broadcast reply", arpFilter(), reply, unix.ETH_P_ARP, unix.PACKET_BROADCAST, true},
		{"our own reply", arpFilter(), reply, unix.ETH_P_ARP, unix.PACKET_OUTGOING, false},
		{"somebody else's reply", arpFilter(), reply, unix.ETH_P_ARP, unix.PACKET_OTHERHOST, false},
		{"request", arpFilter(), request, unix.ETH_P_ARP, unix.PACKET_BROADCAST, false},
		{"announcement in the form of a request", arpFilter(), unhex(t, kernelGratuitous), unix.ETH_P_ARP, unix.PACKET_BROADCAST, true},
		{"our own announcement", arpFilter(), unhex(t, kernelGratuitous), unix.ETH_P_ARP, unix.PACKET_OUTGOING, false},
		{"announcement with long addresses", arpFilter(), with(unhex(t, kernelGratuitous), 5, 16), unix.ETH_P_ARP, unix.PACKET_HOST, false},
		{"reply of IEEE 802", arpFilter(), with(reply, 1, 6), unix.ETH_P_ARP, unix.PACKET_HOST, false},
		{"reply with long addresses", arpFilter(), with(reply, 5, 16), unix.ETH_P_ARP, unix.PACKET_HOST, false},
		{"short reply", arpFilter(), reply[:7], unix.ETH_P_ARP, unix.PACKET_HOST, false},
		{"reply under another EtherType", arpFilter(), reply, unix.ETH_P_802_EX1, unix.PACKET_HOST, false},
		{"advertisement to the ARP filter", arpFilter(), na, unix.ETH_P_IPV6, unix.PACKET_HOST, false},

		{"advertisement", ndFilter(), na, unix.ETH_P_IPV6, unix.PACKET_HOST, true},
		{"announcement", ndFilter(), na, unix.ETH_P_IPV6, unix.PACKET_MULTICAST, true},
		{"our own advertisement", ndFilter(), na, unix.ETH_P_IPV6, unix.PACKET_OUTGOING, false},
		{"our own group frame, looped back", ndFilter(), na, unix.ETH_P_IPV6, unix.PACKET_LOOPBACK, false},
		{"somebody else's advertisement", ndFilter(), na, unix.ETH_P_IPV6, unix.PACKET_OTHERHOST, false},
		{"solicitation", ndFilter(), ns, unix.ETH_P_IPV6, unix.PACKET_MULTICAST, false},
		{"forwarded advertisement", ndFilter(), with(na, 7, 64), unix.ETH_P_IPV6, unix.PACKET_HOST, false},
		{"advertisement with a code", ndFilter(), with(na, 41, 1), unix.ETH_P_IPV6, unix.PACKET_HOST, false},
		{"other traffic", ndFilter(), tcp, unix.ETH_P_IPV6, unix.PACKET_HOST, false},
		{"short packet", ndFilter(), na[:41], unix.ETH_P_IPV6, unix.PACKET_HOST, false},
		{"advertisement under another EtherType", ndFilter(), na, unix.ETH_P_802_EX1, unix.PACKET_HOST, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := slices.Clone(tt.filter)
			for i, ins := range p {
				switch ins {
				case bpf.LoadExtension{Num: bpf.ExtProto}:
					p[i] = bpf.LoadConstant{Val: tt.etherType}
				case bpf.LoadExtension{Num: bpf.ExtType}:
					p[i] = bpf.LoadConstant{Val: tt.pkttype}
				}
			}
			vm, err := bpf.NewVM(p)
			if err != nil {
				t.Fatal(err)
			}
			n, err := vm.Run(tt.b)
			if err != nil {
				t.Fatal(err)
			}
			if got := n > 0; got != tt.want || got && n < len(tt.b) {
				t.Errorf("%d of %d bytes pass, want %v", n, len(tt.b), tt.want)
			}
		})
	}
}
