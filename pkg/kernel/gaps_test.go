package kernel

import (
	"testing"
	"time"
)

func TestGaps(t *testing.T) {
	var now clocks
	g := newGaps(func() clocks { return now })
	for _, step := range []struct {
		name                  string
		monotonic, boot, wall time.Duration // how far each goes on
		want                  time.Duration // more than before
	}{
		{"nothing happens", time.Hour, time.Hour, time.Hour, 0},
		{"the clocks are not read at the same time", time.Second, time.Second + 200*time.Microsecond, time.Second, 0},
		{"suspended", 5 * time.Second, 605 * time.Second, 605 * time.Second, 10 * time.Minute},
		{"suspended, and the wall clock had been slow", 5 * time.Second, 605 * time.Second, 635 * time.Second, 630 * time.Second},
		{"suspended, and the wall clock stood", 5 * time.Second, 605 * time.Second, 5 * time.Second, 10 * time.Minute},
		{"frozen, and the wall clock set", 5 * time.Second, 5 * time.Second, 65 * time.Second, time.Minute},
		{"a correction forward", 5 * time.Second, 5 * time.Second, 6 * time.Second, 0},
		{"a correction backward", 5 * time.Second, 5 * time.Second, -time.Hour, 0},
		{"nothing again", time.Second, time.Second, time.Second, 0},
	} {
		before := g.total
		now.monotonic += step.monotonic
		now.boot += step.boot
		now.wall += step.wall
		if got := g.Total() - before; got != step.want {
			t.Errorf("%s: a gap of %v, want %v", step.name, got, step.want)
		}
	}
}

func TestThisMachineRuns(t *testing.T) {
	c := readClocks()
	if c.monotonic == 0 || c.boot < c.monotonic || c.wall == 0 {
		t.Errorf("got %+v", c)
	}
	if gap := NewGaps().Total(); gap != 0 {
		t.Errorf("a gap of %v between two readings", gap)
	}
}
