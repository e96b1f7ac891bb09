package vip

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/markdown"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

//go:generate go test -run ^TestJudge$ -update .

var update = flag.Bool("update", false, "write the tables of docs/vip.md")

// documented holds the tables of docs/vip.md to what a test has shown, or writes them
// there.
func documented(t *testing.T, tables map[string]string) {
	t.Helper()
	const file = "../../docs/vip.md"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(old)
	for section, table := range tables {
		if text, err = markdown.Splice(text, section, table); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	switch {
	case text == string(old):
	case *update:
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is out of date: make generate writes it", file)
	}
}

// reasonsInWords says what each reason means to those who read the log, the metric
// vip_state or the status page.
var reasonsInWords = map[Reason]string{
	NoEvidence:        "there is no connection to the VIP, and no entry for it, or nobody who could be asked",
	TCPProgress:       "a connection has received data",
	Translated:        "a connection has received data, and no neighbour has the address: this node translates it to another one (NAT)",
	HolderAnswer:      "the holder answers ARP or ND, and no connection looks wrong",
	CheckServed:       "a check was served just now",
	TCPIdle:           "there are connections, none of which looks wrong, but no holder that answers requests: it filters them, it cannot be asked, or there is no entry",
	Resolving:         "the kernel is asking who has the address",
	NoAnswer:          "the holder has not answered three requests",
	BroadcastOnly:     "the holder answers broadcasts, and no unicast requests: a switch or a proxy may be answering for it",
	OthersAnswer:      "the holder does not answer, and other hosts do; `silent`: none of them has shown that it serves",
	AttemptUnanswered: "an attempt to connect to the VIP is not answered",
	AttemptRefused:    "attempts to connect to the VIP are refused, and there is no other connection",
	Retransmits:       "what was sent on a connection is not acknowledged",
	RequestUnanswered: "a request on a connection has had no answer for 3 s, or connections end unanswered one after the other",
	NoConnectionLeft:  "there were connections to the VIP, and now there are none",
	UnprovenHolder:    "the kernel has moved the entry to another host, which has not shown yet that it serves",
	NobodyAnswers:     "nobody answers a broadcast",
	CheckFailed:       "the holder answers ARP or ND, and the last check of its service failed",
	ServerError:       "the API server says itself that it does not work: it answers a check with 5xx",
	OwnAddress:        "this node has the VIP",
	OffLink:           "the VIP is behind a gateway, or on a device that resolves no addresses",
}

// reasonRows has a row for every reason, with the states that a test has shown it in.
func reasonRows(t *testing.T, states map[Reason][]State) string {
	t.Helper()
	var b strings.Builder
	order := declared[State](t)
	for _, r := range declared[Reason](t) {
		if reasonsInWords[r] == "" || len(states[r]) == 0 {
			t.Errorf("docs/vip.md: nothing says what the reason %s means, or no situation has it", r)
		}
		var names []string
		for _, s := range order {
			if slices.Contains(states[r], s) {
				names = append(names, "`"+string(s)+"`")
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r, strings.Join(names, ", "), reasonsInWords[r])
	}
	return b.String()
}

// declared returns the constants of a type of this package, in the order of the source.
func declared[T ~string](t *testing.T) (all []T) {
	t.Helper()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			if is, ok := spec.Type.(*ast.Ident); ok && is.Name == reflect.TypeFor[T]().Name() {
				value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, T(value))
			}
			return true
		})
	}
	return all
}

// Every state, reason and event has a name of its own, and all events are listed.
func TestNamesAreDistinct(t *testing.T) {
	states, reasons, events := declared[State](t), declared[Reason](t), declared[Event](t)
	if distinct(states) < 7 || distinct(reasons) < 21 || distinct(events) < 10 || !slices.Equal(events, Events[:]) {
		t.Errorf("the names of the states %q, the reasons %q and the events %q", states, reasons, events)
	}
}

// distinct returns how many names there are, or 0 if two are the same or one is empty.
func distinct[T ~string](names []T) int {
	seen := make(map[T]bool)
	for _, n := range names {
		if seen[n] || n == "" {
			return 0
		}
		seen[n] = true
	}
	return len(names)
}

// documentedRow is a row of that table.
func documentedRow(name string, e *Evidence, v Verdict) string {
	return fmt.Sprintf("| %s | %s | `%s` | `%s` |\n", name, strings.Join(seen(e), "; "), v.State, v.Reason)
}

// seen puts evidence into words. What is as usual is left out.
func seen(e *Evidence) (words []string) {
	say := func(is bool, format string, args ...any) {
		if is {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	say(e.Where == Here, "the address is one of this node's")
	say(e.Where == Behind, "the route leads through a gateway")
	if e.Where != OnLink {
		return words
	}
	say(e.HandsOff, "dry run")
	say(e.Unicast == NotAsked && e.Entry == neigh.None, "there is no entry")
	say(e.Unicast == NotAsked && e.Entry == neigh.Incomplete || e.Entry == neigh.Failed, "the entry is %s", e.Entry)
	say(e.Unicast == Answered, "unicast is answered")
	say(e.Unicast == Unanswered && e.Silence == 0, "unicast is not answered")
	say(e.Unicast == Unanswered && e.Silence > 0, "unicast is not answered, nothing heard for %s", inWords(e.Silence))
	say(e.Unicast == CannotAsk, "the holder cannot be asked")
	say(e.Deaf, "a connection was served while unicast was not answered")
	words = append(words, seenOfRound(e)...)
	say(e.TCP.Progress, "a connection receives data")
	say(e.TCP.Suspect != "", "connections: `%s`", e.TCP.Suspect)
	say(e.TCP.Wanted && !e.TCP.Progress && e.TCP.Suspect == "", "a connection is idle")
	say(e.Unproven > 0, "the kernel moved the entry %s ago", inWords(e.Unproven))
	say(e.Rival, "the new holder is known as a rival")
	say(e.Check.Served, "a check was served %s", map[bool]string{true: "just now", false: "in the look before"}[!e.Check.At.Before(e.Began)])
	say(e.Check.failed(), "a check found: %s", e.Check.Outcome)
	say(!e.Provable && (e.Round.heard(e.Holder) && !e.Check.Served && !e.Check.failed() || e.Unproven > 0), "nothing can be checked")
	return words
}

// seenOfRound says who answered the broadcast, if there was one.
func seenOfRound(e *Evidence) []string {
	switch {
	case e.Round.At.IsZero():
		return nil
	case e.Round.heard(e.Holder):
		return []string{"the holder answers a broadcast"}
	case len(e.Round.Answers) > 0:
		return []string{"another host answers a broadcast"}
	}
	return []string{"nobody answers a broadcast"}
}

// inWords is a time in the table.
func inWords(d time.Duration) string {
	return strings.TrimSuffix(strings.TrimSuffix(d.String(), "0s"), "0m")
}
