package vip

import (
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Where is how a VIP is reached from this host.
type Where uint8

// The places of a VIP.
const (
	Somewhere Where = iota // not looked up yet
	OnLink
	Here
	Behind // a gateway, or no device that resolves addresses
)

// Hearing is what became of unicast requests to the holder.
type Hearing uint8

// What can become of them.
const (
	NotAsked   Hearing = iota
	Answered           // it answered one of them
	Unanswered         // it answered none
	CannotAsk          // nobody can be asked: no CAP_NET_RAW, no Ethernet, the device is down
)

// Evidence is what is known about one VIP at one moment.
type Evidence struct {
	Now   time.Time
	Began time.Time // of the present look: what was learned since is fresh
	Where Where

	// Entry is the state of the neighbour entry; neigh.None where there is none.
	Entry neigh.State
	// Due: the entry is so old that it has to be renewed.
	Due bool
	// Holder is the one that the entry names, or named last. The zero LLAddr: nobody yet.
	Holder neigh.LLAddr
	// HandsOff: the entry is somebody else's, or this is a dry run. The entry is not
	// written, and nobody is asked by broadcast.
	HandsOff bool
	// Unproven is how long ago the kernel gave the entry to the holder, which has not
	// shown since that it serves; 0 where it has. Rival: it was known before as one
	// that answers beside the holder, or that did not serve.
	Unproven time.Duration
	Rival    bool

	Unicast Hearing
	Unheard time.Time // since when it is Unanswered
	// Deaf: the holder answered no unicast request, and served a connection meanwhile.
	Deaf bool
	// Silence is how long nothing was heard from the holder: no answer to it, and
	// nothing received on a connection.
	Silence time.Duration
	TCP     TCP
	Round   Round // the latest
	Check   Check // the latest of this holder
	// Provable: a holder can be made to prove that it serves.
	Provable bool
}

// TCP is what this host's connections to the VIP say.
type TCP struct {
	Wanted   bool   // there is a connection, or an attempt at one
	Progress bool   // something was received since the look before; where the holder is silent, while it was asked
	Suspect  Reason // what makes them suspect; "" if nothing does
}

// Answer is a host that answered a request to everybody.
type Answer struct {
	LLAddr neigh.LLAddr
	// Override: its answer takes precedence over one without (RFC 4861 section
	// 7.2.4). Every ARP reply has it.
	Override bool
}

// Round is one request to everybody, repeated until the holder has answered, or
// another that may be tried, or the holder has had its tries.
type Round struct {
	At      time.Time // zero: there was none since the VIP last worked
	Answers []Answer
}

// heard reports whether a host has answered.
func (r *Round) heard(h neigh.LLAddr) bool {
	return slices.ContainsFunc(r.Answers, func(a Answer) bool { return a.LLAddr == h })
}

// others returns who has answered beside a holder. Where one answers with the
// Override flag, those without it are proxies, and do not count.
func (r *Round) others(holder neigh.LLAddr) (all []neigh.LLAddr) {
	override := slices.ContainsFunc(r.Answers, func(a Answer) bool { return a.Override && a.LLAddr != holder })
	for _, a := range r.Answers {
		if a.LLAddr != holder && (a.Override || !override) {
			all = append(all, a.LLAddr)
		}
	}
	return all
}

// lladdrs returns all that have answered.
func (r *Round) lladdrs() []neigh.LLAddr {
	all := make([]neigh.LLAddr, len(r.Answers))
	for i, a := range r.Answers {
		all[i] = a.LLAddr
	}
	return all
}

// Check is the latest check of the service at the holder.
type Check struct {
	At time.Time // zero: there was none since the holder last worked
	CheckResult
}

// failed reports whether the check found that the holder does not serve.
func (c *Check) failed() bool { return !c.At.IsZero() && !c.Unknown && !c.Served }
