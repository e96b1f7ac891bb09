package sweep

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Short scan periods find a few entries due at each scan. As long as they are fewer
// than may be asked for, they make no backlog.
func TestFewAtATimeMakeNoBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		b := newBench()
		b.Pacer.Set(eth0, 110)
		for i := range n {
			e := inDelay(fmt.Sprintf("10.0.%d.%d", i/250, i%250), 0)
			b.table.add(e)
			b.solicitor.answers[e.Addr] = []answer{{lladdr: 1, delay: ms}}
		}
		jobs := b.jobs()
		begun, ended := time.Now(), atomic.Int64{}
		for i := range jobs {
			b.Verify(t.Context(), jobs[i:i+1], func(*Job, Outcome) { ended.Store(int64(time.Since(begun))) })
			time.Sleep(10 * ms)
		}
		b.Wait()
		if took, want := time.Duration(ended.Load()), n*10*ms+time.Second; took > want {
			t.Errorf("it took %v, want %v at most", took, want)
		}
	})
}
