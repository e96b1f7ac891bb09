package vip

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// unprovableFor is how long no other holder is tried after a check could not be made,
// or a hold had to be given up.
const unprovableFor = time.Minute

// compareEvery is how often hosts that answer beside the holder are compared with it: a
// link-layer address may move to another host, as that of VRRP does.
const compareEvery = 10 * time.Minute

// maxCompared is how many are compared: no host has more link-layer addresses on a
// segment, and it may take a moment for each.
const maxCompared = 4

// slack is how much longer than the interval it may take from one look to the next.
const slack = 2 * time.Second

// holders is what is remembered about the hosts that hold a VIP, or answer for it.
// It is pure.
type holders struct {
	heard   time.Time // when the holder was heard last
	unheard time.Time // since when it answers no unicast request; zero: it does
	asked   time.Time // when it was asked last
	deaf    bool      // it answers none, and serves connections

	unproven   time.Time    // when the kernel gave the entry to the holder, which has not shown since that it serves; zero: it has
	rival      bool         // and it was known before
	unprovable time.Time    // when the last check could not be made; zero: it could
	contested  time.Time    // when a hold had to be given up
	previous   neigh.LLAddr // the holder before this one

	rivals   map[neigh.LLAddr]rival // hosts that answer beside the holder, or did not prove themselves
	claimant neigh.LLAddr           // a rival that has taken the entry anew, against a hold, since the holder was heard; zero: none
	compared map[neigh.LLAddr]comparison
}

// rival is what is remembered of a host that may be tried in place of the holder.
type rival struct {
	quiet  int  // rounds that it has not answered
	failed bool // it was found not to serve
}

// comparison is what was found out about a host that answers beside the holder.
type comparison struct {
	at   time.Time
	same bool // it is the holder itself, by another link-layer address
}

func newHolders(now time.Time) holders {
	return holders{heard: now, asked: now, rivals: make(map[neigh.LLAddr]rival), compared: make(map[neigh.LLAddr]comparison)}
}

// known reports whether a host answers beside the holder, or did not prove itself.
func (h *holders) known(a neigh.LLAddr) bool {
	_, ok := h.rivals[a]
	return ok
}

// stranger reports whether a host that answers for the VIP does what it did not do
// before the holder fell silent: nobody knew it, or it has taken the entry anew. What a
// host did before says nothing about whether the holder is gone.
func (h *holders) stranger(a neigh.LLAddr) bool {
	return !h.known(a) || a == h.claimant
}

// answers notes that the holder answers: it has not fallen silent.
func (h *holders) answers(now time.Time) { h.heard, h.claimant = now, neigh.LLAddr{} }

// candidates returns those that are known to have answered for the VIP beside a
// holder, or before it.
func (h *holders) candidates(holder neigh.LLAddr) (all []neigh.LLAddr) {
	for a := range h.rivals {
		if a != holder && a != h.previous {
			all = append(all, a)
		}
	}
	if h.previous != holder && h.previous != (neigh.LLAddr{}) {
		all = append(all, h.previous)
	}
	return all
}

// changed notes that the entry was given from one holder to another.
func (h *holders) changed(now time.Time, from, to neigh.LLAddr) {
	h.previous = from
	clear(h.compared)
	h.answers(now)
	h.unheard, h.deaf, h.unproven, h.rival = time.Time{}, false, now, h.known(to)
}

// prove notes that the holder serves.
func (h *holders) prove(holder neigh.LLAddr) {
	h.unproven, h.rival = time.Time{}, false
	delete(h.rivals, holder)
}

// reject notes that a host does not serve.
func (h *holders) reject(a neigh.LLAddr) { h.note(a, true) }

// failed reports whether a host was found not to serve.
func (h *holders) failed(a neigh.LLAddr) bool { return h.rivals[a].failed }

func (h *holders) note(a neigh.LLAddr, failed bool) {
	if len(h.rivals) >= maxKnown {
		clear(h.rivals)
	}
	h.rivals[a] = rival{failed: failed}
}

// answered notes who answered beside the holder, which did so too.
func (h *holders) answered(r *Round, holder neigh.LLAddr) {
	for a, known := range h.rivals {
		if known.quiet++; known.quiet > shield.QuietRounds {
			delete(h.rivals, a)
		} else {
			h.rivals[a] = known
		}
	}
	for _, a := range r.others(holder) {
		h.note(a, h.failed(a))
	}
}

// looked notes that the holder was asked. Time in which this machine itself stood
// still is no silence of the holder.
func (h *holders) looked(now time.Time, interval time.Duration) {
	if lost := now.Sub(h.asked) - interval - slack; lost > 0 {
		h.heard = h.heard.Add(lost)
	}
	h.asked = now
}

// provable reports whether a holder can be made to prove that it serves, as far as is
// known.
func (h *holders) provable(now time.Time) bool {
	return now.Sub(h.unprovable) >= unprovableFor && now.Sub(h.contested) >= unprovableFor
}

// checked notes whether a check could be made.
func (h *holders) checked(now time.Time, r *CheckResult) {
	h.unprovable = time.Time{}
	if r.Unknown {
		h.unprovable = now
	}
}

// toCompare returns those of several hosts that have to be compared with the holder.
func (h *holders) toCompare(now time.Time, others []neigh.LLAddr) (due []neigh.LLAddr) {
	if len(others) > maxCompared {
		return nil
	}
	for _, a := range others {
		if c, ok := h.compared[a]; !ok || now.Sub(c.at) >= compareEvery {
			due = append(due, a)
		}
	}
	return due
}

// compares notes which hosts are the holder itself.
func (h *holders) compares(now time.Time, same map[neigh.LLAddr]bool) {
	if len(h.compared)+len(same) > maxKnown {
		clear(h.compared)
	}
	for a, is := range same {
		h.compared[a] = comparison{now, is}
	}
}

// oneHost reports whether all of several link-layer addresses are known to be those of
// the holder.
func (h *holders) oneHost(holder neigh.LLAddr, all []neigh.LLAddr) bool {
	for _, a := range all {
		if a != holder && !h.compared[a].same {
			return false
		}
	}
	return len(all) > 1
}
