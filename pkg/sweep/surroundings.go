package sweep

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// topologyAge bounds how old the view of devices and routes may be.
const topologyAge = 30 * time.Second

// surroundings are the devices and routes around the table, as they were last read.
// The zero value is to be read.
type surroundings struct {
	neigh.Topology
	at time.Time // zero: outdated
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
	return nil
}

// outdated has the next scan read them again.
func (s *surroundings) outdated() { s.at = time.Time{} }

// nextHop says whether a route points at an entry, and whether a default route does.
func (s *surroundings) nextHop(k *neigh.Key) (nextHop, isDefault bool) {
	isDefault, nextHop = s.NextHops[*k]
	return nextHop, isDefault
}
