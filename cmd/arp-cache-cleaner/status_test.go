package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// A VIP moves in silence. The status page says who holds it now, since when, and
// what the agent did: to a browser, and to whoever has nothing but the agent.
func TestStatus(t *testing.T) {
	t.Parallel()
	c := &lab.FailoverCases[0]
	f := lab.NewFailover(lab.Start(t), c, false, t.TempDir())
	t.Cleanup(f.Close)
	if err := f.Talk(c); err != nil {
		t.Fatal(err)
	}
	p := start(t, f.Node, "--vip-ca-file="+f.CAFile)
	p.ready()
	if !f.Watched(10 * time.Second) {
		t.Fatal("the agent does not watch the VIP")
	}
	show := func(args ...string) string {
		t.Helper()
		ask := prepare(t, f.Node, append(args, "--listen-host=127.0.0.1")...)
		ask.launch(nil)
		if code := ask.wait(); code != 0 || ask.stderr.String() != "" {
			t.Fatalf("%q: exit code %d, %s", args, code, ask.stderr.String())
		}
		return ask.stdout.String()
	}
	first := show("status")
	for _, want := range []string{"\nNo trouble is known.\n", "\nVIP 10.0.0.100\n  state                works (", " 02:00:00:00:01:01 on eth0\n", "\nLast events\n  None since the start.\n"} {
		if !strings.Contains(first, want) {
			t.Errorf("before the move there is no %q in\n%s", want, first)
		}
	}
	if r := f.Run(c, lab.RepairLimit+10*time.Second); r.Entry == lab.Never {
		t.Fatal("the VIP's entry is not repaired")
	}
	var text string
	eventually(t, "the page tells of the repair", func() bool {
		text = show("status")
		return strings.Contains(text, "  10.0.0.100  repaired in ") && strings.Contains(text, " 02:00:00:00:01:02 on eth0\n")
	})
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"arp-cache-cleaner on " + host + "\n", `\n  acting +yes \(always\)\n`, `\n  interval +300s\n`,
		`\n  holder +02:00:00:00:01:02 on eth0\n  holder since +\S+ \S+Z, for [0-9.]+s\n`,
		`\n  \S+ \S+Z  10.0.0.100  moved\n`, `\n  \S+ \S+Z  10.0.0.100  repaired in [0-9.]+s \(stale\)\n`,
		`\n  eth0 +ipv4 +\d+ +\d+s +\d+s +\d+s +\d+s\n`, `\n  health +/readyz on 127.0.0.1:10331\n`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("after the move there is no %q in\n%s", want, text)
		}
	}
	if table := show("list", "--cidr=10.0.0.100/32"); !strings.Contains(table, " verify    vip\ntotal 1: verify 1, ") {
		t.Errorf("list does not mark the VIP:\n%s", table)
	}
	request, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:10330/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "text/html")
	resp, err := client(f.Node).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	html, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(html), "<!DOCTYPE html>") || !strings.Contains(string(html), "<td>02:00:00:00:01:02 on eth0</td>") {
		t.Errorf("HTML: %v\n%s", err, html)
	}
}

// Where the agent cannot be asked, status says why.
func TestStatusCannotBeAsked(t *testing.T) {
	t.Parallel()
	answer := func(code int, body string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" || r.Header.Get("Accept") != "text/plain" {
				code = http.StatusTeapot
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}))
	}
	gone := answer(200, "")
	gone.Close()
	const guarded = "the agent at --web.listen-address=%[1]s asks for TLS or a password, by its --web.config.file, and this command has neither: look at the page with a browser\n"
	for _, tt := range []struct {
		name   string
		server *httptest.Server
		code   int
		stdout string
		stderr string
	}{
		{"it answers", answer(200, "all is well\n"), 0, "all is well\n", ""},
		{"password", answer(401, "Unauthorized\n"), 1, "", guarded},
		{"TLS", httptest.NewTLSServer(http.NotFoundHandler()), 1, "", guarded},
		{"somebody else", answer(400, "what?\n"), 1, "", "400 from %[1]s: what?\n"},
		{"nobody", gone, 1, "", "asking the agent at --web.listen-address=%[1]s: Get \"http://%[1]s/\": dial tcp %[1]s: connect: connection refused\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Cleanup(tt.server.Close)
			address := tt.server.Listener.Addr().String()
			if tt.stderr != "" {
				tt.stderr = "arp-cache-cleaner: " + fmt.Sprintf(tt.stderr, address)
			}
			var stdout, stderr bytes.Buffer
			code := runArgs(t.Context(), []string{"status", "--web.listen-address=" + address}, &stdout, &stderr)
			if code != tt.code || stdout.String() != tt.stdout || stderr.String() != tt.stderr {
				t.Errorf("exit code %d, %q, %q; want %d, %q, %q", code, stdout.String(), stderr.String(), tt.code, tt.stdout, tt.stderr)
			}
		})
	}
}
