package shield

import (
	"slices"
	"testing"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

func TestContest(t *testing.T) {
	host := func(n byte) neigh.LLAddr {
		a, _ := neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, n})
		return a
	}
	var c Contest
	for i, step := range []struct {
		answered []byte
		want     News
		holders  []byte
	}{
		{[]byte{1}, NoNews, nil},
		{nil, NoNews, nil},
		{[]byte{2, 1}, Several, []byte{1, 2}},
		{[]byte{1, 2}, NoNews, []byte{1, 2}}, // in another order
		{[]byte{1, 2, 3}, Several, []byte{1, 2, 3}},
		{[]byte{1}, NoNews, []byte{1, 2, 3}},
		{nil, NoNews, []byte{1, 2, 3}},
		{[]byte{3, 2, 1}, NoNews, []byte{1, 2, 3}}, // an answer may be lost
		{[]byte{1}, NoNews, []byte{1, 2, 3}},
		{[]byte{2}, NoNews, []byte{1, 2, 3}},
		{[]byte{1}, OneAgain, nil},
		{[]byte{1}, NoNews, nil},
		{[]byte{1, 2, 3}, Several, []byte{1, 2, 3}},
	} {
		var answered, holders []neigh.LLAddr
		for _, n := range step.answered {
			answered = append(answered, host(n))
		}
		for _, n := range step.holders {
			holders = append(holders, host(n))
		}
		if got := c.Answered(answered); got != step.want || !slices.Equal(c.Holders(), holders) {
			t.Errorf("step %d: %d with holders %v, want %d with %v", i, got, c.Holders(), step.want, holders)
		}
	}
}
