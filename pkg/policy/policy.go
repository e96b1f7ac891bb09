// Package policy decides what is done with a neighbour entry, and says why.
//
// It is pure: an entry, the device it lives on and the agent's scope go in, a
// verdict with an enumerated reason comes out. The reason is at once the log
// field, the metric label and what tests assert.
//
// The kernel is no second guard. RTM_DELNEIGH ignores state, flags and owner
// (net/core/neighbour.c, neigh_delete), so an entry is safe only if Decide
// keeps it.
package policy

import (
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Action is what to do with an entry once it is due.
type Action uint8

const (
	// Keep leaves the entry alone.
	Keep Action = iota
	// Delete removes the entry: nobody is using it, so nothing is lost, and it
	// is resolved afresh by the next packet that needs it.
	Delete
	// Verify has the entry verified in place. It stays usable throughout.
	Verify
)

// String returns the word shown by `list`.
func (a Action) String() string {
	switch a {
	case Keep:
		return "keep"
	case Delete:
		return "delete"
	case Verify:
		return "verify"
	}
	return "unknown"
}

// Reason says why a verdict was reached.
type Reason uint8

// The reasons. Those before Resolving name an owner or a scope other than the
// agent's: such an entry is never touched, whatever its age.
const (
	Unknown       Reason = iota // zero value: never returned by Decide
	OtherFamily                 // --family excludes it
	UnknownDevice               // the device is not in the snapshot: it came or went a moment ago
	Loopback                    // IFF_LOOPBACK: IPv4 entries there are keyed 0.0.0.0, and a bad one hangs every local connect
	NoARPDevice                 // IFF_NOARP: its entries are derived, not learned
	PointToPoint                // IFF_POINTOPOINT: there is one peer, and nothing to resolve
	OtherDevice                 // --interface or --exclude-interface
	OtherCIDR                   // --cidr or --exclude-cidr
	IsPermanent                 // NUD_PERMANENT: somebody pinned it
	IsNoARP                     // NUD_NOARP: multicast, broadcast and the like
	IsNone                      // NUD_NONE: not an entry yet
	OtherState                  // a combination of state bits this version does not know
	IsProxy                     // NTF_PROXY: answers for another host
	ExtLearned                  // NTF_EXT_LEARNED: a control plane (BGP EVPN, Cilium) owns it
	Offloaded                   // NTF_OFFLOADED: hardware holds a copy
	Sticky                      // NTF_STICKY: must not move
	OtherFlag                   // an NTF_ bit this version does not know
	Managed                     // NTF_EXT_MANAGED: the kernel keeps it resolved for its owner
	OtherExtFlag                // any other NDA_FLAGS_EXT bit
	OtherProtocol               // NDA_PROTOCOL names an owner
	Resolving                   // NUD_INCOMPLETE: deleting it fails the packets queued on it
	Probing                     // NUD_PROBE behind a bridge that answers for others: the kernel will find out
	Watched                     // the watch over VIPs renews it: said by the sweep, never by Decide
	Unanswered                  // NUD_PROBE until the bound was near: the neighbour does not answer
	Idle                        // NUD_STALE and not a next hop
	HasFailed                   // NUD_FAILED: holds no address that could be lost
	InUse                       // NUD_REACHABLE or NUD_DELAY
	NextHop                     // a route points at it: verified even while nobody uses it
	Suppressed                  // valid, behind a bridge that answers for others: verified by the kernel's unicast, even while nobody uses it

	numReasons // not a reason
)

var reasonNames = [numReasons]string{
	Unknown:       "unknown",
	OtherFamily:   "family",
	UnknownDevice: "unknown_device",
	Loopback:      "loopback",
	NoARPDevice:   "noarp_device",
	PointToPoint:  "point_to_point",
	OtherDevice:   "interface",
	OtherCIDR:     "cidr",
	IsPermanent:   "permanent",
	IsNoARP:       "noarp",
	IsNone:        "none",
	OtherState:    "other_state",
	IsProxy:       "proxy",
	ExtLearned:    "ext_learned",
	Offloaded:     "offloaded",
	Sticky:        "sticky",
	OtherFlag:     "other_flag",
	Managed:       "managed",
	OtherExtFlag:  "other_ext_flag",
	OtherProtocol: "protocol",
	Resolving:     "incomplete",
	Probing:       "probing",
	Watched:       "vip",
	Unanswered:    "unanswered",
	Idle:          "idle",
	HasFailed:     "failed",
	InUse:         "in_use",
	NextHop:       "next_hop",
	Suppressed:    "bridge_suppresses",
}

// NumReasons is the number of reasons, for arrays indexed by Reason.
const NumReasons = int(numReasons)

// String returns the reason as it stands in logs and labels.
func (r Reason) String() string {
	if r >= numReasons {
		return "unknown"
	}
	return reasonNames[r]
}

// Foreign reports whether the entry belongs to someone else or lies outside
// the agent's scope, so that its age is no business of the agent's.
func (r Reason) Foreign() bool { return r < Resolving }

// Keeps reports whether the reason is one for leaving an entry alone.
func (r Reason) Keeps() bool { return r != Unknown && r <= Watched }

// Verdict is a decision about one entry.
type Verdict struct {
	Action Action
	Reason Reason
}

// Decide says what is to be done with e when it is due. link is the zero Link
// where the device is unknown; nextHop says that a route points at e.
func (s *Scope) Decide(e *neigh.Entry, link *neigh.Link, nextHop bool) Verdict {
	return s.DecideOn(e, s.Device(link), nextHop)
}

// DecideOn is Decide for callers that have many entries of one device. device is what
// Device returns for it.
//
// Where a bridge answers for others, an entry that is valid is never deleted: a
// routing daemon takes that for the end of the host, and withdraws the EVPN route
// that leads to it. Unicast verifies it, and what has failed is deleted.
func (s *Scope) DecideOn(e *neigh.Entry, device Reason, nextHop bool) Verdict {
	if r := s.outside(e, device); r != Unknown {
		return Verdict{Keep, r}
	}
	if r := owned(e); r != Unknown {
		return Verdict{Keep, r}
	}
	switch e.State {
	case neigh.Incomplete:
		return Verdict{Keep, Resolving}
	case neigh.Probe:
		if device == Suppressed {
			return Verdict{Keep, Probing}
		}
		return Verdict{Delete, Unanswered}
	case neigh.Failed:
		return Verdict{Delete, HasFailed}
	case neigh.Stale, neigh.Reachable, neigh.Delay:
		return valid(e.State, device, nextHop)
	}
	return Verdict{Keep, OtherState}
}

// valid is DecideOn for an entry that names a link-layer address and is not being
// verified.
func valid(s neigh.State, device Reason, nextHop bool) Verdict {
	switch {
	case device == Suppressed:
		return Verdict{Verify, Suppressed}
	case nextHop:
		return Verdict{Verify, NextHop}
	case s == neigh.Stale:
		return Verdict{Delete, Idle}
	}
	return Verdict{Verify, InUse}
}

// owned returns the mark by which somebody else claims e, or Unknown for an
// entry that the kernel learned by itself. A bit that this version does not
// know is a claim: new kinds of ownership must be safe by default.
func owned(e *neigh.Entry) Reason {
	switch {
	case e.State == neigh.None:
		return IsNone
	case e.State&neigh.Permanent != 0:
		return IsPermanent
	case e.State&neigh.NoARP != 0:
		return IsNoARP
	case e.State&(e.State-1) != 0:
		return OtherState
	case e.Flags&neigh.FlagProxy != 0:
		return IsProxy
	case e.Flags&neigh.FlagExtLearned != 0:
		return ExtLearned
	case e.Flags&neigh.FlagOffloaded != 0:
		return Offloaded
	case e.Flags&neigh.FlagSticky != 0:
		return Sticky
	case e.Flags&^neigh.FlagRouter != 0:
		return OtherFlag
	case e.FlagsExt&neigh.FlagManaged != 0:
		return Managed
	case e.FlagsExt != 0:
		return OtherExtFlag
	case e.Protocol != neigh.ProtocolUnspec && e.Protocol != neigh.ProtocolKernel:
		return OtherProtocol
	}
	return Unknown
}
