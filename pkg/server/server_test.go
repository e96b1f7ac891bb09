package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	var live, ready error
	h := Health(func() error { return live }, func() error { return ready })
	ask := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
	for _, tt := range []struct {
		name         string
		live, ready  error
		method, path string
		code         int
		body         string
	}{
		{name: "live", method: "GET", path: "/healthz", code: 200, body: "ok\n"},
		{name: "ready", method: "GET", path: "/readyz", code: 200, body: "ok\n"},
		{name: "head", method: "HEAD", path: "/readyz", code: 200, body: "ok\n"},
		{name: "not ready, and why", ready: errors.New("dump was interrupted"), method: "GET", path: "/readyz", code: 503, body: "dump was interrupted\n"},
		{name: "not ready is live", ready: errors.New("dump was interrupted"), method: "GET", path: "/healthz", code: 200, body: "ok\n"},
		{name: "not live", live: errors.New("stuck"), method: "GET", path: "/healthz", code: 503, body: "stuck\n"},
		{name: "nothing else", method: "GET", path: "/metrics", code: 404, body: "404 page not found\n"},
		{name: "only reading", method: "POST", path: "/healthz", code: 405, body: "Method Not Allowed\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			live, ready = tt.live, tt.ready
			if code, body := ask(tt.method, tt.path); code != tt.code || body != tt.body {
				t.Errorf("%s %s: %d %q, want %d %q", tt.method, tt.path, code, body, tt.code, tt.body)
			}
		})
	}
}

// opened is a server whose addresses are listened on before it runs.
type opened struct {
	*Server
	listeners []net.Listener
}

// Addrs returns the addresses, with the ports chosen for :0.
func (o *opened) Addrs() (addrs []net.Addr) {
	for _, l := range o.listeners {
		addrs = append(addrs, l.Addr())
	}
	return addrs
}

func open(t *testing.T, s *Server) *opened {
	t.Helper()
	o := &opened{Server: s}
	ready := make(map[string][]net.Listener)
	for _, a := range s.addresses {
		l, err := listenLimited(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		o.listeners, ready[a] = append(o.listeners, l), append(ready[a], l)
	}
	var mu sync.Mutex
	s.listen = func(_ context.Context, a string) (net.Listener, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(ready[a]) == 0 {
			return nil, errors.New("listened once")
		}
		l := ready[a][0]
		ready[a] = ready[a][1:]
		return l, nil
	}
	return o
}

func listen(t *testing.T, h http.Handler, addresses ...string) *opened {
	t.Helper()
	return open(t, New("--flag", addresses, "", h, slog.New(slog.DiscardHandler)))
}

func TestServesEveryAddressUntilCancelled(t *testing.T) {
	s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }),
		"127.0.0.1:0", "[::1]:0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for _, a := range s.Addrs() {
		resp, err := http.Get("http://" + a.String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != "hello" {
			t.Errorf("%s: %q, %v", a, b, err)
		}
		_ = resp.Body.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run after cancel: %v", err)
	}
	for _, a := range s.Addrs() {
		if c, err := net.Dial("tcp", a.String()); err == nil {
			_ = c.Close()
			t.Errorf("%s still accepts", a)
		}
	}
}

// A client that never hangs up must not hold up the end of the process.
func TestStopsAlthoughARequestHangs(t *testing.T) {
	entered := make(chan struct{})
	s := listen(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}), "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-entered
	start := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(start); took > 2*shutdownTimeout {
		t.Errorf("stopping took %v", took)
	}
}

func TestLongHeadersAreRefused(t *testing.T) {
	s := listen(t, Metrics(http.NotFoundHandler()), "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
	}()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d, want 431", resp.StatusCode)
	}
}
