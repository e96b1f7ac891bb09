package tune

import (
	"runtime"
	"testing"
	"time"
)

var sink []byte

// The heap is collected after much was allocated, at once or little by little, and
// not otherwise, nor again and again.
func TestTrim(t *testing.T) {
	var trimmer Trimmer
	now := time.Now()
	collections := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	trims := func(after time.Duration, want uint32) {
		t.Helper()
		now = now.Add(after)
		before := collections()
		trimmer.Trim(now)
		if got := collections() - before; got != want {
			t.Errorf("%d collections, want %d", got, want)
		}
	}
	sink = make([]byte, trimAfter)
	trims(0, 1)
	trims(trimEvery, 0)
	for range 2 {
		sink = make([]byte, trimAfter/4)
		trims(trimEvery, 0)
		sink = make([]byte, trimAfter/4)
		trims(trimEvery, 0)
		sink = make([]byte, trimAfter/2)
		trims(0, 1)
		sink = make([]byte, trimAfter)
		trims(trimEvery-1, 0)
		trims(1, 1)
	}
}
