package pace

import (
	"context"
	"time"
)

// Sleep waits for d. It reports false if ctx was done before.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil // select takes either where both are ready
	}
}
