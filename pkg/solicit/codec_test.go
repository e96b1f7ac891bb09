package solicit

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Packets of the Linux kernel (6.18), taken off the wire behind the Ethernet
// header: it asks from 10.0.0.1 and 2001:db8::1, both 02:00:00:00:00:01, and
// the holders of ::2 answer with 02:00:00:00:00:02.
const (
	kernelRequest = "0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002"
	kernelReply   = "0001 0800 06 04 0002 020000000002 0a000002 020000000001 0a000001"
	kernelNS      = "60000000 0020 3a ff 20010db8000000000000000000000001 ff0200000000000000000001ff000002" +
		"87 00 1c27 00000000 20010db8000000000000000000000002 01 01 020000000001"
	kernelNA = "60000000 0020 3a ff 20010db8000000000000000000000002 20010db8000000000000000000000001" +
		"88 00 8a71 60000000 20010db8000000000000000000000002 02 01 020000000002"

	// What it announces 10.0.0.2 and ::2 by (arp_notify, ndisc_notify).
	kernelGratuitous  = "0001 0800 06 04 0001 020000000002 0a000002 000000000000 0a000002"
	kernelUnsolicited = "60000000 0020 3a ff 20010db8000000000000000000000002 ff020000000000000000000000000001" +
		"88 00 f927 20000000 20010db8000000000000000000000002 02 01 020000000002"
)

var (
	own    = lladdr{2, 0, 0, 0, 0, 1}
	other  = lladdr{2, 0, 0, 0, 0, 2}
	source = lladdr{2, 0, 0, 0, 0, 0xee} // of the Ethernet header
	toUs   = header{source: source, toUs: true}
	toAll  = header{source: source}
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSolicitationsAreTheKernels(t *testing.T) {
	addr := netip.MustParseAddr
	kept := []byte("before")
	t.Run("arp", func(t *testing.T) {
		got := appendARPRequest(kept, own, addr("10.0.0.1"), addr("10.0.0.2"))
		if want := slices.Concat(kept, unhex(t, kernelRequest)); !bytes.Equal(got, want) {
			t.Errorf("got  %x\nwant %x", got, want)
		}
	})
	t.Run("nd", func(t *testing.T) {
		target := addr("2001:db8::2")
		got := appendNS(kept, own, addr("2001:db8::1"), solicitedNode(target), target)
		if want := slices.Concat(kept, unhex(t, kernelNS)); !bytes.Equal(got, want) {
			t.Errorf("got  %x\nwant %x", got, want)
		}
	})
}

func TestAnnouncementsAreTheKernels(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		name, want string
		got        []byte
	}{
		{"arp", kernelGratuitous, appendARP(nil, arpRequest, other, addr("10.0.0.2"), lladdr{}, addr("10.0.0.2"))},
		{"nd", kernelUnsolicited, appendNA(nil, other, addr("2001:db8::2"), false)},
	} {
		if want := unhex(t, tt.want); !bytes.Equal(tt.got, want) {
			t.Errorf("%s: got  %x\nwant %x", tt.name, tt.got, want)
		}
	}
}

// Where a solicitation goes, and what it says about its sender.
func TestNSAddressing(t *testing.T) {
	tests := []struct {
		name, source, lladdr string
		dst, to              string
		option               bool
	}{
		{"everybody", "fe80::1", "", "ff02::1:ffcc:ddee", "33:33:ff:cc:dd:ee", true},
		{"one", "fe80::1", "02:00:00:00:00:02", "2001:db8::aabb:aacc:ddee", "33:33:ff:cc:dd:ee", true},
		{"everybody, from nobody", "::", "", "ff02::1:ffcc:ddee", "33:33:ff:cc:dd:ee", false},
		{"one, from nobody", "::", "02:00:00:00:00:02", "ff02::1:ffcc:ddee", "33:33:ff:cc:dd:ee", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target := Target{Addr: netip.MustParseAddr("2001:db8::aabb:aacc:ddee"), Source: netip.MustParseAddr(tt.source)}
			if tt.lladdr != "" {
				target.LLAddr = other[:]
			}
			b, to := ndProtocol().solicitation(nil, own, &target)
			if dst := netip.AddrFrom16([16]byte(b[24:])); dst != netip.MustParseAddr(tt.dst) {
				t.Errorf("to %s, want %s", dst, tt.dst)
			}
			if want, err := net.ParseMAC(tt.to); err != nil || to != lladdr(want) {
				t.Errorf("Ethernet destination %x, want %s", to, tt.to)
			}
			want := 64
			if tt.option {
				want += 8
			}
			if len(b) != want || int(b[5]) != want-40 {
				t.Errorf("%d bytes, %d of payload, want %d", len(b), b[5], want)
			}
			if !bytes.Equal(b, fixChecksum(slices.Clone(b))) {
				t.Error("wrong checksum")
			}
		})
	}
}

func TestParseARP(t *testing.T) {
	good := unhex(t, kernelReply)
	with := func(off int, v ...byte) []byte {
		b := slices.Clone(good)
		copy(b[off:], v)
		return b
	}
	claims := claim{addr: netip.MustParseAddr("10.0.0.2"), lladdr: other, solicited: true}
	announced, gratuitous := claims, claims
	announced.solicited = false
	gratuitous.solicited, gratuitous.request, gratuitous.gratuitous = false, true, true
	asks := claim{addr: netip.MustParseAddr("10.0.0.1"), lladdr: own, request: true}
	tests := []struct {
		name string
		b    []byte
		h    header
		want claim // zero: none
	}{
		{"of the kernel", good, toUs, claims},
		{"to all", good, toAll, announced},
		{"padded to the shortest frame", append(slices.Clone(good), make([]byte, 18)...), toUs, claims},
		{"another target", with(18, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9), toUs, claims},
		{"request", unhex(t, kernelRequest), toUs, asks},
		{"gratuitous", unhex(t, kernelGratuitous), toAll, gratuitous},
		{"RARP reply", with(6, 0, 4), toUs, claim{}},
		{"another hardware", with(0, 0, 6), toUs, claim{}},
		{"another protocol", with(2, 0x86, 0xdd), toUs, claim{}},
		{"long hardware addresses", with(4, 8), toUs, claim{}},
		{"long protocol addresses", with(5, 16), toUs, claim{}},
		{"cut off", good[:27], toUs, claim{}},
		{"empty", nil, toUs, claim{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseARP(tt.b, tt.h)
			if got != tt.want || ok != (tt.want != claim{}) {
				t.Errorf("got %+v, %v; want %+v", got, ok, tt.want)
			}
		})
	}
}

func TestParseNA(t *testing.T) {
	var (
		good   = unhex(t, kernelNA)
		us     = netip.MustParseAddr("2001:db8::1")
		holder = netip.MustParseAddr("2001:db8::2")
		all    = netip.MustParseAddr("ff02::1")
		option = []byte{2, 1, 2, 0, 0, 0, 0, 2}
		nonce  = []byte{14, 1, 1, 2, 3, 4, 5, 6}
		claims = claim{addr: holder, lladdr: other, solicited: true, override: true}
	)
	na := func(options ...[]byte) []byte {
		return naPacket(holder, us, holder, 0x60, slices.Concat(options...)...)
	}
	with := func(off int, v ...byte) []byte {
		b := slices.Clone(good)
		copy(b[off:], v)
		return fixChecksum(b)
	}
	but := func(change func(*claim)) claim {
		c := claims
		change(&c)
		return c
	}
	tests := []struct {
		name string
		b    []byte
		want claim // zero: none
	}{
		{"of the kernel", good, claims},
		{"our own of the same", na(option), claims},
		{"router", with(44, 0xe0), claims},
		{"solicited only", with(44, 0x40), but(func(c *claim) { c.override = false })},
		{"reserved bits", with(44, 0x7f, 9, 9, 9), claims},
		{"traffic class and flow label", with(0, 0x6e, 1, 2, 3), claims},
		{"announced", naPacket(holder, all, holder, 0x20, option...), but(func(c *claim) { c.solicited = false })},
		{"padded", append(slices.Clone(good), 1, 2, 3), claims},
		{"no option", na(), but(func(c *claim) { c.lladdr = source })},
		{"other options before", na(nonce, []byte{1, 1, 9, 9, 9, 9, 9, 9}, option), claims},
		{"the first of two", na(option, []byte{2, 1, 9, 9, 9, 9, 9, 9}), claims},
		{"a long unknown option", na(append([]byte{253, 2}, make([]byte, 14)...), option), claims},

		{"solicited, but to all", naPacket(holder, all, holder, 0x60, option...), claim{}},
		{"for a group", naPacket(holder, us, netip.MustParseAddr("ff02::2"), 0x60, option...), claim{}},
		{"solicitation", unhex(t, kernelNS), claim{}},
		{"IPv4", with(0, 0x45), claim{}},
		{"extension header", with(6, 0), claim{}},
		{"forwarded", with(7, 254), claim{}},
		{"code", with(41, 1), claim{}},
		{"wrong checksum", append(slices.Clone(good[:71]), 3), claim{}},
		{"no checksum", append(slices.Clone(good[:42]), append([]byte{0, 0}, good[44:]...)...), claim{}},
		{"option of no length", na([]byte{14, 0, 0, 0, 0, 0, 0, 0}), claim{}},
		{"option beyond the end", na([]byte{2, 2, 2, 0, 0, 0, 0, 2}), claim{}},
		{"half an option", na(option[:4]), claim{}},
		{"link-layer address of InfiniBand", na(append([]byte{2, 3}, make([]byte, 22)...)), claim{}},
		{"payload shorter than an advertisement", with(4, 0, 23), claim{}},
		{"payload longer than the packet", with(4, 0, 33), claim{}},
		{"cut off", good[:63], claim{}},
		{"empty", nil, claim{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseNA(tt.b, toUs)
			if got != tt.want || ok != (tt.want != claim{}) {
				t.Errorf("got %+v, %v; want %+v", got, ok, tt.want)
			}
		})
	}
}

// What parses is what was written: of any bytes that are a reply, and of a
// request that is made a reply by its operation alone.
func FuzzParseARP(f *testing.F) {
	f.Add(unhex(f, kernelReply), true)
	f.Add(unhex(f, kernelRequest), false)
	f.Add(unhex(f, kernelGratuitous), false)
	f.Fuzz(func(t *testing.T, b []byte, unicast bool) {
		h := header{source: source, toUs: unicast}
		if c, ok := parseARP(b, h); ok {
			target := netip.AddrFrom4([4]byte(b[24:]))
			again := arpReplyPacket(c.lladdr, c.addr.String(), own, target.String())
			again[7] = b[7]
			if got, ok := parseARP(again, h); !ok || got != c || c.solicited && b[7] != 2 || c.request != (b[7] == 1) || c.gratuitous != (c.addr == target) {
				t.Errorf("%x: %+v, but %x: %+v", b, c, again, got)
			}
		}
		if len(b) < 14 {
			return
		}
		from, target := netip.AddrFrom4([4]byte(b[6:])), netip.AddrFrom4([4]byte(b[10:]))
		p := appendARPRequest(nil, lladdr(b), from, target)
		if c, ok := parseARP(p, h); !ok || c != (claim{addr: from, lladdr: lladdr(b), request: true, gratuitous: from == target}) {
			t.Errorf("request %x: %+v, %v", p, c, ok)
		}
		p[7] = 2
		if c, ok := parseARP(p, h); !ok || c != (claim{addr: from, lladdr: lladdr(b), solicited: unicast, gratuitous: from == target}) {
			t.Errorf("%x: %+v, %v", p, c, ok)
		}
	})
}

func FuzzParseNA(f *testing.F) {
	na := unhex(f, kernelNA)
	f.Add(na)
	f.Add(unhex(f, kernelNS))
	f.Add(na[:len(na)-1]) // shorter than it says
	a := netip.MustParseAddr("fe80::2")
	f.Add(naPacket(a, a, netip.MustParseAddr("ff02::1"), 0x60)) // of a group
	for _, options := range [][]byte{{2, 1, 2}, {2, 0, 2, 0, 0, 0, 0, 2}, {2, 2, 2, 0, 0, 0, 0, 2}, {14, 1, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 2}} {
		f.Add(naPacket(a, a, a, 0x60, options...))
	}
	f.Add(unhex(f, kernelUnsolicited))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 44 && len(b) < 1<<16 {
			parseNA(b, toUs)
			// Few inputs have the right checksum by themselves.
			b = fixChecksum(slices.Clone(b))
		}
		if c, ok := parseNA(b, toUs); ok {
			flags := byte(0)
			for bit, set := range map[byte]bool{0x40: c.solicited, 0x20: c.override} {
				if set {
					flags |= bit
				}
			}
			dst := netip.MustParseAddr("2001:db8::1")
			again := naPacket(c.addr, dst, c.addr, flags, append([]byte{2, 1}, c.lladdr[:]...)...)
			if got, ok := parseNA(again, toAll); !ok || got != c {
				t.Errorf("%x: %+v, but %x: %+v", b, c, again, got)
			}
		}
		if len(b) < 54 {
			return
		}
		target := netip.AddrFrom16([16]byte(b[38:]))
		if target.IsMulticast() || target.Is4In6() {
			return
		}
		announced, router := claim{addr: target, lladdr: lladdr(b), override: true}, b[0]&1 != 0
		na := appendNA(nil, lladdr(b), target, router)
		if c, ok := parseNA(na, toAll); !ok || c != announced || na[44]&0x80 != 0 != router {
			t.Errorf("announcement: %+v, %v; want %+v, flags %x", c, ok, announced, na[44])
		}
		from := netip.AddrFrom16([16]byte(b[6:]))
		p := appendNS(nil, lladdr(b), from, solicitedNode(target), target)
		if !bytes.Equal(p, fixChecksum(slices.Clone(p))) {
			t.Errorf("%x: wrong checksum", p)
		}
		if c, ok := parseNA(p, toUs); ok {
			t.Errorf("solicitation %x was read as an advertisement: %+v", p, c)
		}
		p[40] = 136
		want := claim{addr: target, lladdr: source}
		if len(p) > 64 {
			p[64] = 2
			want.lladdr = lladdr(b)
		}
		if c, ok := parseNA(fixChecksum(p), toUs); !ok || c != want {
			t.Errorf("%x: %+v, %v; want %+v", p, c, ok, want)
		}
	})
}
