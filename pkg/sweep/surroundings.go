package sweep

import (
	"maps"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	// topologyAge bounds how old the view of devices and routes may be.
	topologyAge = 30 * time.Second

	// maxFewHops is up to how many next hops it is quicker to look at each than to
	// hash the key of an entry. Most nodes have one.
	maxFewHops = 8
)

// surroundings are the devices and routes around the table, as they were last read.
// The zero value is to be read.
type surroundings struct {
	neigh.Topology
	at      time.Time   // zero: outdated
	fewHops []neigh.Key // the next hops, nil where there are many
}

// read reads them, unless they are younger than age.
func (s *surroundings) read(t Table, now time.Time, age time.Duration) error {
	if now.Sub(s.at) < age {
		return nil
	}
	topology, err := t.Topology()
	if err != nil {
		return err
	}
	*s = surroundings{Topology: topology, at: now}
	if len(topology.NextHops) <= maxFewHops {
		s.fewHops = slices.AppendSeq([]neigh.Key{}, maps.Keys(topology.NextHops))
	}
	return nil
}

// outdated has the next scan read them again.
func (s *surroundings) outdated() { s.at = time.Time{} }

// nextHop says whether a route points at an entry, and whether a default route does.
func (s *surroundings) nextHop(k *neigh.Key) (nextHop, isDefault bool) {
	if s.fewHops != nil && !slices.Contains(s.fewHops, *k) {
		return false, false
	}
	isDefault, nextHop = s.NextHops[*k]
	return nextHop, isDefault
}
