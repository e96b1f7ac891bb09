package vip

import (
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Action is what is done about a VIP next.
type Action uint8

// The actions.
const (
	Nothing        Action = iota
	AskEverybody          // one round of requests to everybody, under the shield
	CheckHolder           // check the service at the holder
	CompareHolders        // find out who of those that answer is the holder itself
	TryOther              // give the entry to another holder, and keep it there if the service answers
	FollowOther           // give the entry to another holder, which cannot be made to prove itself
	AskKnown              // ask those by unicast that are known to have answered before
	LeaveToKernel         // have the kernel verify the holder, and ask everybody if it is gone
	GiveUpHolder          // have the kernel ask everybody at once
)

// Step is an action, and the other holder that it is about.
type Step struct {
	Action Action
	Other  neigh.LLAddr
}

// rivalPatience is how long a holder must be silent before a host is tried that is no
// stranger: one that was there before, and was not the holder. vMotion and snapshots
// stop a virtual machine for 1 to 4 s.
const rivalPatience = 4500 * time.Millisecond

// means is what may be done about a VIP, and whom it is known to have.
type means struct {
	checks     bool // the service can be checked
	suppresses bool // a bridge below the device answers for others (neigh.Link)
	holders    *holders
}

// plan chooses the next step of one look, by the verdict and by what may be
// attempted again.
func plan(v Verdict, e *Evidence, a *attempts, m *means) Step {
	able := !e.HandsOff && e.Where == OnLink && e.Unicast != CannotAsk
	switch {
	case e.Where != OnLink:
		return Step{}
	case !v.State.trouble():
		return planRenewal(e, a, m, able)
	case able && !e.Round.At.Before(e.Began):
		if step := planOthers(e, a, m); step.Action != Nothing {
			return step
		}
	case able && !e.Now.Before(a.asks) && (v.Reason != Resolving || a.began.Before(e.Began)): // the kernel is given one look
		return planRound(e, m)
	}
	there := e.Unicast != Unanswered && e.Unicast != NotAsked || e.Round.heard(e.Holder)
	if m.checks && there && a.mayCheck(e.Now) && e.Check.At.Before(e.Began) {
		return Step{Action: CheckHolder}
	}
	return Step{}
}

// planRenewal decides what is done about a VIP that works.
func planRenewal(e *Evidence, a *attempts, m *means, able bool) Step {
	switch {
	case !able || m.suppresses || e.Unicast == Unanswered:
	case (e.Due || !e.Now.Before(a.renews)) && a.asked.Before(e.Began):
		return Step{Action: AskEverybody}
	case m.checks && !e.Now.Before(a.compares) && !e.Round.At.Before(e.Began) && e.Round.heard(e.Holder) && len(m.holders.toCompare(e.Now, e.Round.others(e.Holder))) > 0:
		return Step{Action: CompareHolders}
	}
	return Step{}
}

// planRound decides how it is found out who else is there.
func planRound(e *Evidence, m *means) Step {
	silent := e.Unicast == Unanswered
	switch {
	case m.suppresses && silent && e.Entry.Valid():
		return Step{Action: GiveUpHolder} // the bridge forwards broadcasts for an entry that is not valid
	case m.suppresses && e.Entry.Valid():
		return Step{Action: AskKnown}
	case silent && !e.Provable && (e.Silence < kernelPatience || e.Entry == neigh.Probe):
		return Step{} // nobody could be followed yet, or the kernel is about to find out
	}
	return Step{Action: AskEverybody}
}

// planOthers decides what is done about the hosts that answered beside the holder.
func planOthers(e *Evidence, a *attempts, m *means) Step {
	all := e.Round.others(e.Holder)
	silent := e.Unicast != Answered && !e.Round.heard(e.Holder)
	if len(all) == 0 || e.Entry == neigh.None {
		return Step{} // nobody to turn to, or no entry: the kernel makes one
	}
	if !e.Provable {
		switch {
		case !silent || e.Silence < kernelPatience:
			return Step{}
		case len(all) == 1 && m.holders.stranger(all[0]):
			return Step{FollowOther, all[0]}
		case verifiable(e.Entry):
			return Step{Action: LeaveToKernel}
		}
		return Step{}
	}
	due := slices.DeleteFunc(all, func(h neigh.LLAddr) bool { return !a.mayTry(h, e.Now) || silent && m.holders.early(e, h) })
	switch {
	case len(due) == 0:
		return Step{}
	case !silent && e.Check.At.Before(e.Began):
		return Step{Action: CheckHolder} // it is left only if it does not serve
	case !silent && !e.Check.failed():
		return Step{}
	}
	return Step{TryOther, due[0]}
}

// early reports whether it is too early to try another holder in place of a silent one.
func (h *holders) early(e *Evidence, other neigh.LLAddr) bool {
	return e.Silence < rivalPatience && !h.stranger(other)
}

// verifiable reports whether the kernel can be made to verify an entry in this
// state.
func verifiable(s neigh.State) bool {
	return s == neigh.Reachable || s == neigh.Stale || s == neigh.Delay
}
