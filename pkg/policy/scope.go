package policy

import (
	"net/netip"
	"path"
	"slices"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Scope narrows down which entries are the agent's business. The zero value
// takes in everything that Decide does not keep for another reason.
type Scope struct {
	// Family is "ipv4", "ipv6", or "" for both.
	Family string
	// Interfaces and ExcludeInterfaces are globs in the syntax of path.Match.
	// An empty Interfaces takes in every device; an exclusion wins.
	Interfaces, ExcludeInterfaces []string
	// CIDRs and ExcludeCIDRs are prefixes of entry addresses. An empty CIDRs
	// takes in every address; an exclusion wins.
	CIDRs, ExcludeCIDRs []netip.Prefix
}

// Device returns why all entries on link are out of scope. Where they are not, it
// returns Suppressed for a link that Suppresses, and Unknown for any other. link
// is the zero Link where the device is unknown.
func (s *Scope) Device(link *neigh.Link) Reason {
	switch {
	case link.Name == "":
		return UnknownDevice
	case link.Loopback:
		return Loopback
	case link.NoARP:
		return NoARPDevice
	case link.PointToPoint:
		return PointToPoint
	case !s.named(link.Name):
		return OtherDevice
	case link.Suppresses:
		return Suppressed
	}
	return Unknown
}

// outside returns why e is out of scope, or Unknown if it is in scope. device is what
// Device returns for its device.
func (s *Scope) outside(e *neigh.Entry, device Reason) Reason {
	switch {
	case s.Family != "" && s.Family != neigh.Family(e.Addr):
		return OtherFamily
	case device != Unknown && device != Suppressed:
		return device
	case !s.address(e.Addr):
		return OtherCIDR
	}
	return Unknown
}

// Names reports whether the scope takes in e, on link, by its family, the name of its
// device and its address. Decide may keep it for another reason.
func (s *Scope) Names(e *neigh.Entry, link *neigh.Link) bool {
	return (s.Family == "" || s.Family == neigh.Family(e.Addr)) && s.named(link.Name) && s.address(e.Addr)
}

func (s *Scope) named(name string) bool {
	match := func(glob string) bool {
		ok, _ := path.Match(glob, name) // a bad pattern is refused when flags are read
		return ok
	}
	if slices.ContainsFunc(s.ExcludeInterfaces, match) {
		return false
	}
	return len(s.Interfaces) == 0 || slices.ContainsFunc(s.Interfaces, match)
}

func (s *Scope) address(a netip.Addr) bool {
	match := func(p netip.Prefix) bool { return p.Contains(a) }
	if slices.ContainsFunc(s.ExcludeCIDRs, match) {
		return false
	}
	return len(s.CIDRs) == 0 || slices.ContainsFunc(s.CIDRs, match)
}
