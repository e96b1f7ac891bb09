// Package report sums up what a scan of the neighbour table saw. It is what the
// sweep hands to whoever shows it: bounded in size, whatever the table holds.
package report

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// Other is the device name under which everything that is no uplink is
// counted, so that thousands of pod devices make no series.
const Other = "other"

// maxDevices bounds the devices that are named. A machine that makes a bridge
// for each of its jobs has uplinks without end.
const maxDevices = 32

// MaxNextHops bounds the next hops that are reported one by one. A node in a
// BGP full mesh has one for every other node.
const MaxNextHops = 32

// Report is what one scan saw. It is never changed once published.
type Report struct {
	At      time.Time
	Devices []Device
	Kept    [policy.NumReasons]int // entries with the verdict Keep, by reason
	Overdue int                    // learned entries with an age above the interval
	Entries []Entry                // next hops, and as many others as were asked for
}

// Device sums up the entries of one uplink, or of all other devices.
type Device struct {
	Name     string
	LLAddr   string    // of an uplink; "" where there is none
	Families [2]Family // ipv4, ipv6
	// Contested counts the entries for which several holders answered when they
	// were last asked for.
	Contested int
	// NextHops counts the next hops of routes by state, in the order of Family.States.
	NextHops [len(neigh.States) + 1]int
}

// Family sums up the entries of one address family.
type Family struct {
	States  [len(neigh.States) + 1]int // in the order of neigh.States; the last is for unknown ones
	Learned int                        // entries that Oldest is about
	Oldest  neigh.Ages                 // of learned entries, at the time of the scan
}

// FamilyNames names the elements of Device.Families.
var FamilyNames = [...]string{"ipv4", "ipv6"}

// StateName names the element i of Family.States.
func StateName(i int) string {
	if i < len(neigh.States) {
		return neigh.States[i].String()
	}
	return "unknown"
}

// Entry holds the ages of one entry at the time of the scan.
type Entry struct {
	Device string // its own name, uplink or not
	Addr   netip.Addr
	Ages   neigh.Ages
	// NextHop: a route's next hop has this address.
	NextHop bool

	key       neigh.Key
	isDefault bool
}

// Builder builds a Report while a scan runs.
type Builder struct {
	report   Report
	perEntry int
	index    int // device of the entry last seen: dumps come in runs
	device   int // its place in report.Devices
	hops     []Entry
	others   []Entry // sorted by key
}

// NewBuilder starts the report of a scan at now. It reports perEntry entries one
// by one, beside next hops.
func NewBuilder(now time.Time, perEntry int) *Builder {
	return &Builder{report: Report{At: now}, perEntry: perEntry}
}

// Add counts an entry. ages is nil for one that is not the agent's business.
func (r *Builder) Add(e *neigh.Entry, link *neigh.Link, verdict policy.Verdict, ages *neigh.Ages, nextHop, isDefault bool) {
	if e.Index != r.index || len(r.report.Devices) == 0 {
		r.index, r.device = e.Index, r.find(link)
	}
	d := &r.report.Devices[r.device]
	f := &d.Families[0]
	if !e.Addr.Is4() {
		f = &d.Families[1]
	}
	f.States[stateIndex(e.State)]++
	if nextHop {
		d.NextHops[stateIndex(e.State)]++
	}
	if verdict.Action == policy.Keep {
		r.report.Kept[verdict.Reason]++
	}
	if ages == nil {
		return
	}
	f.Learned++
	for c, age := range ages {
		f.Oldest[c] = max(f.Oldest[c], age)
	}
	if !nextHop && r.perEntry == 0 {
		return
	}
	entry := Entry{Device: link.Name, Addr: e.Addr, Ages: *ages, NextHop: nextHop, key: e.Key, isDefault: isDefault}
	if nextHop {
		r.hops = append(r.hops, entry)
	} else {
		r.keep(entry)
	}
}

// AddContested counts an entry on link that several holders answer for.
func (r *Builder) AddContested(link *neigh.Link) {
	r.report.Devices[r.find(link)].Contested++
}

// AddOverdue counts a learned entry with an age above the interval.
func (r *Builder) AddOverdue() { r.report.Overdue++ }

// keep holds on to the perEntry entries with the lowest keys: a choice that
// stays the same from scan to scan, so that series do not come and go.
func (r *Builder) keep(e Entry) {
	i, found := slices.BinarySearchFunc(r.others, e, compareKeys)
	if found || i == r.perEntry {
		return
	}
	if len(r.others) == r.perEntry {
		r.others = r.others[:r.perEntry-1]
	}
	r.others = slices.Insert(r.others, i, e)
}

func compareKeys(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.key.Index, b.key.Index), a.key.Addr.Compare(b.key.Addr))
}

func (r *Builder) find(link *neigh.Link) int {
	name := DeviceName(link)
	i := slices.IndexFunc(r.report.Devices, func(d Device) bool { return d.Name == name })
	if i < 0 && name != Other && len(r.report.Devices) >= maxDevices {
		return r.find(&neigh.Link{})
	}
	if i < 0 {
		i = len(r.report.Devices)
		d := Device{Name: name}
		if name != Other {
			d.LLAddr = link.LLAddr.String()
		}
		r.report.Devices = append(r.report.Devices, d)
	}
	return i
}

// Finish returns the report.
func (r *Builder) Finish() *Report {
	slices.SortFunc(r.hops, func(a, b Entry) int {
		switch {
		case a.isDefault && !b.isDefault:
			return -1
		case b.isDefault && !a.isDefault:
			return 1
		}
		return compareKeys(a, b)
	})
	r.hops = slices.CompactFunc(r.hops, func(a, b Entry) bool { return a.key == b.key })
	r.report.Entries = slices.Concat(r.hops[:min(len(r.hops), MaxNextHops)], r.others)
	return &r.report
}

// DeviceName is the name under which what happens on link is counted.
func DeviceName(link *neigh.Link) string {
	if link.Uplink {
		return link.Name
	}
	return Other
}

// stateIndex is the place of s in Family.States.
func stateIndex(s neigh.State) int {
	if i := slices.Index(neigh.States[:], s); i >= 0 {
		return i
	}
	return len(neigh.States)
}
