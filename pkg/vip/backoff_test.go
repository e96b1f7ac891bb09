package vip

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	start := time.Unix(1e9, 0)
	for range 1000 { // jitter
		var b backoff
		now := start
		if !b.due(now) {
			t.Fatal("the first attempt is not due")
		}
		for i, step := range []time.Duration{steps[0], steps[1], time.Minute, time.Minute, time.Minute} {
			b.failed(now)
			if wait := b.next.Sub(now); wait < step/2 || wait > step*3/2 {
				t.Fatalf("after %d failures: %v to wait, want about %v", i+1, wait, step)
			}
			if b.due(b.next.Add(-1)) || !b.due(b.next) {
				t.Fatal("want it due at its time and not before")
			}
			now = b.next
		}
		b.helped()
		if !b.due(start) || b.step != 0 {
			t.Fatal("an attempt that helped does not start over")
		}
	}
}

// N nodes that lose a VIP at once must not ask for it more often than N/20 times
// a second, once the first try is over.
func TestBackoffOfManyNodes(t *testing.T) {
	const nodes = 10000
	var asked [120]float64 // in each second
	for range nodes {
		var b backoff
		start := time.Unix(1e9, 0)
		for now := start; ; now = b.next {
			s := int(now.Sub(start) / time.Second)
			if s >= len(asked) {
				break
			}
			asked[s]++
			b.failed(now)
		}
	}
	for s, n := range asked {
		if s >= 10 && n > nodes/20*1.2 { // chance
			t.Errorf("%v attempts in second %d, want %d at most", n, s, nodes/20)
		}
	}
}

func TestJitter(t *testing.T) {
	var sum time.Duration
	for range 10000 {
		d := jitter(time.Minute)
		if d < 30*time.Second || d > 90*time.Second {
			t.Fatalf("jitter(1m) = %v", d)
		}
		sum += d
	}
	if mean := sum / 10000; mean < 59*time.Second || mean > 61*time.Second {
		t.Errorf("the mean is %v", mean)
	}
}

func TestBudget(t *testing.T) {
	var b budget
	now := time.Unix(1e9, 0)
	for i := range allowance {
		if !b.take(now, 1) {
			t.Fatalf("no budget for number %d of %d", i+1, allowance)
		}
	}
	steps := []struct {
		after time.Duration
		n     int
		want  bool
	}{
		{0, 1, false},
		{refill - ms, 1, false},
		{ms, 1, true},
		{0, 1, false},
		{2 * refill, 3, false},
		{refill, 3, true},
		{time.Hour, allowance + 1, false}, // it is not saved up
		{0, allowance, true},
	}
	for i, s := range steps {
		now = now.Add(s.after)
		if got := b.take(now, s.n); got != s.want {
			t.Errorf("step %d: take %d: %v, want %v", i, s.n, got, s.want)
		}
	}
}
