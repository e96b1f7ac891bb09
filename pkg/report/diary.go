package report

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
)

// DiaryLines and DiaryEarn are how many lines a Diary lets through at once, and the
// time for one more.
const (
	DiaryLines = 20
	DiaryEarn  = 10 * time.Second
)

// Diary bounds the log lines about one thing, and counts those left out. It belongs to
// one goroutine.
type Diary struct {
	limit      *rate.Limiter
	suppressed int
}

// NewDiary returns one that has logged nothing.
func NewDiary() Diary { return Diary{limit: rate.NewLimiter(rate.Every(DiaryEarn), DiaryLines)} }

// Say logs a line, unless there were too many. The next one says how many were left
// out before it.
func (d *Diary) Say(log *slog.Logger, level slog.Level, text string, args ...any) {
	if !log.Enabled(context.Background(), level) {
		return
	}
	if !d.limit.Allow() {
		d.suppressed++
		return
	}
	if d.suppressed > 0 {
		args = append(args, "suppressed", d.suppressed)
		d.suppressed = 0
	}
	log.Log(context.Background(), level, text, args...)
}
