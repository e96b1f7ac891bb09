package sweep

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// spare is the factor by which the pace of an uplink exceeds what its entries need,
// where they need more than the usual pace: some are asked for more than once.
const spare = 1.2

// load is what an uplink has to carry: the entries on it that are to be verified.
type load struct {
	// Counted by the scan that is going on.
	inUse int
	due   int
	soon  [256]int // not due yet, by how many parts of a quarter of the lead they have left

	// Of the last complete scan.
	usual float64       // how many it finds due if they are evenly spread
	early time.Duration // how much sooner entries are due, because later they would be too many
	need  float64       // solicitations a second, so that entries are renewed in time
	since time.Time     // when that began to be more than usual; zero: it is not
	rate  float64       // solicitations a second
	said  bool          // that more than usual are needed
}

// count takes in an entry that is due in left, and reports whether that is now.
func (l *load) count(left time.Duration, t *policy.Timing) bool {
	l.inUse++
	if left <= 0 {
		l.due++
		return true
	}
	if part := int(left / part(t)); part < len(l.soon) {
		l.soon[part]++
	}
	return left <= l.early
}

// plan draws the conclusions of a complete scan.
func (l *load) plan(now time.Time, t *policy.Timing, period time.Duration) {
	l.usual = float64(l.inUse) * period.Seconds() / t.Threshold().Seconds()
	l.need = max(pace.PerSecond, spare*float64(l.inUse)/t.Threshold().Seconds())
	// What is overdue at a start is no reason to hurry: so many are not due again for
	// most of an interval.
	if l.rate = l.need; l.need <= pace.PerSecond {
		l.since = time.Time{}
	} else if l.since.IsZero() {
		l.since = now
	}
	if now.Sub(l.since) < t.Interval/3 {
		l.rate = pace.PerSecond
	}
	l.early = 0
	sum := l.due
	for i, n := range l.soon {
		sum += n
		by := part(t) * time.Duration(i+1)
		// Of what the lead holds, one part is for those that are due as theirs begins,
		// and one for those that are late by then.
		if float64(sum) > l.rate*(by+part(t)).Seconds() {
			l.early = by
		}
	}
}

// part is the unit in which a load is planned.
func part(t *policy.Timing) time.Duration { return t.Lead / 4 }

// crowded reports whether much more is due than usual: after a start or a
// suspension, or because many entries were made at the same time.
func (l *load) crowded() bool { return float64(l.due) > 2*l.usual+2 }

// round is how long it takes, at least, to ask for each entry once.
func (l *load) round() time.Duration {
	return time.Duration(float64(l.inUse) / l.rate * float64(time.Second))
}

// beginLoads starts to count again.
func (s *Sweeper) beginLoads() {
	for _, l := range s.loads {
		l.inUse, l.due, l.soon = 0, 0, [len(l.soon)]int{}
	}
}

// loadOf returns the load of an uplink.
func (s *Sweeper) loadOf(link *neigh.Link) *load {
	l := s.loads[link.Index]
	if l == nil {
		l = &load{rate: pace.PerSecond}
		s.loads[link.Index] = l
	}
	return l
}

// endLoads follows a complete scan.
func (s *Sweeper) endLoads() {
	for device, l := range s.loads {
		if l.inUse == 0 { // devices come and go
			delete(s.loads, device)
			s.setPace(device, 0)
			continue
		}
		l.plan(time.Now(), &s.cfg.Timing, s.cfg.ScanPeriod)
		s.found.soon = s.found.soon || l.early > 0
		s.setPace(device, l.rate)
		if l.need > pace.PerSecond && !l.said {
			l.said = true
			s.cfg.Log.Info("so many entries are in use that more solicitations are sent than usual",
				"device", s.around.Links[device].Name, "entries", l.inUse, "a_second", math.Ceil(l.need), "usual", pace.PerSecond)
		}
	}
}

func (s *Sweeper) setPace(device int, perSecond float64) {
	if s.cfg.Pace != nil {
		s.cfg.Pace(device, perSecond)
	}
}

// ration leaves out of jobs, which it changes, what cannot be asked for before the
// next scan but one. That stays in the table, where the next scan sees it afresh.
func (s *Sweeper) ration(jobs []Job) []Job {
	room := make(map[int]float64, len(s.loads))
	for device, l := range s.loads {
		room[device] = pace.PerSecond + 2*l.rate*s.cfg.ScanPeriod.Seconds()
	}
	for k := range s.inFlight {
		room[k.Index]--
	}
	// The most urgent ones go first: where the load is too much, none waits for ever.
	slices.SortStableFunc(jobs, func(a, b Job) int { return cmp.Compare(a.left, b.left) })
	kept := jobs[:0]
	for _, j := range jobs {
		if j.Link.Uplink {
			if room[j.Link.Index]--; room[j.Link.Index] < 0 {
				continue
			}
			j.crowd = s.loads[j.Link.Index].crowded()
		}
		kept = append(kept, j)
	}
	return kept
}

// putApart gives an entry that was asked for together with many others, or that a
// start held back, a time of its own to be due again: within the interval, and not
// before the others have had their turn. From then on it keeps its distance. What
// this costs in solicitations always fits the pace: the fuller an uplink is, the less
// its entries are put apart.
func (s *Sweeper) putApart(k *clock, j *Job) {
	if l := s.loads[j.Link.Index]; k != nil && l != nil && (j.crowd || k.heldUntil > 0) {
		k.dueEarly, k.heldUntil = time.Duration(s.random()*float64(max(0, s.cfg.Timing.Threshold()-l.round()))), 0
	}
}
