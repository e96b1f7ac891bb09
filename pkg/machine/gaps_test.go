package machine

import (
	"testing"
	"time"
)

func TestGaps(t *testing.T) {
	var now clocks
	g := newGaps(func() clocks { return now })
	for _, step := range []struct {
		name            string
		monotonic, boot time.Duration // how far each goes on
		want            time.Duration // more than before
	}{
		{"nothing happens", time.Hour, time.Hour, 0},
		{"the clocks are not read at the same time", time.Second, time.Second + 200*time.Microsecond, 0},
		{"nor the next time", time.Second + 200*time.Microsecond, time.Second, 0},
		{"suspended", 5 * time.Second, 605 * time.Second, 10 * time.Minute},
		{"suspended for a moment", 5 * time.Second, 5*time.Second + 500*time.Millisecond, 500 * time.Millisecond},
		{"nothing again", time.Second, time.Second, 0},
	} {
		before := g.total
		now.monotonic += step.monotonic
		now.boot += step.boot
		if got := g.Total() - before; got != step.want {
			t.Errorf("%s: a gap of %v, want %v", step.name, got, step.want)
		}
	}
}

func TestThisMachineRuns(t *testing.T) {
	c := readClocks()
	if c.monotonic == 0 || c.boot < c.monotonic {
		t.Errorf("got %+v", c)
	}
	if gap := NewGaps().Total(); gap != 0 {
		t.Errorf("a gap of %v between two readings", gap)
	}
}
