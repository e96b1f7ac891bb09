package tune

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// The heap is handed back soon after much was allocated, seldom otherwise.
func TestTrim(t *testing.T) {
	tests := []struct {
		name string
		each uint64 // allocated in each trimEvery
		want []int  // after how many of them the heap is handed back
	}{
		{"nothing", 0, nil},
		{"one byte too few", trimAfter/10 - 1, []int{11}},
		{"a tenth", trimAfter/10 + 1, []int{10, 20}},
		{"just enough", trimAfter, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 20*trimEvery+time.Second)
				defer cancel()
				var got []int
				trim(ctx, func() uint64 {
					return uint64(time.Since(start)/trimEvery) * tt.each
				}, func() {
					got = append(got, int(time.Since(start)/trimEvery))
				})
				if !slices.Equal(got, tt.want) {
					t.Errorf("handed back after %v periods, want %v", got, tt.want)
				}
			})
		})
	}
}

// What is allocated is counted, or nothing would ever be handed back.
func TestAllocatedCounts(t *testing.T) {
	before := allocated()
	sink = make([]byte, trimAfter)
	if got := allocated() - before; got < trimAfter || got > 2*trimAfter {
		t.Errorf("%d bytes were counted, want %d", got, trimAfter)
	}
}

var sink []byte
