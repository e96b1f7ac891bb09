// Package neigh holds what the kernel says about neighbours as plain values: entries,
// the devices they live on, the ways that lead to them, how full the tables are, and
// the TCP sockets that show how a neighbour fares. It does no I/O and knows no netlink,
// so every rule built on it can be tested anywhere.
//
// The vocabulary is the kernel's (include/uapi/linux/neighbour.h and
// net/core/neighbour.c): NUD is Neighbour Unreachability Detection, the state
// machine of RFC 4861 section 7.3, which Linux runs for ARP as well.
package neigh

import (
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"net/netip"
	"time"
)

// Key names one entry: the kernel keys the ARP and ND tables by protocol
// address and interface.
type Key struct {
	Addr  netip.Addr // never carries a zone: Index is the zone
	Index int        // interface index
}

// Entry is one neighbour entry as a dump reported it.
type Entry struct {
	Key
	LLAddr   LLAddr
	State    State
	Flags    Flags
	FlagsExt FlagsExt
	Protocol Protocol

	// The three ages that `ip -statistics neighbour` prints as
	// used/confirmed/updated, with the kernel's resolution of 10 ms.
	Used      time.Duration // since a packet last took the slow path through the entry
	Confirmed time.Duration // since the neighbour last proved reachable; starts at Link.UnconfirmedAge
	Updated   time.Duration // since the state or the link-layer address last changed
}

// State is a NUD state: one bit of the kernel's nud_state.
type State uint16

// The NUD states, with the values of include/uapi/linux/neighbour.h.
const (
	None       State = 0x00
	Incomplete State = 0x01
	Reachable  State = 0x02
	Stale      State = 0x04
	Delay      State = 0x08
	Probe      State = 0x10
	Failed     State = 0x20
	NoARP      State = 0x40
	Permanent  State = 0x80
)

// States lists every state an entry can be in.
var States = [...]State{None, Incomplete, Reachable, Stale, Delay, Probe, Failed, NoARP, Permanent}

// String returns the lower-case name used in metric labels, or "unknown" for a
// combination of bits that the kernel does not produce.
func (s State) String() string {
	switch s {
	case None:
		return "none"
	case Incomplete:
		return "incomplete"
	case Reachable:
		return "reachable"
	case Stale:
		return "stale"
	case Delay:
		return "delay"
	case Probe:
		return "probe"
	case Failed:
		return "failed"
	case NoARP:
		return "noarp"
	case Permanent:
		return "permanent"
	}
	return "unknown"
}

// Valid reports whether the kernel would send packets to the entry's
// link-layer address: NUD_VALID without the states nobody learned.
func (s State) Valid() bool {
	return s&(Reachable|Stale|Delay|Probe) != 0
}

// Flags are the NTF_ bits of ndm_flags.
type Flags uint8

// The flags an entry in the table can carry.
const (
	FlagProxy      Flags = 0x08
	FlagExtLearned Flags = 0x10
	FlagOffloaded  Flags = 0x20
	FlagSticky     Flags = 0x40
	FlagRouter     Flags = 0x80
)

// FlagsExt are the NTF_EXT_ bits of NDA_FLAGS_EXT (Linux 5.16 and newer; 0 on
// kernels that do not send the attribute).
type FlagsExt uint32

// FlagManaged marks an entry that the kernel itself keeps resolved on behalf
// of whoever added it.
const FlagManaged FlagsExt = 0x01

// Protocol says who installed an entry: the RTPROT_ number of NDA_PROTOCOL
// (Linux 5.0 and newer; 0, unspec, on kernels that do not send the attribute).
type Protocol uint8

// The protocols of entries that nobody installed.
const (
	ProtocolUnspec Protocol = 0
	ProtocolKernel Protocol = 2
)

// maxLLAddr is MAX_ADDR_LEN of include/linux/netdevice.h.
const maxLLAddr = 32

// LLAddr is a link-layer address of up to 32 bytes, comparable with ==. The
// zero value is the absence of one.
type LLAddr struct {
	n uint8
	b [maxLLAddr]byte
}

// LLAddrFrom copies b. It reports false for more than 32 bytes.
func LLAddrFrom(b []byte) (LLAddr, bool) {
	var a LLAddr
	ok := a.Set(b)
	return a, ok
}

// Set is LLAddrFrom in place, for those who decode many of them.
func (a *LLAddr) Set(b []byte) bool {
	if len(b) > maxLLAddr {
		return false
	}
	*a = LLAddr{n: uint8(len(b))} //nolint:gosec // bounded above
	if len(b) == 6 {              // Ethernet: two moves, not a call
		*(*[6]byte)(a.b[:]) = [6]byte(b)
		return true
	}
	copy(a.b[:], b)
	return true
}

// Len returns the length in bytes: 0 where there is no address, 6 on Ethernet,
// 20 on InfiniBand.
func (a LLAddr) Len() int { return int(a.n) }

// Bytes returns a copy of the address.
func (a LLAddr) Bytes() []byte { return append([]byte(nil), a.b[:a.n]...) }

// Digest returns a number by which to tell addresses of one device apart. It is
// the address itself, its first byte the lowest, where that has no more than eight
// bytes, as on Ethernet; longer ones are folded. It is 0 where there is no address.
func (a *LLAddr) Digest() (d uint64) {
	for i := 0; i < int(a.n); i += 8 {
		d = bits.RotateLeft64(d, 29) ^ binary.LittleEndian.Uint64(a.b[i:])
	}
	return d
}

// Undigest returns the address of n bytes that has the digest d. It reports false
// where the digest does not tell: of none, and of more than eight bytes.
func Undigest(d uint64, n int) (a LLAddr, ok bool) {
	if d == 0 || n < 1 || n > 8 {
		return a, false
	}
	binary.LittleEndian.PutUint64(a.b[:], d)
	a.n = uint8(n)
	return a, true
}

// String returns the usual colon-separated form, or "" where there is no
// address.
func (a LLAddr) String() string {
	if a.n == 0 {
		return ""
	}
	out := make([]byte, 0, 3*maxLLAddr)
	for i := range int(a.n) {
		if i > 0 {
			out = append(out, ':')
		}
		out = hex.AppendEncode(out, a.b[i:i+1])
	}
	return string(out)
}

// MarshalText implements encoding.TextMarshaler, for JSON.
func (a LLAddr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Clock names one of the ages of an entry.
type Clock uint8

// The kernel's three clocks, and the agent's own.
const (
	Used Clock = iota
	Confirmed
	Updated
	Resolved // since the agent last had the entry asked for afresh
)

// Clocks lists all clocks in label order.
var Clocks = [...]Clock{Used, Confirmed, Updated, Resolved}

// String returns the name used in metric labels.
func (c Clock) String() string {
	switch c {
	case Used:
		return "used"
	case Confirmed:
		return "confirmed"
	case Updated:
		return "updated"
	case Resolved:
		return "resolved"
	}
	return "unknown"
}

// Ages holds one age per clock, indexed by Clock.
type Ages [len(Clocks)]time.Duration

// Family returns "ipv4" or "ipv6", as metric labels and flags spell it.
func Family(a netip.Addr) string {
	if a.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// Link is what the agent needs to know of a network device.
type Link struct {
	Index        int
	Name         string
	LLAddr       LLAddr // its own; the zero value on devices that have none
	Loopback     bool   // IFF_LOOPBACK
	NoARP        bool   // IFF_NOARP
	PointToPoint bool   // IFF_POINTOPOINT

	// Uplink is set for a device that has a global unicast address of its own
	// or that a route's next hop uses. A node has few of them, so they may
	// name metric series; its pod devices are not uplinks.
	Uplink bool

	// Suppresses is set for a bridge with a port that has neigh_suppress or
	// neigh_vlan_suppress, and for a VLAN or macvlan on one. As long as this host's own
	// entry for a neighbour is valid, such a bridge answers a broadcast for it out of
	// that entry, and sends the answer, which bears the neighbour's link-layer address,
	// out of its ports (br_do_proxy_suppress_arp and br_do_suppress_nd in
	// net/bridge/br_arp_nd_proxy.c): the switch behind them learns the neighbour here.
	Suppresses bool

	// BaseReachable is the base_reachable_time of the device, for IPv4 and IPv6; zero
	// where it is not known.
	BaseReachable [2]time.Duration
}

// defaultBaseReachable is the base_reachable_time of a device that nobody has set
// (REACHABLE_TIME of RFC 4861 section 10; arp_tbl and nd_tbl in the kernel).
const defaultBaseReachable = 30 * time.Second

// UnconfirmedAge is where the kernel starts the confirmed age of a new entry for a:
// twice the base_reachable_time of the device (___neigh_create in
// net/core/neighbour.c).
func (l *Link) UnconfirmedAge(a netip.Addr) time.Duration {
	base := l.BaseReachable[0]
	if !a.Is4() {
		base = l.BaseReachable[1]
	}
	if base == 0 {
		base = defaultBaseReachable
	}
	return 2 * base
}

// Topology is a snapshot of everything around the table that a decision
// depends on.
type Topology struct {
	Links map[int]Link
	// NextHops holds the gateways of all routes in all tables; the value is
	// true for the gateway of a default route.
	NextHops map[Key]bool
}
