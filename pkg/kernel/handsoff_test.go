package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// The way from the wire to a verdict: whatever marks an entry as somebody
// else's survives decoding, in whatever order the attributes come, and beside
// whichever attributes this version does not know.
func TestHandsOffFromTheWire(t *testing.T) {
	t.Parallel()
	const rounds = 1_000_000
	r := rand.New(rand.NewPCG(3, 4))
	one := func(n int) bool { return r.IntN(n) == 0 }
	link := neigh.Link{Index: 7, Name: "eth0", Uplink: true}
	var scope policy.Scope
	var e neigh.Entry
	var b []byte
	attrs := make([][]byte, 0, 8)
	touched := 0
	for range rounds {
		family, dst := uint8(unix.AF_INET), dst4
		if one(2) {
			family, dst = unix.AF_INET6, dst6
		}
		state := uint16(1) << r.IntN(8)
		if one(8) {
			state |= 1 << r.IntN(16)
		}
		var flags, protocol uint8
		var ext uint32
		if one(3) {
			flags = 1 << r.IntN(8)
		}
		attrs = append(attrs[:0], dst, times)
		if one(2) {
			attrs = append(attrs, lladdr)
		}
		if one(2) {
			protocol = uint8(r.IntN(4))
			if one(8) {
				protocol = uint8(r.Uint32())
			}
			attrs = append(attrs, attr(netlink.NDA_PROTOCOL, protocol))
		}
		if one(4) {
			ext = 1 << r.IntN(32) & r.Uint32()
			attrs = append(attrs, attr(netlink.NDA_FLAGS_EXT, u32s(ext)...))
		}
		if one(4) {
			attrs = append(attrs, attr(uint16(20+r.IntN(1000)), make([]byte, r.IntN(16))...)) // of a kernel to come
		}
		r.Shuffle(len(attrs), func(i, j int) { attrs[i], attrs[j] = attrs[j], attrs[i] })
		b = append(b[:0], ndmsg(family, 7, state, flags, attrs...)...)

		if ok, err := decodeEntry(b, &e); !ok || err != nil {
			t.Fatalf("%x: %v, %v", b, ok, err)
		}
		got := scope.Decide(&e, &link, one(3))
		// The numbers of include/uapi/linux/neighbour.h: reachable, stale, delay,
		// probe, failed; NTF_ROUTER; RTPROT_UNSPEC and RTPROT_KERNEL.
		mine := slices.Contains([]uint16{0x02, 0x04, 0x08, 0x10, 0x20}, state) && flags&^0x80 == 0 && ext == 0 && (protocol == 0 || protocol == 2)
		if (got.Action != policy.Keep) != mine {
			t.Fatalf("state %#x, flags %#x, extended %#x, protocol %d: %v because %v", state, flags, ext, protocol, got.Action, got.Reason)
		}
		if mine {
			touched++
		}
	}
	if touched < rounds/20 || touched > rounds/2 {
		t.Errorf("%d of %d entries may be touched: the generator tests one side only", touched, rounds)
	}
}
