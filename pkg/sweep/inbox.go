package sweep

import (
	"sync"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// inbox keeps what other goroutines report until that of the sweep records it: the
// clocks are its own. The zero value is empty.
type inbox struct {
	mu       sync.Mutex
	outcomes []outcome
	renewed  map[neigh.Key]time.Time // by their owner
}

// outcome is what came of a verification, and when.
type outcome struct {
	Outcome
	job Job
	at  time.Time
}

func (b *inbox) addOutcome(o outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes = append(b.outcomes, o)
}

func (b *inbox) addRenewed(k neigh.Key, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.renewed == nil {
		b.renewed = make(map[neigh.Key]time.Time)
	}
	b.renewed[k] = at
}

func (b *inbox) takeOutcomes() (all []outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, b.outcomes = b.outcomes, nil
	return all
}

func (b *inbox) takeRenewed() (all map[neigh.Key]time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, b.renewed = b.renewed, nil
	return all
}
