package tune

import (
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// trimAfter is how many bytes must have been allocated for a collection to be
	// worth it. A scrape allocates 200 KB, an agent that is left alone 80 KB in half a
	// minute.
	trimAfter = 192 << 10
	// trimEvery is the least time between two collections: many scrapers, or many
	// entries that are due at once, allocate as much every few milliseconds.
	trimEvery = 10 * time.Second
)

// Trimmer hands back what was allocated. The runtime alone lets the heap grow to
// 4 MB first, twice as much as the agent has in use.
type Trimmer struct {
	stats     runtime.MemStats
	at        time.Time // of the last collection
	allocated uint64    // bytes, by then
}

// Trim collects the heap and hands it back to the system, if the last time was a
// while ago and enough has been allocated since.
func (t *Trimmer) Trim(now time.Time) {
	if now.Sub(t.at) < trimEvery {
		return
	}
	runtime.ReadMemStats(&t.stats)
	if t.stats.TotalAlloc-t.allocated >= trimAfter {
		t.at, t.allocated = now, t.stats.TotalAlloc
		debug.FreeOSMemory()
	}
}
