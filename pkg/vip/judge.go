package vip

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// State says whether a VIP works, as far as is known. It is the log field, the metric
// label and what tests assert; so is Reason.
type State string

// The states.
const (
	StateUnknown   State = "unknown"     // nothing says that it works, and nothing that it does not
	StateWorks     State = "works"       // its holder is there, and serves as far as is known
	StateSuspect   State = "suspect"     // something says that it may not work
	StateSilent    State = "silent"      // nobody who serves answers for it
	StateFailing   State = "failing"     // its holder answers, and does not serve
	StateHeldHere  State = "held_here"   // this host has the address
	StateNotOnLink State = "not_on_link" // it is behind a gateway, or on no device that resolves addresses
)

// trouble reports whether a VIP in this state does not work, as far as is known.
func (s State) trouble() bool {
	return s == StateSuspect || s == StateSilent || s == StateFailing
}

// Reason is why a VIP was judged to be in a State. The zero value is none.
type Reason string

// The reasons.
const (
	// Of StateUnknown.
	NoEvidence Reason = "no_evidence" // there is no entry, or nobody can be asked, and no connection

	// Of StateWorks.
	TCPProgress  Reason = "tcp_progress"   // something was received on a connection
	Translated   Reason = "translated"     // the same, and no neighbour has the address: this host translates it
	HolderAnswer Reason = "holder_answers" // the holder answers, and no connection is suspect
	CheckServed  Reason = "check_served"   // the service answered a check
	TCPIdle      Reason = "tcp_idle"       // nobody can be asked, or there is no entry, and no connection is suspect

	// Of StateSuspect.
	Resolving         Reason = "resolving"          // the kernel is asking for it
	NoAnswer          Reason = "no_answer"          // the holder answers no unicast request
	BroadcastOnly     Reason = "broadcast_only"     // the holder answers only requests to everybody
	OthersAnswer      Reason = "others_answer"      // the holder is silent, and others answer
	AttemptUnanswered Reason = "attempt_unanswered" // an attempt to connect is not answered
	AttemptRefused    Reason = "attempt_refused"    // attempts to connect are refused, and there is no connection
	Retransmits       Reason = "retransmits"        // a connection retransmits
	RequestUnanswered Reason = "request_unanswered" // a request is not answered, or connections end with theirs unanswered
	NoConnectionLeft  Reason = "no_connection_left" // there was a connection, and there is none any more
	UnprovenHolder    Reason = "unproven_holder"    // the kernel gave the entry to another holder, and nothing was received from it yet

	// Of StateSilent, beside BroadcastOnly and OthersAnswer.
	NobodyAnswers Reason = "nobody_answers"

	// Of StateFailing.
	CheckFailed Reason = "check_failed" // a check of the service failed
	ServerError Reason = "server_error" // the server answers with 5xx

	// Of StateHeldHere and StateNotOnLink.
	OwnAddress Reason = "own_address"
	OffLink    Reason = "off_link"
)

// Verdict is what the evidence says.
type Verdict struct {
	State  State
	Reason Reason
}

const (
	// kernelPatience is how long the kernel itself waits for a silent holder before
	// it asks everybody: delay_first_probe_time (5 s), and three unicast probes a
	// second apart (neigh_timer_handler in net/core/neighbour.c).
	kernelPatience = 8 * time.Second
	// excusedFor is how long a holder is excused that answers no unicast request but has
	// served a connection: the clients of a VIP send something more often.
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
// What was received on a connection proves that the holder serves, whatever else is
// missing, unless the server says itself that it does not. An answer to a request to
// everybody proves nothing while unicast requests go unanswered: switches that suppress
// ARP answer for hosts that are gone.
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
	case e.TCP.Suspect != "":
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
	unsuspected := e.TCP.Wanted && e.TCP.Suspect == ""
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
	case e.TCP.Suspect == "" && e.TCP.Wanted && e.Entry == 0:
		return Verdict{StateWorks, TCPIdle} // nobody has sent anything
	case !asked && e.Entry == 0 && e.TCP.Suspect == "":
		return Verdict{StateUnknown, NoEvidence}
	case !asked:
		return Verdict{StateSuspect, Resolving}
	case len(e.Round.Answers) > 0:
		return Verdict{StateSuspect, OthersAnswer}
	}
	return Verdict{StateSilent, NobodyAnswers}
}
