// Package vip watches the control-plane addresses (VIPs) that this node depends
// on, and repairs the node's neighbour entry for one within seconds.
//
// The sweep renews every entry in its time. A VIP cannot wait for that, and it
// can fail in a way that no ARP request shows: a host that has lost it may go on
// answering for it. So a VIP is watched by what costs nobody anything: every
// interval, a unicast request to the holder that the entry names, and a look at
// the TCP connections that this host has to it anyway. Only what makes these
// suspicious costs more: a broadcast, or a request to the API server.
//
// A look at a VIP has three steps. gather.go collects what is known as one plain
// value, Evidence. judge.go turns it into a Verdict: a state and a reason. plan.go
// chooses the next action by the verdict and by what may be attempted again; it is
// carried out in act.go, and its outcome is new evidence. evidence.go, judge.go,
// plan.go, attempts.go, connections.go, holders.go and tracker.go are pure. watch.go
// connects the steps, hold.go keeps an entry with a holder against others, and
// watcher.go and discover.go find the VIPs.
package vip

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// maxVIPs bounds the VIPs that are watched, and with them the label values.
const maxVIPs = 8

// Table is the kernel's neighbour table, and its way to an address.
type Table interface {
	shield.Table
	// DeviceName names the device with an index.
	DeviceName(index int) (string, error)
	// Place returns the way to an address for a socket that is bound to the device
	// with the given index; 0 is none.
	Place(a netip.Addr, device int) (neigh.Place, error)
}

// Sockets are the TCP connections of this network namespace. Where the kernel
// does not report them, the errors wrap neigh.ErrUnsupported.
type Sockets interface {
	// List returns those to the given remote port, in ESTABLISHED or SYN_SENT.
	List(port uint16) ([]neigh.Socket, error)
	// Get looks one up afresh.
	Get(s *neigh.Socket) (neigh.Socket, error)
	// Destroy closes one: its owner sees ECONNABORTED.
	Destroy(s *neigh.Socket) error
}

// Changes are the kernel's notifications of changed entries.
type Changes interface {
	// Next waits for some and calls visit for each entry. An error that wraps
	// neigh.ErrOverrun means that some were missed.
	Next(ctx context.Context, visit func(*neigh.Entry)) error
	Close()
}

// Attempts are the kernel's notifications of TCP connections that have ended.
type Attempts interface {
	// Next waits for some and calls visit for each. An error that wraps
	// neigh.ErrOverrun means that some were missed.
	Next(ctx context.Context, visit func(*neigh.Socket)) error
	Close()
}

// Line asks for the VIP of one neighbour entry, and hears what others say of it.
type Line interface {
	// Ask sends one solicitation to the host with the given link-layer address, or
	// to everybody where that is zero, and hands each answer that arrives within
	// window to reply, until reply says that it is enough. The error is that of ctx if
	// it was done first; reply may be what ends it.
	Ask(ctx context.Context, lladdr neigh.LLAddr, window time.Duration, reply func(shield.Reply) (enough bool)) error
	// Heard receives when somebody has announced the address without being asked.
	Heard() <-chan struct{}
	Close() error
}

// Endpoint is a server behind a VIP.
type Endpoint struct {
	Addr   netip.AddrPort
	Name   string // that the VIP was given by; "" for none
	Device string // that connections to it are bound to; "" for none

	// Beside are hosts that answer for the address beside Holder, which the entry names,
	// on the device with the index Index. A check finds out which of them are the holder
	// itself.
	Beside []neigh.LLAddr
	Holder neigh.LLAddr
	Index  int
}

// CheckResult is what a check of the service behind a VIP found.
type CheckResult struct {
	Unknown  bool // the check could not be made
	Served   bool
	Unwell   bool   // it answered that it cannot serve (5xx)
	Verified bool   // the server has proved who it is
	Outcome  string // one word, for logs and metric labels
	Err      error
	// Same says of each of Endpoint.Beside whether it is the holder itself: whether the
	// connection of the check was acknowledged there. Nil: nothing was found out.
	Same map[neigh.LLAddr]bool
}

// Checker finds out whether the service behind an address serves.
type Checker interface {
	// Check makes a new connection.
	Check(ctx context.Context, e Endpoint) CheckResult
}

// Conflict says which of several holders of a VIP may be followed.
type Conflict string

// The ways to deal with a conflict. A holder that serves is left in none of them.
const (
	Verified Conflict = "verified" // follow one that serves, and proves by its certificate who it is
	Healthy  Conflict = "healthy"  // follow any that serves
	Report   Conflict = "report"   // follow none
)

// Hooks are called as things happen, from any goroutine. All are required. vip is what
// Target.String returns.
type Hooks struct {
	Watching  func(vip string)
	Forgotten func(vip string) // it is not watched any more
	Happened  func(vip string, e Event)
	Repaired  func(vip string, c Cause, took time.Duration)
	Checked   func(vip string, outcome string)
	Answered  func(rtt time.Duration)
	// Resolved follows when everybody was asked for the VIP's entry.
	Resolved func(k neigh.Key, at time.Time)
}

// Config is what a Watcher needs. Attempts and Checker may be nil.
type Config struct {
	Table Table
	// Dial opens a Line for the VIP of an entry. The error wraps
	// neigh.ErrPermission where CAP_NET_RAW is missing, and neigh.ErrUnsupported
	// where nobody can be asked on the device.
	Dial      func(k neigh.Key) (Line, error)
	Sockets   Sockets
	Subscribe func() (Changes, error)
	// Attempts reports TCP connections to the given ports that have ended; nil
	// where the kernel does not report them.
	Attempts func(ports []uint16) (Attempts, error)
	Checker  Checker // nil: the service is not checked
	// Lookup resolves a name.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Pace waits until another solicitation may be sent on a device.
	Pace func(ctx context.Context, device int) error

	// Auto takes the addresses that this host has opened TCP connections to on
	// Port; Given are watched beside them.
	Auto  bool
	Given []Given
	Port  uint16

	Interval   time.Duration // between two looks at a VIP
	OnConflict Conflict
	DryRun     bool // look and report, change nothing, and broadcast nothing
	Scope      *policy.Scope
	// Timing is the sweep's. What the watch claims must not grow older than the
	// sweep would have let it.
	Timing policy.Timing
	Hooks  Hooks
	Log    *slog.Logger
}

// Given is a VIP that the configuration names.
type Given struct {
	Addr netip.Addr // not valid for one that is given by name
	Name string     // a DNS name; "" for one that is given by address
	Port uint16
}

// Source says how a VIP is known.
type Source string

// The sources, which are label values as well.
const (
	FromSockets Source = "auto"
	FromAddress Source = "address"
	FromName    Source = "name"
)

// Sources lists all sources.
var Sources = [...]Source{FromSockets, FromAddress, FromName}

// Target is a VIP that is to be watched.
type Target struct {
	Addr   netip.Addr
	Port   uint16
	Source Source
	Name   string // of FromName
	Bound  int    // the device that the sockets to it are bound to; 0 for none
	Device string // the name of that device
}

// String returns the address, and behind % the device that sockets are bound to.
func (t Target) String() string {
	if t.Device == "" {
		return t.Addr.String()
	}
	return t.Addr.String() + "%" + t.Device
}

// endpoint is where the service is checked.
func (t Target) endpoint() Endpoint {
	return Endpoint{Addr: netip.AddrPortFrom(t.Addr, t.Port), Name: t.Name, Device: t.Device}
}

// place identifies what is watched: the same address by another device is
// another entry.
func (t Target) place() place { return place{t.Addr, t.Bound} }

type place struct {
	addr  netip.Addr
	bound int
}

// has reports whether a socket speaks to the target.
func (t Target) has(s *neigh.Socket) bool {
	return s.Remote.Addr() == t.Addr && s.Remote.Port() == t.Port && s.Index == t.Bound && !s.Accepted
}
