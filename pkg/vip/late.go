package vip

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// maxUndone is how often the entry is put back after one round: a host answers it once.
const maxUndone = 4

// kept is the holder that was there in a round, and has kept the entry. The zero value
// is none.
type kept struct {
	lladdr neigh.LLAddr
	until  time.Time // answers to the round may come
	undone int
}

// undoLate gives the entry back to the holder that has kept it in the last round where
// the answer of another host to that round has come late and has moved it, as
// shield.Late does. It reports whether the VIP is to be looked at now: the holder may
// have gone since.
func (v *watch) undoLate() bool {
	k := &v.kept
	if k.lladdr == (neigh.LLAddr{}) || time.Now().After(k.until) || k.undone == maxUndone {
		return false
	}
	entry, err := v.reread()
	if err != nil || !shield.Answered(&entry, k.lladdr) {
		return false
	}
	k.undone++
	if !v.give(k.lladdr) {
		return false
	}
	v.happened(v.tracker.Answered([]neigh.LLAddr{k.lladdr, entry.LLAddr}))
	return k.undone == 1
}
