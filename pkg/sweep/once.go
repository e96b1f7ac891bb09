package sweep

import (
	"cmp"
	"context"
	"fmt"
	"math"
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

// count counts what came of a renewal.
func (s *Summary) count(m Method, r Result) {
	switch {
	case r == Failed:
		s.Failed++
	case r == Unanswered:
		s.Unanswered++
	case r == Undecided:
		s.Undecided++
	case r != OK:
		s.Gone++
	case m == ByDelete:
		s.Deleted++
	default:
		s.Verified++
	}
}

// Once renews everything the policy allows, whatever its age. In a dry run it
// counts what it would have done. The error says what failed first.
func (s *Sweeper) Once(ctx context.Context) (Summary, error) {
	a := actor{Sweeper: s, once: true}
	if !s.cfg.DryRun {
		a.deletes, a.verifies = math.MaxInt, math.MaxInt
	}
	err := s.scan(ctx, &a)
	if r := s.Report(); r != nil {
		for _, d := range r.Devices {
			for _, f := range d.Families {
				for _, n := range f.States {
					a.sum.Entries += n
				}
			}
		}
		a.sum.Kept = a.sum.Entries - s.found.idle - s.found.inUse
	}
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return a.sum, err
	}
	if s.cfg.DryRun {
		a.sum.Verified, a.sum.Deleted = s.found.inUse, s.found.idle
		return a.sum, nil
	}
	a.verify(ctx)
	s.cfg.Verifier.Wait()
	a.recordAll()
	return a.sum, cmp.Or(a.err, ctx.Err())
}
