package neigh

// TableSize is how full the kernel's table of one family is. There is one for all
// network namespaces of the machine together.
type TableSize struct {
	Family  string // ipv4 or ipv6
	Entries int    // in all namespaces, those included that nobody learned
	// Thresholds are gc_thresh1 to gc_thresh3. From the second on the kernel removes
	// entries that nobody holds on to whenever it makes another; at the third it makes
	// none if that does not help (neigh_forced_gc and neigh_alloc in
	// net/core/neighbour.c).
	Thresholds [3]int
	// Full is how often it made none, since the machine was started.
	Full uint64
}
