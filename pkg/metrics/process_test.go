package metrics

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// What the process uses shows in its metrics: a file that is opened, memory and CPU
// time that are used.
func TestProcess(t *testing.T) {
	m := New(Info{})
	m.ObserveProcess()
	gather := func() map[string]float64 {
		values := make(map[string]float64)
		for line := range strings.Lines(scrape(t, m)) {
			var name string
			var value float64
			if n, _ := fmt.Sscan(line, &name, &value); n == 2 {
				values[name] = value
			}
		}
		return values
	}
	before := gather()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	memory := make([]byte, 64<<20)
	for i := range memory { // so that it is resident
		memory[i] = byte(i)
	}
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
		memory[0]++
	}
	after := gather()
	if got := after["process_open_fds"] - before["process_open_fds"]; got != 1 {
		t.Errorf("%v files more, want 1", got)
	}
	if got := after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]; got < 50<<20 || got > 200<<20 {
		t.Errorf("%v bytes more, want about 64 MB", got)
	}
	if got := after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]; got <= 0 || got > 60 {
		t.Errorf("%v s of CPU time more", got)
	}
	if got := float64(time.Now().Unix()) - after["process_start_time_seconds"]; got < -1 || got > 60 {
		t.Errorf("started %v s ago", got)
	}
	if after["go_goroutines"] < 1 {
		t.Errorf("%v goroutines", after["go_goroutines"])
	}
}
