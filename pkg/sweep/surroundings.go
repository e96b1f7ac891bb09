package sweep

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// topologyAge bounds how old the view of devices and routes may be.
const topologyAge = 30 * time.Second

// surroundings are the devices and routes around the table, as they were last read.
// The zero value has to be read first.
type surroundings struct {
	neigh.Topology
	at time.Time // zero: the next scan reads them again
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
