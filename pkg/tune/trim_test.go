package tune

import (
	"runtime"
	"testing"
)

var sink []byte

// The heap is collected after much was allocated, at once or little by little, and
// not otherwise.
func TestTrim(t *testing.T) {
	var trimmer Trimmer
	collections := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	trims := func(want uint32) {
		t.Helper()
		before := collections()
		trimmer.Trim()
		if got := collections() - before; got != want {
			t.Errorf("%d collections, want %d", got, want)
		}
	}
	sink = make([]byte, trimAfter)
	trims(1)
	trims(0)
	for range 2 {
		sink = make([]byte, trimAfter/4)
		trims(0)
		sink = make([]byte, trimAfter/4)
		trims(0)
		sink = make([]byte, trimAfter/2)
		trims(1)
	}
}
