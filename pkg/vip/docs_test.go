package vip

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/markdown"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

//go:generate go test -run ^TestJudge$ -update .

var update = flag.Bool("update", false, "write the table of docs/vip.md")

// documented holds docs/vip.md to the situations that a test has shown, one row each,
// or writes them there.
func documented(t *testing.T, rows []string) {
	t.Helper()
	const file = "../../docs/vip.md"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table := "| situation | what is seen | state | reason |\n|---|---|---|---|\n" + strings.Join(rows, "")
	text, err := markdown.Splice(string(old), "verdicts", table)
	switch {
	case err != nil:
		t.Fatalf("%s: %v", file, err)
	case text == string(old):
	case *update:
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is out of date: make generate writes it", file)
	}
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
	say(e.TCP.Suspect != None, "connections: `%s`", e.TCP.Suspect)
	say(e.TCP.Wanted && !e.TCP.Progress && e.TCP.Suspect == None, "a connection is idle")
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
