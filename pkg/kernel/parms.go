package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	ndtmsgLen = 4 // struct ndtmsg

	// Attributes of include/uapi/linux/neighbour.h.
	ndtaParms              = 6
	ndtpaIfindex           = 1
	ndtpaBaseReachableTime = 4
)

// parms are the parameters of one device in one of the kernel's neighbour tables.
type parms struct {
	index         int // of the device; 0 for the defaults of the table
	family        int // 0 is IPv4, 1 is IPv6, as in neigh.Link.BaseReachable
	baseReachable time.Duration
}

// decodeParms reads the body of an RTM_NEWNEIGHTBL message. The index is 0 where it
// is about no device, or another family than IPv4 and IPv6.
func decodeParms(b []byte) (p parms, err error) {
	if len(b) < ndtmsgLen {
		return parms{}, fmt.Errorf("ndtmsg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	switch b[0] {
	case unix.AF_INET:
	case unix.AF_INET6:
		p.family = 1
	default:
		return parms{}, nil
	}
	nested, err := findAttr(b[ndtmsgLen:], ndtaParms)
	if err != nil {
		return parms{}, err
	}
	if err := eachAttr(nested, func(typ uint16, v []byte) error {
		ok := true
		switch typ {
		case ndtpaIfindex:
			if ok = len(v) >= 4; ok {
				p.index = index(v)
			}
		case ndtpaBaseReachableTime:
			if ok = len(v) >= 8; ok {
				const most = uint64(math.MaxInt64 / 4 / time.Millisecond) // leaves room to calculate with
				p.baseReachable = time.Duration(min(binary.NativeEndian.Uint64(v), most)) * time.Millisecond
			}
		}
		if !ok {
			return fmt.Errorf("attribute %d of the parameters of a table, of %d bytes: %w", typ, len(v), neigh.ErrMalformed)
		}
		return nil
	}); err != nil {
		return parms{}, err
	}
	return p, nil
}
