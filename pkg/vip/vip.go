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
// tracker.go, suspicion.go and backoff.go are pure. watch.go is the loop over
// one VIP, repair.go what it does about trouble, hold.go what keeps an entry
// with a holder against others, and watcher.go finds the VIPs.
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
	Place(a netip.Addr) (neigh.Place, error)
}

// Sockets are the TCP connections of this network namespace.
type Sockets interface {
	// List returns those to the given remote port, in ESTABLISHED or SYN_SENT.
	List(port uint16) ([]neigh.Socket, error)
	// Get looks one up afresh.
	Get(s *neigh.Socket) (neigh.Socket, error)
	// Destroy closes one, as far as its owner can tell with ECONNABORTED.
	Destroy(s *neigh.Socket) error
}

// Changes are the kernel's notifications of changed entries.
type Changes interface {
	// Next waits for some and calls visit for each entry. An error that wraps
	// neigh.ErrOverrun means that some were missed.
	Next(ctx context.Context, visit func(*neigh.Entry)) error
	Close()
}

// Verdict is what a check of the service behind a VIP found.
type Verdict struct {
	Unknown  bool // the check could not be made
	Served   bool
	Verified bool   // the server has proved who it is
	Result   string // one word, for logs and metric labels
	Err      error
}

// Checker finds out whether the service behind an address serves.
type Checker interface {
	// Check makes a new connection. name is the one that the VIP was given by,
	// if it was.
	Check(ctx context.Context, addr netip.AddrPort, name string) Verdict
}

// Conflict says which of several holders of a VIP may be followed.
type Conflict string

// The ways to deal with a conflict. In none of them a holder is left that serves.
const (
	Verified Conflict = "verified" // follow one that serves, and proves by its certificate who it is
	Healthy  Conflict = "healthy"  // follow any that serves
	Report   Conflict = "report"   // follow none
)

// Hooks are called as things happen, from any goroutine. Nil ones are skipped.
type Hooks struct {
	Watching  func(vip netip.Addr)
	Forgotten func(vip netip.Addr) // it is not watched any more
	Happened  func(vip netip.Addr, e Event)
	Repaired  func(vip netip.Addr, c Cause, took time.Duration)
	Checked   func(vip netip.Addr, result string)
	Answered  func(rtt time.Duration)
	// Resolved follows when everybody was asked for the VIP's entry.
	Resolved func(k neigh.Key, at time.Time)
}

// Config is what a Watcher needs. Table, Solicitor, Sockets, Subscribe and Log
// are required.
type Config struct {
	Table     Table
	Solicitor shield.Solicitor
	Sockets   Sockets
	Subscribe func() (Changes, error)
	Checker   Checker // nil: the service is not checked
	// Lookup resolves a name.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)

	// Auto takes the addresses that this host has TCP connections to on Port;
	// Addrs and Names are watched beside them.
	Auto  bool
	Addrs []netip.Addr
	Names []string
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
