package sweep

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Short scan periods find a few entries due at each scan. Their rounds are small,
// and do not wait for each other as if they were full: a hundred entries a second,
// of the 640 that may be asked for, make no backlog.
func TestSmallRoundsMakeNoBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		b := newBench()
		for i := range n {
			e := inDelay(fmt.Sprintf("10.0.%d.%d", i/250, i%250), 0)
			b.table.add(e)
			b.solicitor.answers[e.Addr] = []answer{{lladdr: 1, delay: ms}}
		}
		jobs := b.jobs()
		begun := time.Now()
		for i := range jobs {
			b.Verify(t.Context(), jobs[i:i+1], func(*Job, Outcome) {})
			time.Sleep(10 * ms)
		}
		b.Wait()
		if took, want := time.Since(begun), n*10*ms+2*time.Second; took > want {
			t.Errorf("it took %v, want %v at most", took, want)
		}
	})
}
