package vip

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// State is what is to be thought of a VIP.
type State uint8

// The states.
const (
	StateUnknown   State = iota // nothing says that it works, and nothing that it does not
	StateWorks                  // its holder is there, and serves as far as is known
	StateSuspect                // something says that it may not
	StateSilent                 // nobody answers for it who serves
	StateFailing                // its holder answers, and does not serve
	StateHeldHere               // this host has the address
	StateNotOnLink              // it is behind a gateway, or on no device that resolves addresses

	numStates // not a state
)

var stateNames = [numStates]string{
	StateUnknown:   "unknown",
	StateWorks:     "works",
	StateSuspect:   "suspect",
	StateSilent:    "silent",
	StateFailing:   "failing",
	StateHeldHere:  "held_here",
	StateNotOnLink: "not_on_link",
}

// String returns the state as it stands in logs and labels.
func (s State) String() string {
	if s >= numStates {
		return "unknown"
	}
	return stateNames[s]
}

// Reason is why a VIP was judged so. Its name is the log field, the metric label
// and what tests assert.
type Reason uint8

// The reasons.
const (
	None Reason = iota // zero value: never a verdict's

	// Of StateUnknown.
	NoEvidence // there is no entry, or nobody can be asked, and no connection

	// Of StateWorks.
	TCPProgress  // something was received on a connection
	Translated   // the same, and no neighbour has the address: this host translates it
	HolderAnswer // the holder answers, and no connection is suspect
	CheckServed  // the service answered a check
	TCPIdle      // nobody can be asked, or there is no entry, and no connection is suspect

	// Of StateSuspect.
	Resolving         // the kernel is asking for it
	NoAnswer          // the holder answers no unicast request
	BroadcastOnly     // the holder answers requests to everybody alone
	OthersAnswer      // the holder is silent, and others answer
	AttemptUnanswered // an attempt to connect is not answered
	AttemptRefused    // attempts to connect are refused, and there is no connection
	Retransmits       // a connection retransmits
	RequestUnanswered // a request is not answered, or connections end with theirs unanswered
	NoConnectionLeft  // there was a connection, and there is none any more
	UnprovenHolder    // the kernel gave the entry to another holder, of which nothing was received yet

	// Of StateSilent, beside BroadcastOnly and OthersAnswer.
	NobodyAnswers

	// Of StateFailing.
	CheckFailed // a check of the service failed
	ServerError // the server answers with 5xx

	// Of StateHeldHere and StateNotOnLink.
	OwnAddress
	OffLink

	numReasons // not a reason
)

var reasonNames = [numReasons]string{
	None:              "none",
	NoEvidence:        "no_evidence",
	TCPProgress:       "tcp_progress",
	Translated:        "translated",
	HolderAnswer:      "holder_answers",
	CheckServed:       "check_served",
	TCPIdle:           "tcp_idle",
	Resolving:         "resolving",
	NoAnswer:          "no_answer",
	BroadcastOnly:     "broadcast_only",
	OthersAnswer:      "others_answer",
	AttemptUnanswered: "attempt_unanswered",
	AttemptRefused:    "attempt_refused",
	Retransmits:       "retransmits",
	RequestUnanswered: "request_unanswered",
	NoConnectionLeft:  "no_connection_left",
	UnprovenHolder:    "unproven_holder",
	NobodyAnswers:     "nobody_answers",
	CheckFailed:       "check_failed",
	ServerError:       "server_error",
	OwnAddress:        "own_address",
	OffLink:           "off_link",
}

// String returns the reason as it stands in logs and labels.
func (r Reason) String() string {
	if r >= numReasons {
		return "unknown"
	}
	return reasonNames[r]
}

// Verdict is what the evidence says.
type Verdict struct {
	State  State
	Reason Reason
}

// Trouble reports whether the VIP does not work, as far as is known.
func (v Verdict) Trouble() bool {
	return v.State == StateSuspect || v.State == StateSilent || v.State == StateFailing
}

const (
	// kernelPatience is how long the kernel itself waits for a silent holder before
	// it asks everybody: delay_first_probe_time (5 s), and three unicast probes a
	// second apart (neigh_timer_handler in net/core/neighbour.c).
	kernelPatience = 8 * time.Second
	// excusedFor is how long a holder is excused that answers no unicast request, and
	// served a connection all the same: the clients of a VIP say something more often.
	excusedFor = time.Minute
	// idlePatience is how long a connection on which nothing is sent makes up for a
	// silent holder: a kubelet sends something every 10 s.
	idlePatience = 15 * time.Second
	// unprovenFor is how long a holder that the kernel chose has to show by a
	// connection that it serves.
	unprovenFor = 5 * time.Second
)

// Judge says what the evidence about a VIP means.
//
// What was received on a connection proves that the holder serves, whatever else
// is missing; only a server that says itself that it does not serve is not
// believed to. An answer to a request to everybody proves nothing while unicast
// requests go unanswered: switches that suppress ARP answer for hosts that are
// gone.
func Judge(e *Evidence) Verdict {
	switch e.Where {
	case Here:
		return Verdict{StateHeldHere, OwnAddress}
	case Behind:
		return Verdict{StateNotOnLink, OffLink}
	case Somewhere:
		return Verdict{StateUnknown, NoEvidence}
	case OnLink:
	}
	unwell := e.Check.failed() && e.Check.Unwell
	switch {
	case e.TCP.Progress && !unwell && e.Holder == (neigh.LLAddr{}):
		return Verdict{StateWorks, Translated}
	case e.TCP.Progress && !unwell:
		return Verdict{StateWorks, TCPProgress}
	case e.Check.Served && !e.Check.At.Before(e.Began):
		return Verdict{StateWorks, CheckServed}
	case e.Unicast == Unanswered:
		return judgeSilence(e)
	case unwell:
		return Verdict{StateFailing, ServerError}
	case e.Check.failed():
		return Verdict{StateFailing, CheckFailed}
	case e.Unicast == NotAsked:
		return judgeAbsence(e)
	case e.TCP.Suspect != None:
		return Verdict{StateSuspect, e.TCP.Suspect}
	case e.Unicast == CannotAsk && e.TCP.Wanted:
		return Verdict{StateWorks, TCPIdle}
	case e.Unicast == CannotAsk:
		return Verdict{StateUnknown, NoEvidence}
	case e.Provable && e.Unproven > 0 && (e.Rival || e.Unproven > unprovenFor):
		return Verdict{StateSuspect, UnprovenHolder}
	}
	return Verdict{StateWorks, HolderAnswer}
}

// judgeSilence judges a VIP whose holder answers no unicast request.
func judgeSilence(e *Evidence) Verdict {
	unsuspected := e.TCP.Wanted && e.TCP.Suspect == None
	switch asked := e.Round.At.After(e.Unheard); {
	case e.Deaf && unsuspected && e.Silence < excusedFor:
		return Verdict{StateWorks, TCPIdle}
	case !asked && e.HandsOff && e.Silence >= kernelPatience: // and everybody is not asked
		return Verdict{StateSilent, NoAnswer}
	case !asked:
		return Verdict{StateSuspect, NoAnswer}
	case e.Round.heard(e.Holder) && (e.Check.failed() || !e.Provable && e.Silence >= kernelPatience):
		return Verdict{StateSilent, BroadcastOnly}
	case e.Round.heard(e.Holder):
		return Verdict{StateSuspect, BroadcastOnly}
	case len(e.Round.Answers) > 0 && e.Silence >= kernelPatience:
		return Verdict{StateSilent, OthersAnswer}
	case len(e.Round.Answers) > 0:
		return Verdict{StateSuspect, OthersAnswer}
	case unsuspected && e.Silence < idlePatience:
		return Verdict{StateSuspect, NoAnswer}
	}
	return Verdict{StateSilent, NobodyAnswers}
}

// judgeAbsence judges a VIP without a holder that could be asked.
func judgeAbsence(e *Evidence) Verdict {
	switch asked := !e.Round.At.IsZero(); {
	case e.TCP.Suspect == None && e.TCP.Wanted && e.Entry == 0:
		return Verdict{StateWorks, TCPIdle} // nobody has sent anything
	case !asked && e.Entry == 0 && e.TCP.Suspect == None:
		return Verdict{StateUnknown, NoEvidence}
	case !asked:
		return Verdict{StateSuspect, Resolving}
	case len(e.Round.Answers) > 0:
		return Verdict{StateSuspect, OthersAnswer}
	}
	return Verdict{StateSilent, NobodyAnswers}
}
