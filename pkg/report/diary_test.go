package report

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What is said too often is left out, and how much that was is said once there is room
// again. What nobody wants to read takes no room.
func TestDiary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		log := slog.New(slog.NewTextHandler(&text, nil))
		d := NewDiary()
		say := func(level slog.Level, times, want int, last string) {
			t.Helper()
			text.Reset()
			for range times {
				d.Say(log, level, "something", "a", 1)
			}
			if got := strings.Count(text.String(), "msg=something a=1"); got != want || !strings.HasSuffix(text.String(), last) {
				t.Errorf("%d lines, want %d, the last %q:\n%s", got, want, last, text.String())
			}
		}
		say(slog.LevelDebug, 100, 0, "")
		say(slog.LevelInfo, DiaryLines+7, DiaryLines, " a=1\n")
		time.Sleep(DiaryEarn)
		say(slog.LevelInfo, 3, 1, " a=1 suppressed=7\n")
		time.Sleep(2 * DiaryEarn)
		say(slog.LevelInfo, 1, 1, " suppressed=2\n")
		say(slog.LevelInfo, 1, 1, " a=1\n")
	})
}
