package kernel

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	ndmsgLen  = 12 // struct ndmsg
	rtattrLen = 4  // struct rtattr

	// attrTypeMask is NLA_TYPE_MASK: the upper bits of a type are flags.
	attrTypeMask = 0x3fff

	// tick is one USER_HZ, the unit of struct nda_cacheinfo. It is 100/s on
	// every architecture Go runs on, whatever the kernel's own HZ.
	tick = 10 * time.Millisecond
)

// decodePart decodes each IPv4 and IPv6 entry in one part of the answer to a dump
// request into e, and calls visit with it. It reports true for the last part, and the
// first error; it goes on behind a message that does not parse as an entry. What is
// not meant for the port, or answers another request, is skipped.
func decodePart(b []byte, port, seq uint32, e *neigh.Entry, visit func(*neigh.Entry)) (done bool, first error) {
	var m message
	for len(b) > 0 && !done {
		rest, err := nextMessage(b, &m)
		if err != nil {
			first = cmp.Or(first, err)
			break
		}
		b = rest
		if m.port != port || m.seq != seq {
			continue
		}
		if m.flags&unix.NLM_F_DUMP_INTR != 0 {
			first = cmp.Or(first, neigh.ErrInterrupted)
		}
		switch m.typ {
		case unix.RTM_NEWNEIGH:
			ok, err := decodeEntry(m.body, e)
			if err != nil {
				first = cmp.Or(first, err)
			} else if ok {
				visit(e)
			}
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			done = true
			first = cmp.Or(first, m.status())
		}
	}
	return done, first
}

// decodeEntry reads the body of an RTM_NEWNEIGH message into e. It reports
// false for an entry of another family than IPv4 and IPv6, and an error that
// wraps neigh.ErrMalformed where the body does not parse. Attributes that
// older kernels do not send leave their fields zero.
func decodeEntry(b []byte, e *neigh.Entry) (bool, error) {
	if len(b) < ndmsgLen {
		return false, fmt.Errorf("ndmsg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	family := b[0]
	if !isIP(family) {
		return false, nil
	}
	*e = neigh.Entry{
		Key:   neigh.Key{Index: index(b[4:])},
		State: neigh.State(binary.NativeEndian.Uint16(b[8:])),
		Flags: neigh.Flags(b[10]),
	}
	for b = b[ndmsgLen:]; len(b) >= rtattrLen; {
		typ, v, rest, err := nextAttr(b)
		if err != nil {
			return false, err
		}
		b = rest
		ok := true
		switch typ {
		case netlink.NDA_DST:
			e.Addr = addrOf(family, v)
			ok = e.Addr.IsValid()
		case netlink.NDA_LLADDR:
			ok = e.LLAddr.Set(v)
		case netlink.NDA_CACHEINFO:
			if ok = len(v) >= 16; ok {
				// struct nda_cacheinfo: confirmed, used, updated, refcnt.
				e.Confirmed = age(binary.NativeEndian.Uint32(v))
				e.Used = age(binary.NativeEndian.Uint32(v[4:]))
				e.Updated = age(binary.NativeEndian.Uint32(v[8:]))
			}
		case netlink.NDA_PROTOCOL:
			if ok = len(v) >= 1; ok {
				e.Protocol = neigh.Protocol(v[0])
			}
		case netlink.NDA_FLAGS_EXT:
			if ok = len(v) >= 4; ok {
				e.FlagsExt = neigh.FlagsExt(binary.NativeEndian.Uint32(v))
			}
		}
		if !ok {
			return false, fmt.Errorf("attribute %d of %d bytes in family %d: %w", typ, len(v), family, neigh.ErrMalformed)
		}
	}
	if !e.Addr.IsValid() {
		return false, fmt.Errorf("entry without an address: %w", neigh.ErrMalformed)
	}
	return true, nil
}

// lengthError says that an attribute claims an impossible length. Its text is made only
// when it is read, so that nextAttr is small enough to be inlined.
type lengthError struct{ n, left int }

func (e lengthError) Error() string {
	return fmt.Sprintf("attribute of %d bytes where %d are left: %v", e.n, e.left, neigh.ErrMalformed)
}

func (e lengthError) Unwrap() error { return neigh.ErrMalformed }

// nextAttr splits the first attribute off b, which has room for its header.
func nextAttr(b []byte) (typ uint16, v, rest []byte, err error) {
	n := int(binary.NativeEndian.Uint16(b))
	if n < rtattrLen || n > len(b) {
		return 0, nil, nil, lengthError{n, len(b)}
	}
	return binary.NativeEndian.Uint16(b[2:]) & attrTypeMask, b[rtattrLen:n], b[min(align(n), len(b)):], nil
}

// eachAttr calls visit for each attribute in b. It returns the first error.
func eachAttr(b []byte, visit func(typ uint16, v []byte) error) error {
	for len(b) >= rtattrLen {
		typ, v, rest, err := nextAttr(b)
		if err != nil {
			return err
		}
		if err := visit(typ, v); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// findAttr returns the value of the last attribute of a type in b; of more than one
// type, in the value of the one before. It is nil where there is none.
func findAttr(b []byte, path ...uint16) (found []byte, err error) {
	for _, wanted := range path {
		found = nil
		for len(b) >= rtattrLen {
			typ, v, rest, err := nextAttr(b)
			if err != nil {
				return nil, err
			}
			if typ == wanted {
				found = v
			}
			b = rest
		}
		b = found
	}
	return found, nil
}

// maxTicks is 246 days. A time stamp that another CPU wrote while the kernel
// filled the message lies in the future, and wraps around in
// jiffies_to_clock_t: to 0xffffffff where HZ is 100, 0x99999999 where it is
// 1000, and 0x7f29abca, the least, where the conversion goes by way of
// nanoseconds (HZ 250 or 300).
const maxTicks = 0x7f000000

// age converts ticks; a time stamp in the future is age 0.
func age(ticks uint32) time.Duration {
	if ticks > maxTicks {
		return 0
	}
	return time.Duration(ticks) * tick
}

// align rounds up to the 4 bytes of NLMSG_ALIGN and RTA_ALIGN.
func align(n int) int { return (n + 3) &^ 3 }
