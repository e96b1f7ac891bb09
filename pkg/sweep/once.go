package sweep

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Summary counts what Once did.
type Summary struct {
	Entries    int // entries in the table
	Kept       int // left alone, or being verified by the kernel already
	Deleted    int
	Verified   int
	Unanswered int // asked for, and left to the kernel because nobody answered
	Undecided  int // the same, because others answered, and not one alone each time
	Gone       int // vanished, or changed, before they were reached
	Failed     int
}

// String returns the summary in one line.
func (s Summary) String() string {
	return fmt.Sprintf("entries %d, kept %d, deleted %d, verified in place %d, unanswered %d, undecided %d, gone meanwhile %d, failed %d",
		s.Entries, s.Kept, s.Deleted, s.Verified, s.Unanswered, s.Undecided, s.Gone, s.Failed)
}

// Once renews everything the policy allows, whatever its age. In a dry run it
// counts what it would have done. The error says what failed first.
func (s *Sweeper) Once(ctx context.Context) (Summary, error) {
	var sum Summary
	tally := func(m Method, r Result) {
		switch {
		case r == Failed:
			sum.Failed++
		case r == Unanswered:
			sum.Unanswered++
		case r == Undecided:
			sum.Undecided++
		case r != OK:
			sum.Gone++
		case m == ByDelete:
			sum.Deleted++
		default:
			sum.Verified++
		}
	}
	a := actor{s: s, tally: tally}
	if !s.cfg.DryRun {
		a.deletes, a.verifies, a.forgets = math.MaxInt, math.MaxInt, true
	}
	// What is in NUD_PROBE is being renewed by the kernel already.
	err := s.scan(ctx, func(e *neigh.Entry, _ *neigh.Link, _ time.Duration) bool { return e.State != neigh.Probe }, &a)
	if r := s.report.Load(); r != nil {
		for _, d := range r.Devices {
			for _, f := range d.Families {
				for _, n := range f.States {
					sum.Entries += n
				}
			}
		}
		sum.Kept = sum.Entries - s.found.idle - s.found.inUse
	}
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return sum, err
	}
	if s.cfg.DryRun {
		sum.Verified, sum.Deleted = s.found.inUse, s.found.idle
		return sum, nil
	}
	a.verify(ctx)
	s.cfg.Verifier.Wait()
	return sum, cmp.Or(a.err, s.recordAll(tally), ctx.Err())
}
