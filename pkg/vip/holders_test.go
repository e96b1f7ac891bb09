package vip

import (
	"slices"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// However many hosts answer, few are remembered.
func TestHoldersAreBounded(t *testing.T) {
	h := newHolders(time.Now())
	for n := range 5 * maxKnown {
		h.reject(mac(n))
		h.compares(time.Now(), map[neigh.LLAddr]bool{mac(n): true})
		if n := max(len(h.rivals), len(h.compared)); n > maxKnown {
			t.Fatalf("%+v", h)
		}
	}
}

// Those that may be asked by unicast are the holder before this one, and those that
// answered beside it; each once, and not the holder.
func TestCandidates(t *testing.T) {
	h := newHolders(time.Now())
	for _, n := range []int{1, 2, 3} {
		h.reject(mac(n))
	}
	h.changed(time.Now(), mac(3), mac(1))
	got := h.candidates(mac(1))
	slices.SortFunc(got, func(a, b neigh.LLAddr) int { return slices.Compare([]byte(a.String()), []byte(b.String())) })
	if want := []neigh.LLAddr{mac(2), mac(3)}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
