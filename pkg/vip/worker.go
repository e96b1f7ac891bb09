package vip

import "context"

// worker is a goroutine that can be stopped.
type worker struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
}

// work starts a goroutine in which run is called, once. run is to return when its
// context is done.
func work(ctx context.Context, run func(context.Context)) worker {
	ctx, cancel := context.WithCancel(ctx)
	w := worker{cancel, make(chan struct{})}
	go func() {
		defer close(w.done)
		defer cancel()
		run(ctx)
	}()
	return w
}

// stop ends it, and returns when it has ended.
func (w *worker) stop() {
	w.cancel()
	<-w.done
}

// ended reports whether it has ended.
func (w *worker) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}
