package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/record"
)

// wellFormed reports what is wrong with an SVG.
func wellFormed(svg string) error {
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// failovers are every case that is drawn, of which the first never ends without the agent.
func failovers() *record.Record {
	r := &record.Record{Run: "a <run>", Columns: strings.Split("case,family,agent,waited,entry,connect,udp,tcp", ",")}
	for i, c := range shown {
		without := []string{c.name, "ipv4", "without", "60", "34.9", "34.9", "34.9", "35.1"}
		if i == 0 {
			without[5] = "never"
		}
		r.Rows = append(r.Rows, without, []string{c.name, "ipv4", "with", "60", "2.9", "2.9", "2.9", "3.4"})
	}
	return r
}

// The picture has the figures of the data: the longer of both times, or that it never ended.
func TestFailover(t *testing.T) {
	svg, err := drawFailover(failovers())
	if err != nil || wellFormed(svg) != nil {
		t.Fatalf("%v, %v", err, wellFormed(svg))
	}
	for text, want := range map[string]int{">3.4 s<": len(shown), ">35.1 s<": len(shown) - 1, ">never<": 1, "a &lt;run&gt;": 1, ">2.9 s<": 0} {
		if got := strings.Count(svg, text); got != want {
			t.Errorf("%q is there %d times, want %d", text, got, want)
		}
	}
	r := failovers()
	r.Rows = r.Rows[1:]
	if _, err := drawFailover(r); err == nil {
		t.Error("a case is missing, and nothing is said")
	}
	r.Rows[0][5] = ""
	if _, err := drawFailover(r); err == nil {
		t.Error("a time is missing, and nothing is said")
	}
}

// A curve ends where there is no entry, and begins again where there is one.
func TestAges(t *testing.T) {
	r := &record.Record{Run: "a run", Columns: []string{"seconds", sides[0] + ": TCP 10.0.0.1", sides[1] + ": idle 10.0.0.2"},
		Rows: [][]string{{"0", "0", ""}, {"300", "300", "7"}, {"600", "600", ""}, {"601", "601", "0"}}}
	svg, err := drawAges(r)
	if err != nil || wellFormed(svg) != nil {
		t.Fatalf("%v, %v", err, wellFormed(svg))
	}
	for pattern, want := range map[string]int{
		`<path class="line c0" d="M[\d. ]+L[\d. ]+L[\d. ]+L[\d. ]+"/>`: 1,
		`<path class="line c1" d="M[\d. ]+M[\d. ]+"/>`:                 1,
		">300 s<": 3, "a run": 1,
	} {
		if got := len(regexp.MustCompile(pattern).FindAllString(svg, -1)); got != want {
			t.Errorf("%s is there %d times, want %d\n%s", pattern, got, want, svg)
		}
	}
	if err := undisturbed([][]string{{"0", "5", "", "", "", "", "", "", ""}, {"5", "9", "0", "", "", "", "", "", ""}}); err != nil {
		t.Error(err)
	}
	if err := undisturbed([][]string{{"0", "5", "", "", "", "", "", "", ""}, {"5", "", "0", "", "", "", "", "", ""}}); err == nil {
		t.Error("an entry that vanished goes unnoticed")
	}
	r.Rows[0][1] = "x"
	if _, err := drawAges(r); err == nil {
		t.Error("what is no number is drawn")
	}
}

// The README says in one line what was measured.
func TestReadme(t *testing.T) {
	r, err := record.Read("../../docs/pictures/failover.csv")
	if err != nil {
		t.Fatal(err)
	}
	least, most, never := map[string]float64{}, map[string]float64{}, map[string]bool{}
	for _, row := range r.Rows {
		agent := value(r, row, "agent")
		o, err := lasted(r, row)
		if err != nil {
			t.Fatal(err)
		}
		if o.never {
			never[agent] = true
			continue
		}
		most[agent] = max(most[agent], o.seconds)
		if least[agent] == 0 || o.seconds < least[agent] {
			least[agent] = o.seconds
		}
	}
	if !never["without"] || never["with"] {
		t.Errorf("never: %v", never)
	}
	want := fmt.Sprintf("| %.0f to %.0f, or not within 60 | not measured | %.0f to %.0f |", math.Round(least["without"]), math.Round(most["without"]), math.Round(least["with"]), math.Round(most["with"]))
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), want) {
		t.Errorf("README.md has no %q", want)
	}
}

// What was measured is what the documents say: no age passes the bound with the agent,
// and without it some do.
func TestMeasuredAges(t *testing.T) {
	r, err := record.Read("../../docs/pictures/ages.csv")
	if err != nil {
		t.Fatal(err)
	}
	greatest := map[string]float64{}
	for c, name := range r.Columns {
		side, _, found := strings.Cut(name, ": ")
		if !found {
			continue
		}
		ages, err := column(r, c)
		if err != nil {
			t.Fatal(err)
		}
		greatest[side] = max(greatest[side], slices.Max(ages))
	}
	if greatest[sides[0]] <= bound || greatest[sides[1]] > bound || len(greatest) != 2 {
		t.Errorf("greatest ages %v, bound %d", greatest, bound)
	}
}
