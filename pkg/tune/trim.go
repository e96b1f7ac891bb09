package tune

import (
	"runtime"
	"runtime/debug"
)

// trimAfter is how many bytes must have been allocated for a collection to be worth
// it. A scrape allocates 200 KB, an agent that is left alone 80 KB in half a minute.
const trimAfter = 192 << 10

// Trimmer hands back what was allocated. The runtime alone lets the heap grow to
// 4 MB first, twice as much as the agent has in use.
type Trimmer struct {
	stats runtime.MemStats
	last  uint64 // had been allocated when the heap was last handed back
}

// Trim collects the heap and hands it back to the system, if enough was allocated
// since it last did.
func (t *Trimmer) Trim() {
	runtime.ReadMemStats(&t.stats)
	if t.stats.TotalAlloc-t.last >= trimAfter {
		t.last = t.stats.TotalAlloc
		debug.FreeOSMemory()
	}
}
