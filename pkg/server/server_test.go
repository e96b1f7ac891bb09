package server

import (
	"bufio"
	"cmp"
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

// fakePage is a page that says in what format it was written.
type fakePage struct{ err error }

func (p fakePage) HTML(w io.Writer) error { return p.write(w, "<p>html</p>") }

func (p fakePage) Text(w io.Writer) error { return p.write(w, "text\n") }

func (p fakePage) write(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return cmp.Or(p.err, err)
}

func TestWeb(t *testing.T) {
	var broken error
	h := Web(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "sample 1\n") }),
		func() Page { return fakePage{broken} })
	const asText, asHTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
	for _, tt := range []struct {
		name, method, path string
		accept             []string
		broken             error
		code               int
		contentType, body  string
	}{
		{name: "a browser", method: "GET", path: "/", accept: []string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, code: 200, contentType: asHTML, body: "<p>html</p>"},
		{name: "lynx", method: "GET", path: "/", accept: []string{"text/html, text/plain, text/sgml, */*;q=0.01"}, code: 200, contentType: asHTML, body: "<p>html</p>"},
		{name: "two lines", method: "GET", path: "/", accept: []string{"image/png", "text/html"}, code: 200, contentType: asHTML, body: "<p>html</p>"},
		{name: "curl", method: "GET", path: "/", accept: []string{"*/*"}, code: 200, contentType: asText, body: "text\n"},
		{name: "text", method: "GET", path: "/", accept: []string{"text/plain"}, code: 200, contentType: asText, body: "text\n"},
		{name: "says nothing", method: "GET", path: "/", code: 200, contentType: asText, body: "text\n"},
		{name: "head", method: "HEAD", path: "/", code: 200, contentType: asText, body: "text\n"},
		{name: "half a page is none", method: "GET", path: "/", broken: errors.New("secret"), code: 500, contentType: asText, body: "the page could not be written\n"},
		{name: "metrics", method: "GET", path: "/metrics", code: 200, contentType: asText, body: "sample 1\n"},
		{name: "nothing else", method: "GET", path: "/favicon.ico", code: 404, contentType: asText, body: "404 page not found\n"},
		{name: "only reading", method: "POST", path: "/", code: 405, contentType: asText, body: "Method Not Allowed\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broken = tt.broken
			r := httptest.NewRequest(tt.method, tt.path, nil)
			r.Header["Accept"] = tt.accept
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			header := w.Result().Header
			if got := header.Get("Content-Type"); w.Code != tt.code || got != tt.contentType || w.Body.String() != tt.body {
				t.Errorf("%d, %s, %q; want %d, %s, %q", w.Code, got, w.Body.String(), tt.code, tt.contentType, tt.body)
			}
			if tt.path != "/" || tt.code != 200 {
				return
			}
			for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Vary": "Accept"} {
				if got := header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if got := header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; ") || strings.Contains(got, "script-src") {
				t.Errorf("Content-Security-Policy: %q", got)
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
	s := listen(t, Web(http.NotFoundHandler(), func() Page { return fakePage{} }), "127.0.0.1:0")
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
