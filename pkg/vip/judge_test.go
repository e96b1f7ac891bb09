package vip

import (
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// A case is a situation that people have met. Whoever meets another adds a line.
func TestJudge(t *testing.T) {
	now := time.Unix(1e9, 0)
	const s = time.Second
	round := func(answers ...Answer) Round { return Round{At: now.Add(-ms), Answers: answers} }
	from := func(n int) Answer { return Answer{mac(n), true} }
	failed := Check{At: now.Add(-s), CheckResult: CheckResult{Outcome: "timeout"}}
	unwell := Check{At: now.Add(-s), CheckResult: CheckResult{Outcome: "unwell", Unwell: true}}
	served := func(ago time.Duration) Check {
		return Check{At: now.Add(-ago), CheckResult: CheckResult{Outcome: "served", Served: true}}
	}
	progress := TCP{Wanted: true, Progress: true}
	idle := TCP{Wanted: true}
	suspect := func(r Reason) TCP { return TCP{Wanted: true, Suspect: r} }
	const answered, unanswered, cannot = Answered, Unanswered, CannotAsk
	tests := []struct {
		name string
		e    Evidence
		want Verdict
	}{
		{"all is well", Evidence{Unicast: answered}, Verdict{StateWorks, HolderAnswer}},
		{"a client waits too long for an answer", Evidence{Unicast: answered, TCP: suspect(RequestUnanswered)}, Verdict{StateSuspect, RequestUnanswered}},
		{"a client's packets are not acknowledged", Evidence{Unicast: answered, TCP: suspect(Retransmits)}, Verdict{StateSuspect, Retransmits}},
		{"the API server's process is gone", Evidence{Unicast: answered, TCP: suspect(NoConnectionLeft)}, Verdict{StateSuspect, NoConnectionLeft}},
		{"the agent starts while the VIP refuses connections", Evidence{Unicast: answered, TCP: suspect(AttemptRefused)}, Verdict{StateSuspect, AttemptRefused}},
		{"a client waits too long, and a check is served", Evidence{Unicast: answered, TCP: suspect(RequestUnanswered), Check: served(0)}, Verdict{StateWorks, CheckServed}},
		{"a client waits too long, and a check fails", Evidence{Unicast: answered, TCP: suspect(RequestUnanswered), Check: failed}, Verdict{StateFailing, CheckFailed}},
		{"the last check failed, and nothing has been received since", Evidence{Unicast: answered, Check: failed}, Verdict{StateFailing, CheckFailed}},
		{"the last check failed, and a client has been answered since", Evidence{Unicast: answered, TCP: progress, Check: failed}, Verdict{StateWorks, TCPProgress}},
		{"the API server answers 5xx, as it does when it is cut off from etcd", Evidence{Unicast: answered, Check: unwell}, Verdict{StateFailing, ServerError}},
		{"the API server answers 5xx, to the node's clients too", Evidence{Unicast: answered, TCP: progress, Check: unwell}, Verdict{StateFailing, ServerError}},

		{"the holder filters the node's ARP requests, and serves its clients", Evidence{Unicast: unanswered, TCP: progress}, Verdict{StateWorks, TCPProgress}},
		{"the holder filters the node's ARP requests, and its clients are idle", Evidence{Unicast: unanswered, Deaf: true, TCP: idle}, Verdict{StateWorks, TCPIdle}},
		{"the holder filters the node's ARP requests, and its clients have been idle for a minute", Evidence{Unicast: unanswered, Deaf: true, TCP: idle, Silence: excusedFor}, Verdict{StateSuspect, NoAnswer}},
		{"the holder filters the node's ARP requests, and a client is not answered", Evidence{Unicast: unanswered, Deaf: true, TCP: suspect(Retransmits)}, Verdict{StateSuspect, NoAnswer}},
		{"the holder is silent, and nobody else has been asked yet", Evidence{Unicast: unanswered}, Verdict{StateSuspect, NoAnswer}},
		{"the holder is silent, and nobody else answers", Evidence{Unicast: unanswered, Round: round()}, Verdict{StateSilent, NobodyAnswers}},
		{"nobody answers, and a connection was served a moment ago", Evidence{Unicast: unanswered, TCP: idle, Silence: 3 * s, Round: round()}, Verdict{StateSuspect, NoAnswer}},
		{"nobody answers, and the connections have been idle for long", Evidence{Unicast: unanswered, TCP: idle, Silence: 15 * s, Round: round()}, Verdict{StateSilent, NobodyAnswers}},
		{"the holder's virtual machine stands still for a moment, and a zombie answers", Evidence{Unicast: unanswered, Silence: 3 * s, Round: round(from(2))}, Verdict{StateSuspect, OthersAnswer}},
		{"the holder is gone, and none of the others serves", Evidence{Unicast: unanswered, Silence: 8 * s, Round: round(from(2))}, Verdict{StateSilent, OthersAnswer}},
		{"a switch answers broadcasts for a holder that is gone", Evidence{Unicast: unanswered, Silence: 9 * s, Provable: true, Round: round(from(1))}, Verdict{StateSuspect, BroadcastOnly}},
		{"a switch answers broadcasts for a holder that is gone, and a check finds nobody", Evidence{Unicast: unanswered, Silence: 9 * s, Provable: true, Round: round(from(1)), Check: failed}, Verdict{StateSilent, BroadcastOnly}},
		{"a switch answers broadcasts for a holder that is gone, and nothing can be checked", Evidence{Unicast: unanswered, Silence: 9 * s, Round: round(from(1))}, Verdict{StateSilent, BroadcastOnly}},
		{"a proxy answers broadcasts alone, and a check was served just now", Evidence{Unicast: unanswered, Silence: time.Hour, Round: round(from(1)), Check: served(0)}, Verdict{StateWorks, CheckServed}},
		{"a proxy answers broadcasts alone, and the last check is older than this look", Evidence{Unicast: unanswered, Silence: time.Hour, Provable: true, Round: round(from(1)), Check: served(2 * s)}, Verdict{StateSuspect, BroadcastOnly}},
		{"in a dry run the holder is silent: nobody else is asked", Evidence{Unicast: unanswered, HandsOff: true, Silence: 9 * s}, Verdict{StateSilent, NoAnswer}},

		{"the device is not Ethernet, and clients are served", Evidence{Unicast: cannot, TCP: progress}, Verdict{StateWorks, TCPProgress}},
		{"the device is not Ethernet, and clients are idle", Evidence{Unicast: cannot, TCP: idle}, Verdict{StateWorks, TCPIdle}},
		{"the device is not Ethernet, and a request is not answered", Evidence{Unicast: cannot, TCP: suspect(RequestUnanswered)}, Verdict{StateSuspect, RequestUnanswered}},
		{"the device is not Ethernet, and there is no connection", Evidence{Unicast: cannot}, Verdict{StateUnknown, NoEvidence}},

		{"this host translates the VIP, and the entry has failed", Evidence{Entry: neigh.Failed, Unicast: unanswered, TCP: progress, Round: round()}, Verdict{StateWorks, Translated}},
		{"this host translates the VIP, and there is no entry", Evidence{Entry: neigh.None, TCP: progress}, Verdict{StateWorks, Translated}},
		{"there is no entry, because nobody has sent anything", Evidence{Entry: neigh.None, TCP: idle}, Verdict{StateWorks, TCPIdle}},
		{"there is neither entry nor connection", Evidence{Entry: neigh.None}, Verdict{StateUnknown, NoEvidence}},
		{"the kernel is asking", Evidence{Entry: neigh.Incomplete}, Verdict{StateSuspect, Resolving}},
		{"the kernel is asking, and nobody answers", Evidence{Entry: neigh.Incomplete, Round: round()}, Verdict{StateSilent, NobodyAnswers}},

		{"the VIP moved by an announcement", Evidence{Unicast: answered, Provable: true, Unproven: s}, Verdict{StateWorks, HolderAnswer}},
		{"the VIP moved by an announcement, and the new holder does not answer clients", Evidence{Unicast: answered, Provable: true, Unproven: s, TCP: suspect(AttemptUnanswered)}, Verdict{StateSuspect, AttemptUnanswered}},
		{"a zombie announced itself and took the entry", Evidence{Unicast: answered, Provable: true, Unproven: s, Rival: true}, Verdict{StateSuspect, UnprovenHolder}},
		{"a zombie announced itself and took the entry, and nothing can be checked", Evidence{Unicast: answered, Unproven: s, Rival: true}, Verdict{StateWorks, HolderAnswer}},
		{"the VIP moved, and no connection of this node has shown since that it works", Evidence{Unicast: answered, Provable: true, Unproven: 6 * s}, Verdict{StateSuspect, UnprovenHolder}},

		{"this node has the VIP", Evidence{Where: Here}, Verdict{StateHeldHere, OwnAddress}},
		{"the VIP is behind a gateway", Evidence{Where: Behind}, Verdict{StateNotOnLink, OffLink}},
	}
	var rows []string // of docs/vip.md
	states := map[Reason][]State{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := tt.e
			if e.Where == Somewhere {
				e.Where = OnLink
			}
			if e.Entry == neigh.None && e.Unicast != NotAsked {
				e.Entry = neigh.Reachable
			}
			e.Now, e.Began, e.Unheard = now, now.Add(-ms), now.Add(-e.Silence-s)
			if tt.want.Reason != Translated { // then nobody ever had it
				e.Holder = mac(1)
			}
			if got := Judge(&e); got != tt.want {
				t.Errorf("%s, %s; want %s, %s", got.State, got.Reason, tt.want.State, tt.want.Reason)
			}
			rows = append(rows, documentedRow(tt.name, &e, tt.want))
			states[tt.want.Reason] = append(states[tt.want.Reason], tt.want.State)
		})
	}
	if len(rows) == len(tests) { // all were run
		documented(t, map[string]string{
			"reasons":  "| reason | state | what it means |\n|---|---|---|\n" + reasonRows(t, states),
			"verdicts": "| situation | what is seen | state | reason |\n|---|---|---|---|\n" + strings.Join(rows, ""),
		})
	}
}

// Nothing is said, and nothing done, about a VIP of which it is not known where it is.
func TestSomewhere(t *testing.T) {
	e := &Evidence{Unicast: Unanswered}
	v := Judge(e)
	if v != (Verdict{StateUnknown, NoEvidence}) {
		t.Errorf("%s, %s", v.State, v.Reason)
	}
	if step := plan(v, e, &attempts{}, &means{checks: true}); step != (Step{}) {
		t.Errorf("%+v", step)
	}
}
