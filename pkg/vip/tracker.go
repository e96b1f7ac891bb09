package vip

import (
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// Event is something that happened to a VIP. It is the log field, the metric label and
// what tests assert.
type Event string

// The events.
const (
	Moved     Event = "moved"       // the entry names another holder than before
	Duplicate Event = "duplicate"   // several hosts answer for it
	Silent    Event = "silent"      // nobody answers for it
	Failing   Event = "failing"     // its holder answers ARP, and no check found it serving
	Recovered Event = "recovered"   // it works again
	Held      Event = "held"        // the entry is kept with one holder against others that announce themselves
	Contested Event = "contested"   // the entry could not be kept: others announce themselves too fast
	HeldHere  Event = "held_here"   // this host has the address
	NotOnLink Event = "not_on_link" // it is behind a gateway, or on no device that resolves addresses
	Pinned    Event = "pinned"      // its entry is somebody else's, who alone can correct it
)

// Events lists all events in label order.
var Events = [...]Event{Moved, Duplicate, Silent, Failing, Recovered, Held, Contested, HeldHere, NotOnLink, Pinned}

// Cause is why an entry was made to name another holder.
type Cause string

// The causes. All but Announced are repairs.
const (
	Announced Cause = "announced" // the kernel moved it, on gratuitous ARP or by its own resolution
	Stale     Cause = "stale"     // the holder it named did not answer any more, and another did
	Zombie    Cause = "zombie"    // the holder it named answered, but did not serve, and another did
	WasSilent Cause = "silent"    // nobody had answered for a while
)

// Repairs lists the causes of repairs.
var Repairs = [...]Cause{Stale, Zombie, WasSilent}

// Change is an event with what belongs to it. The zero value is none.
type Change struct {
	Event    Event
	Old, New neigh.LLAddr // of Moved; New is the one that is kept in Held, Duplicate and the like
	Cause    Cause        // of Moved
	Took     time.Duration
	Holders  []neigh.LLAddr // that answered: of Duplicate, Held and Contested
	Reason   string         // of Pinned, Failing and NotOnLink
}

// Tracker follows who holds one VIP, and since when. It is pure: observations
// go in, and each method returns the change that it makes.
type Tracker struct {
	where   Where
	holder  neigh.LLAddr   // that the entry names; the zero LLAddr: nobody
	since   time.Time      // when it began to name that one
	holders []neigh.LLAddr // that answered when everybody was last asked

	contest shield.Contest
	trouble Event     // Silent or Failing; "" if it is in none
	began   time.Time // of the trouble
	pinned  string    // why the entry is somebody else's, "" if it is not
}

// Place notes where the VIP is. reason says what is in the way, if it is Behind.
func (t *Tracker) Place(w Where, reason string) Change {
	if w == t.where {
		return Change{}
	}
	t.where = w
	if w != OnLink { // what was known is about another place
		*t = Tracker{where: w}
	}
	switch w {
	case Here:
		return Change{Event: HeldHere}
	case Behind:
		return Change{Event: NotOnLink, Reason: reason}
	}
	return Change{}
}

// Names notes the holder that the entry names, and why that changed, if it did. began is
// when the trouble that led to it was first noticed; zero is no trouble.
func (t *Tracker) Names(now time.Time, holder neigh.LLAddr, cause Cause, began time.Time) Change {
	old := t.holder
	if holder == old {
		return Change{}
	}
	t.holder, t.since = holder, now
	if old == (neigh.LLAddr{}) || holder == (neigh.LLAddr{}) {
		return Change{} // resolved for the first time, or not any more: nobody moved
	}
	c := Change{Event: Moved, Old: old, New: holder, Cause: cause}
	if !began.IsZero() {
		c.Took = now.Sub(began)
	}
	return c
}

// Answered notes who answered when everybody was asked.
func (t *Tracker) Answered(holders []neigh.LLAddr) Change {
	t.holders = slices.Clone(holders)
	if t.contest.Answered(holders) != shield.Several {
		return Change{}
	}
	return Change{Event: Duplicate, New: t.holder, Holders: t.holders}
}

// Trouble notes that the VIP is Silent or Failing, since began.
func (t *Tracker) Trouble(e Event, began time.Time, reason string) Change {
	if t.trouble == e {
		return Change{}
	}
	if t.trouble == "" {
		t.began = began
	}
	t.trouble = e
	if e == Silent {
		t.holders = nil
	}
	return Change{Event: e, Old: t.holder, Reason: reason}
}

// Works notes that the VIP works.
func (t *Tracker) Works(now time.Time) Change {
	if t.trouble == "" {
		return Change{}
	}
	t.trouble = ""
	return Change{Event: Recovered, New: t.holder, Took: now.Sub(t.began)}
}

// Pin notes that the entry is somebody else's, and why; "" is that it is not.
func (t *Tracker) Pin(reason string) Change {
	was := t.pinned
	t.pinned = reason
	if reason != "" && reason != was {
		return Change{Event: Pinned, Old: t.holder, Reason: reason}
	}
	return Change{}
}
