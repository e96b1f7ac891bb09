package kernel

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/server"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
)

// While the table cannot be read, or not be changed, /readyz says why, and
// /healthz holds, for a restart would mend nothing. It recovers by itself.
func TestUnreadyWhileTheTableFails(t *testing.T) {
	for _, tt := range []struct {
		name, kind string
		errno      unix.Errno
		says       string
	}{
		{"cannot read", dumping, unix.EIO, "dumping neighbour table: sending to netlink: input/output error"},
		{"may not read", dumping, unix.EPERM, "not permitted"},
		{"no memory to read", dumping, unix.ENOBUFS, "out of memory"},
		{"cannot delete", deleting, unix.EIO, "deleting 1 entries: sending to netlink: input/output error"},
		{"may not delete", deleting, unix.EPERM, "not permitted"},
		{"may not change", changing, unix.EPERM, "not permitted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, index := host(t)
			table := open(t, h)
			scope := &policy.Scope{}
			// Entries are due at once; one that was verified is not for a while.
			timing := policy.Timing{Interval: time.Minute, Lead: time.Minute - 30*time.Millisecond}
			s := sweep.New(sweep.Config{
				Table: table, Scope: scope, Timing: timing, ScanPeriod: 10 * time.Millisecond,
				Verifier: &sweep.InPlace{Table: table, Scope: scope, Timing: policy.NewTiming(time.Hour, time.Second)},
				Log:      slog.New(slog.DiscardHandler),
			})
			health := server.Health(func() error { return s.Live(time.Now()) }, func() error { return s.Ready(time.Now()) })
			get := func(path string) (int, string) {
				w := httptest.NewRecorder()
				health.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				return w.Code, w.Body.String()
			}
			within := func(what string, ok func() bool) {
				t.Helper()
				for start := time.Now(); !ok(); <-time.After(2 * time.Millisecond) {
					if time.Since(start) > 10*time.Second {
						_, body := get("/readyz")
						t.Fatalf("not within ten seconds: %s; /readyz says %q", what, body)
					}
				}
			}
			faulty := breakable(socketOf(table, tt.kind))
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			defer func() {
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}()
			if code, body := get("/readyz"); code != http.StatusOK && body != "the table has not been scanned yet\n" {
				t.Errorf("at start: %d %q", code, body)
			}
			within("ready", func() bool { code, _ := get("/readyz"); return code == http.StatusOK })
			fill := func() {
				h.Batch(`neigh replace 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale
neigh replace 10.0.0.51 lladdr 02:00:00:00:00:51 dev eth0 nud reachable`)
			}
			faulty.set(tt.kind, &fault{send: func() error { return tt.errno }})
			fill()
			within("unready, and why", func() bool {
				code, body := get("/readyz")
				return code == http.StatusServiceUnavailable && strings.Contains(body, tt.says)
			})
			if code, body := get("/healthz"); code != http.StatusOK {
				t.Errorf("/healthz: %d %q", code, body)
			}
			if faulty.lift() == 0 {
				t.Fatal("the fault did not strike")
			}
			within("ready again", func() bool { code, _ := get("/readyz"); return code == http.StatusOK })
			within("the idle entry is deleted", func() bool { _, ok := dump(t, open(t, h))[key("10.0.0.50", index)]; return !ok })
		})
	}
}
