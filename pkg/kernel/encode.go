package kernel

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// request describes one message about one entry, or a dump where Addr is the
// zero value.
type request struct {
	neigh.Key
	typ    uint16 // RTM_*
	flags  uint16 // NLM_F_*, NLM_F_REQUEST is added
	state  neigh.State
	ntf    uint8        // NTF_* flags
	lladdr neigh.LLAddr // NDA_LLADDR, left out where it is the zero value
}

// appendRequest appends r as a netlink message with the given sequence number.
// Padding is written as zeros: strict checking (Linux 4.20 and newer) refuses
// anything else, and nl's own Ndmsg.Serialize leaves it uninitialised.
func appendRequest(b []byte, r *request, seq uint32) []byte {
	start := len(b)
	family := uint8(unix.AF_UNSPEC)
	if r.Addr.IsValid() {
		family = familyOf(r.Addr)
	}
	b = appendHeader(b, r.typ, r.flags, seq)
	b = append(b, family, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(r.Index)) //nolint:gosec // an int32 by origin
	b = binary.NativeEndian.AppendUint16(b, uint16(r.state))
	b = append(b, r.ntf, 0)
	if r.Addr.IsValid() {
		b = appendAddrAttr(b, netlink.NDA_DST, r.Addr)
	}
	if r.lladdr.Len() > 0 {
		b = appendAttr(b, netlink.NDA_LLADDR, r.lladdr.Bytes())
	}
	return endMessage(b, start)
}

// appendMessage appends a request of any kind.
func appendMessage(b []byte, typ, flags uint16, seq uint32, body []byte) []byte {
	start := len(b)
	return endMessage(append(appendHeader(b, typ, flags, seq), body...), start)
}

// appendHeader appends struct nlmsghdr. Its length is written by endMessage.
func appendHeader(b []byte, typ, flags uint16, seq uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	return binary.NativeEndian.AppendUint32(b, 0) // nlmsg_pid: the kernel fills it in
}

// endMessage writes the length of the message that began at start.
func endMessage(b []byte, start int) []byte {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start)) //nolint:gosec // at most 92
	return b
}

// familyOf is AF_INET or AF_INET6.
func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// appendAddrAttr appends an attribute that is an address.
func appendAddrAttr(b []byte, typ uint16, a netip.Addr) []byte {
	six := a.As16()
	if a.Is4() {
		return appendAttr(b, typ, six[12:])
	}
	return appendAttr(b, typ, six[:])
}

// appendAttr appends an attribute and its padding.
func appendAttr(b []byte, typ uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(rtattrLen+len(v))) //nolint:gosec // at most 36
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, v...)
	return append(b, make([]byte, align(len(v))-len(v))...)
}
