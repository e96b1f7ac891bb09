package apicheck

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func TestMain(m *testing.M) {
	// Who is not root is in a new namespace (lab.Enter), where this is down.
	_ = exec.Command("ip", "link", "set", "lo", "up").Run()
	lab.Main(m)
}

const (
	short = 500 * time.Millisecond // the timeout of checks that run into it
	long  = 10 * time.Second       // of those that must not
)

// newCA makes a CA that needs no lab.
func newCA(t *testing.T) *lab.CA {
	t.Helper()
	return lab.New(func(err error) { t.Fatal(err) }).CA()
}

// quiet is the log of a server, which must stay empty: what a check leaves
// there, thousands of nodes leave there.
type quiet struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (q *quiet) Write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buf.Write(b)
}

// serveHTTPS starts an HTTPS server on a loopback address. When the test ends,
// all its connections have to be gone, without a word in its log.
func serveHTTPS(t *testing.T, ip string, h http.HandlerFunc, config *tls.Config) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var logged quiet
	var open atomic.Int64
	closed := make(chan struct{}, 1)
	s := &httptest.Server{Listener: l, TLS: config, Config: &http.Server{
		Handler:  h,
		ErrorLog: log.New(&logged, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Add(-1)
				select {
				case closed <- struct{}{}:
				default:
				}
			}
		},
	}}
	s.StartTLS()
	t.Cleanup(func() {
		timer := time.NewTimer(long)
		defer timer.Stop()
		for open.Load() > 0 {
			select {
			case <-closed:
			case <-timer.C:
				t.Error("a connection stays open")
				s.CloseClientConnections()
			}
		}
		s.Close()
		if logged.buf.Len() > 0 {
			t.Errorf("log of the server: %s", &logged.buf)
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// serveTCP starts a server that handles each connection with f and then closes
// it.
func serveTCP(t *testing.T, f func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait() // each f ends when the check has closed its connection
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// afterHandshake handles TLS connections, once the request has come.
func afterHandshake(ca *lab.CA, f func(raw net.Conn, c *tls.Conn)) func(net.Conn) {
	config := &tls.Config{Certificates: []tls.Certificate{ca.Issue("127.0.0.1")}}
	return func(raw net.Conn) {
		c := tls.Server(raw, config)
		if _, err := c.Read(make([]byte, 4096)); err == nil {
			f(raw, c)
		}
	}
}

// sendReset has Close send a RST.
func sendReset(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

// swallow reads until the client closes.
func swallow(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// drip sends a beginning and then something every 20 ms for as long as it can.
func drip(c net.Conn, beginning, more string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for b := beginning; ; b = more {
		if _, err := io.WriteString(c, b); err != nil {
			return
		}
		<-tick.C
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestCheck(t *testing.T) {
	ca := newCA(t)
	file, other := ca.File(t.TempDir()), newCA(t).File(t.TempDir())
	garbage := filepath.Join(t.TempDir(), "garbage.crt")
	if err := os.WriteFile(garbage, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	https := func(h http.HandlerFunc, names ...string) func(*testing.T) netip.AddrPort {
		return func(t *testing.T) netip.AddrPort {
			return serveHTTPS(t, "127.0.0.1", h, &tls.Config{Certificates: []tls.Certificate{ca.Issue(names...)}})
		}
	}
	tcp := func(f func(net.Conn)) func(*testing.T) netip.AddrPort {
		return func(t *testing.T) netip.AddrPort { return serveTCP(t, f) }
	}
	closed := func(t *testing.T) netip.AddrPort {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().(*net.TCPAddr).AddrPort()
	}
	for _, tt := range []struct {
		name     string
		checker  Checker
		server   func(*testing.T) netip.AddrPort
		as       string // the name asked for
		want     Outcome
		verified bool
		err      string // in the error, with %s for the server's address
		unproven string // in that error
	}{
		{name: "serves", checker: Checker{CAFile: file}, server: https(status(200), "127.0.0.1"), want: Served, verified: true},
		{name: "no CA file", server: https(status(200), "127.0.0.1"), want: Served},
		{name: "401 is served", checker: Checker{CAFile: file}, server: https(status(401), "127.0.0.1"), want: Served, verified: true},
		{name: "403 is served", checker: Checker{CAFile: file}, server: https(status(403), "127.0.0.1"), want: Served, verified: true},
		{name: "499 is served", checker: Checker{CAFile: file}, server: https(status(499), "127.0.0.1"), want: Served, verified: true},
		{name: "500 is unwell", checker: Checker{CAFile: file}, server: https(status(500), "127.0.0.1"), want: Unwell, verified: true, err: "GET /livez from %s: HTTP status 500"},
		{name: "503 is unwell", server: https(status(503), "127.0.0.1"), want: Unwell, err: "HTTP status 503"},
		{name: "the name of every API server", checker: Checker{CAFile: file}, server: https(status(200), "192.0.2.1", "kubernetes.default.svc"), want: Served, verified: true},
		{name: "the name of every API server, and another asked for", checker: Checker{CAFile: file}, server: https(status(200), "kubernetes.default.svc"), as: "api.example", want: Served, verified: true},
		{name: "intermediate CA", checker: Checker{CAFile: file}, want: Served, verified: true, server: func(t *testing.T) netip.AddrPort {
			return serveHTTPS(t, "127.0.0.1", status(200), &tls.Config{Certificates: []tls.Certificate{ca.Intermediate().Issue("127.0.0.1")}})
		}},
		{name: "name although not the address", checker: Checker{CAFile: file}, server: https(status(200), "192.0.2.1", "api.example"), as: "api.example", want: Served, verified: true},
		{name: "address although not the name", checker: Checker{CAFile: file}, server: https(status(200), "127.0.0.1"), as: "api.example", want: Served, verified: true},
		{name: "another address as the name", checker: Checker{CAFile: file}, server: https(status(200), "192.0.2.1"), as: "192.0.2.1", want: Served, verified: true},
		{name: "header that fits", checker: Checker{CAFile: file}, want: Served, verified: true, server: https(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", maxResponse/2))
		}, "127.0.0.1")},
		{name: "huge header", checker: Checker{CAFile: file}, want: Reset, verified: true, err: "unexpected EOF", server: https(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 2*maxResponse))
		}, "127.0.0.1")},
		{name: "endless body", checker: Checker{CAFile: file}, want: Served, verified: true, server: https(func(w http.ResponseWriter, _ *http.Request) {
			for b := make([]byte, 1<<10); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, "127.0.0.1")},

		{name: "wrong CA", checker: Checker{CAFile: other}, server: https(status(200), "127.0.0.1"), want: TLS, err: "certificate of %s: x509: certificate signed by unknown authority"},
		{name: "wrong CA, and wrong address", checker: Checker{CAFile: other}, server: https(status(200), "192.0.2.1"), want: TLS, err: "certificate of %s: x509: certificate signed by unknown authority"},
		{name: "wrong address", checker: Checker{CAFile: file}, server: https(status(200), "192.0.2.1"), want: Served, unproven: "valid for 192.0.2.1, not 127.0.0.1"},
		{name: "wrong address and name", checker: Checker{CAFile: file}, server: https(status(200), "kubernetes"), as: "api.example", want: Served, unproven: "valid for kubernetes, not api.example"},
		{name: "wrong address, and unwell", checker: Checker{CAFile: file}, server: https(status(500), "192.0.2.1"), want: Unwell, unproven: "valid for 192.0.2.1, not 127.0.0.1"},
		{name: "wrong address, no CA file", server: https(status(200), "192.0.2.1"), want: Served},
		{name: "garbage CA file", checker: Checker{CAFile: garbage}, server: closed, want: TLS, err: garbage + " holds no PEM certificate"},
		{name: "no such CA file", checker: Checker{CAFile: garbage + "x"}, server: closed, want: TLS, err: garbage + "x: no such file"},
		{name: "plain HTTP", want: TLS, err: "does not look like a TLS handshake", server: func(t *testing.T) netip.AddrPort {
			s := httptest.NewUnstartedServer(status(200))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.Start()
			t.Cleanup(s.Close)
			return s.Listener.Addr().(*net.TCPAddr).AddrPort()
		}},
		{name: "old TLS", want: TLS, err: "protocol version", server: tcp(func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10, Certificates: []tls.Certificate{ca.Issue("127.0.0.1")}}).Handshake()
			swallow(c)
		})},
		{name: "wants a client certificate", checker: Checker{CAFile: file}, want: TLS, verified: true, err: "certificate required", server: tcp(func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{ca.Issue("127.0.0.1")}}).Handshake()
			swallow(c)
		})},

		{name: "port closed", checker: Checker{CAFile: file}, server: closed, want: Refused, err: "connection refused"},
		{name: "closes at once", server: tcp(func(net.Conn) {}), want: Reset},
		{name: "resets at once", server: tcp(sendReset), want: Reset},
		{name: "closes in the handshake", server: tcp(func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }), want: Reset, err: "TLS handshake with %s: EOF"},
		{name: "resets in the handshake", server: tcp(func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); sendReset(c) }), want: Reset, err: "connection reset"},
		{name: "closes instead of a response", checker: Checker{CAFile: file}, want: Reset, verified: true, err: "EOF", server: tcp(afterHandshake(ca, func(_ net.Conn, c *tls.Conn) { _ = c.Close() }))},
		{name: "resets instead of a response", checker: Checker{CAFile: file}, want: Reset, verified: true, err: "connection reset", server: tcp(afterHandshake(ca, func(raw net.Conn, _ *tls.Conn) { sendReset(raw) }))},
		{name: "closes in the response", want: Reset, err: "EOF", server: tcp(afterHandshake(ca, func(_ net.Conn, c *tls.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX:"); _ = c.Close() }))},
		{name: "closes in the body", want: Served, server: tcp(afterHandshake(ca, func(_ net.Conn, c *tls.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
			_ = c.Close()
		}))},
		{name: "not HTTP", want: Reset, err: "GET /livez from %s: malformed HTTP", server: tcp(afterHandshake(ca, func(_ net.Conn, c *tls.Conn) { _, _ = io.WriteString(c, "SSH-2.0-x\r\n\r\n"); swallow(c) }))},

		{name: "never answers the handshake", checker: Checker{Timeout: short}, server: tcp(swallow), want: Timeout},
		{name: "drips the handshake", checker: Checker{Timeout: short}, want: Timeout, server: tcp(func(c net.Conn) { drip(c, "\x16\x03\x03\x40\x00", "\x02") })},
		{name: "never answers the request", checker: Checker{CAFile: file, Timeout: short}, want: Timeout, verified: true, server: tcp(afterHandshake(ca, func(_ net.Conn, c *tls.Conn) { swallow(c) }))},
		{name: "drips the response", checker: Checker{CAFile: file, Timeout: short}, want: Timeout, verified: true, server: tcp(afterHandshake(ca, func(_ net.Conn, c *tls.Conn) { drip(c, "HTTP/1.1 200 OK\r\n", "X: x\r\n") }))},
		{name: "drips the body", checker: Checker{Timeout: short}, want: Served, server: tcp(afterHandshake(ca, func(_ net.Conn, c *tls.Conn) { drip(c, "HTTP/1.1 200 OK\r\n\r\n", "x") }))},

		{name: "plain", checker: Checker{Plain: true}, server: tcp(swallow), want: Served},
		{name: "plain needs no CA file", checker: Checker{Plain: true, CAFile: garbage}, server: tcp(swallow), want: Served},
		{name: "plain, port closed", checker: Checker{Plain: true}, server: closed, want: Refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.checker.Timeout == 0 {
				tt.checker.Timeout = long
			}
			addr := tt.server(t)
			r := tt.checker.Check(t.Context(), Server{Addr: addr, Name: tt.as})
			if r.Outcome != tt.want || r.Verified != tt.verified || (r.Err == nil) != (tt.want == Served) {
				t.Fatalf("%+v, want %s, verified %v", r, tt.want, tt.verified)
			}
			if says := strings.ReplaceAll(tt.err, "%s", addr.String()); says != "" && !strings.Contains(r.Err.Error(), says) {
				t.Errorf("error %q does not say %q", r.Err, says)
			}
			if says := tt.unproven; (says == "") != (r.Unproven == nil) || says != "" && !strings.Contains(r.Unproven.Error(), says) {
				t.Errorf("unproven because %v, want %q", r.Unproven, says)
			}
			if (r.Status != 0) != (r.Outcome == Unwell || r.Outcome == Served && !tt.checker.Plain) {
				t.Errorf("%s with HTTP status %d", r.Outcome, r.Status)
			}
			if r.Err != nil && !errors.Is(r.Err, ErrCAFile) && !strings.Contains(r.Err.Error(), addr.String()+": ") {
				t.Errorf("error %q does not name %s", r.Err, addr)
			}
			if is := strings.Contains(tt.name, "CA file") && tt.want == TLS; errors.Is(r.Err, ErrCAFile) != is {
				t.Errorf("error %v is ErrCAFile: %v", r.Err, !is)
			}
			if r.Took <= 0 || r.Took > tt.checker.Timeout+time.Second || tt.want == Timeout && r.Took < short/2 {
				t.Errorf("took %v", r.Took)
			}
		})
	}
	noneStays(t)
}

// noneStays waits until no goroutine is in the package's code.
func noneStays(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		stacks := make([]byte, 1<<20)
		if !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "apicheck.go") {
			return
		}
		<-tick.C
	}
	t.Error("a goroutine stays")
}

// What a check asks, of a server that also redirects and would rather speak
// HTTP/2, past a proxy that the environment names.
func TestRequest(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://192.0.2.1:1")
	ca := newCA(t)
	type request struct{ line, host, agent, sni string }
	var got []request
	conns := make(map[string]bool)
	for _, ip := range []string{"127.0.0.1", "::1"} {
		addr := serveHTTPS(t, ip, func(w http.ResponseWriter, r *http.Request) {
			got = append(got, request{r.Method + " " + r.URL.String() + " " + r.Proto, r.Host, r.UserAgent(), r.TLS.ServerName})
			conns[r.RemoteAddr] = true
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, &tls.Config{NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{ca.Issue("127.0.0.1", "::1")}})
		c := Checker{CAFile: ca.File(t.TempDir()), Timeout: long}
		for _, tt := range []struct {
			as   string
			want request
		}{
			{"", request{host: fmt.Sprintf("kubernetes.default.svc:%d", addr.Port()), sni: "kubernetes.default.svc"}},
			{"api.example", request{host: fmt.Sprintf("api.example:%d", addr.Port()), sni: "api.example"}},
		} {
			got = nil
			r := c.Check(t.Context(), Server{Addr: addr, Name: tt.as})
			if r.Outcome != Served || !r.Verified || r.Err != nil {
				t.Fatalf("%s as %q: %+v", addr, tt.as, r)
			}
			tt.want.line, tt.want.agent = "GET /livez HTTP/1.1", "arp-cache-cleaner"
			if len(got) != 1 || got[0] != tt.want {
				t.Errorf("%s as %q: %+v, want %+v", addr, tt.as, got, tt.want)
			}
		}
	}
	if len(conns) != 4 {
		t.Errorf("%d connections for 4 checks", len(conns))
	}
}

// spy notes when the peer has closed its side of the connection.
type spy struct {
	net.Conn
	ended bool
	err   error
}

func (s *spy) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil {
		s.ended, s.err = true, err
	}
	return n, err
}

// The server is to see a close_notify (RFC 8446 section 6.1), then FIN and no
// RST, whether it answered or not, and whether it was believed or not.
func TestClosesInOrder(t *testing.T) {
	ca := newCA(t)
	file, other := ca.File(t.TempDir()), newCA(t).File(t.TempDir())
	const response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, tt := range []struct {
		name, file, response string
		timeout              time.Duration
		want                 Outcome
	}{
		{"served", file, response, long, Served},
		{"no response", file, "", short, Timeout},
		{"not believed", other, response, long, TLS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			problems := make(chan error, 1)
			addr := serveTCP(t, func(raw net.Conn) {
				s := &spy{Conn: raw}
				c := tls.Server(s, &tls.Config{Certificates: []tls.Certificate{ca.Issue("127.0.0.1")}})
				b := make([]byte, 4096)
				_, err := c.Read(b)
				if err == nil {
					_, _ = io.WriteString(c, tt.response)
					_, err = c.Read(b)
				}
				if !errors.Is(err, io.EOF) || s.ended {
					problems <- fmt.Errorf("no close_notify, but %w (connection: %w)", err, s.err)
					return
				}
				_, _ = s.Read(b)
				if !errors.Is(s.err, io.EOF) {
					problems <- fmt.Errorf("no FIN, but %w", s.err)
					return
				}
				problems <- nil
			})
			r := (&Checker{CAFile: tt.file, Timeout: tt.timeout}).Check(t.Context(), Server{Addr: addr})
			if r.Outcome != tt.want {
				t.Errorf("%+v, want %s", r, tt.want)
			}
			if err := <-problems; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	for _, plain := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r := (&Checker{Plain: plain}).Check(ctx, Server{Addr: netip.MustParseAddrPort("127.0.0.1:1")})
		if r.Outcome != Timeout || !errors.Is(r.Err, context.Canceled) || r.Err.Error() != "checking 127.0.0.1:1: context canceled" {
			t.Errorf("cancelled before: %+v", r)
		}
	}
	ca := newCA(t)
	for name, f := range map[string]func(entered func()) func(net.Conn){
		"handshake": func(entered func()) func(net.Conn) { return func(c net.Conn) { entered(); swallow(c) } },
		"response": func(entered func()) func(net.Conn) {
			return afterHandshake(ca, func(_ net.Conn, c *tls.Conn) { entered(); swallow(c) })
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		r := (&Checker{Timeout: long}).Check(ctx, Server{Addr: serveTCP(t, f(cancel))})
		if r.Outcome != Timeout || !errors.Is(r.Err, context.Canceled) || r.Took > long/2 {
			t.Errorf("cancelled in the %s: %+v", name, r)
		}
		cancel()
	}
	noneStays(t)
}

// A frozen server is known as such once the handshake is overdue; one that speaks
// has the whole time to say that it is not well.
func TestTimeForEachPart(t *testing.T) {
	ca := newCA(t)
	c := Checker{CAFile: ca.File(t.TempDir()), Timeout: 2 * short}
	if r := c.Check(t.Context(), Server{Addr: serveTCP(t, swallow)}); r.Outcome != Timeout || r.Took < short || r.Took > short*3/2 {
		t.Errorf("no handshake: %+v, want a timeout after %v", r, short)
	}
	slow := serveHTTPS(t, "127.0.0.1", func(w http.ResponseWriter, r *http.Request) {
		timer := time.NewTimer(short * 3 / 2)
		defer timer.Stop()
		select {
		case <-timer.C:
			w.WriteHeader(http.StatusInternalServerError)
		case <-r.Context().Done():
		}
	}, &tls.Config{Certificates: []tls.Certificate{ca.Issue("127.0.0.1")}})
	if r := c.Check(t.Context(), Server{Addr: slow}); r.Outcome != Unwell || r.Took < short*3/2 {
		t.Errorf("slow to say so: %+v, want it unwell", r)
	}
	if defaultTimeout < 3*time.Second || (&Checker{}).timeout()/2 > 2*time.Second {
		t.Error("kube-apiserver without etcd takes 2 s to say so, and a frozen one must not take longer to be known")
	}
}

// Whoever wants to know more of a server that serves gets the connection, once, while it
// is open; of one that does not serve nobody does.
func TestConnected(t *testing.T) {
	ca := newCA(t)
	for name, tt := range map[string]struct {
		plain  bool
		status int
		want   int
	}{
		"serves":            {false, 200, 1},
		"serves others":     {false, 403, 1},
		"unwell":            {false, 500, 0},
		"takes connections": {true, 200, 1},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveTCP(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
			if !tt.plain {
				addr = serveHTTPS(t, "127.0.0.1", status(tt.status), &tls.Config{Certificates: []tls.Certificate{ca.Issue("127.0.0.1")}})
			}
			calls := 0
			c := Checker{Timeout: long, Plain: tt.plain}
			c.Check(t.Context(), Server{Addr: addr, Connected: func(conn *net.TCPConn) {
				calls++
				if err := conn.SetNoDelay(true); err != nil || conn.RemoteAddr().(*net.TCPAddr).AddrPort() != addr {
					t.Errorf("a connection to %s: %v", conn.RemoteAddr(), err)
				}
			}})
			if calls != tt.want {
				t.Errorf("called %d times, want %d", calls, tt.want)
			}
		})
	}
	if r := (&Checker{Timeout: long}).Check(t.Context(), Server{Addr: serveTCP(t, sendReset), Connected: func(*net.TCPConn) { t.Error("called for a server that resets") }}); r.Outcome != Reset {
		t.Errorf("%+v", r)
	}
}

// By a rule for a device, another server has the address.
func TestBoundToDevice(t *testing.T) {
	l := lab.Start(t)
	sw1, sw2, node, one, two := l.Switch(), l.Switch(), l.Host("node"), l.Host("one"), l.Host("two")
	node.Plug(sw1, "eth0", "", "10.0.0.1/24")
	node.Plug(sw2, "eth1", "", "10.0.1.1/24")
	node.IP("rule add oif eth1 table 100")
	node.IP("route add 10.0.0.0/24 dev eth1 src 10.0.1.1 table 100")
	one.Plug(sw1, "eth0", "", "10.0.0.2/24")
	two.Plug(sw2, "eth0", "", "10.0.0.2/24", "10.0.1.2/24")
	ca := l.CA()
	first := one.ServeAPI(ca, ":6443", []string{"10.0.0.2"})
	second := two.ServeAPI(ca, ":6443", []string{"10.0.0.2"})
	c := Checker{CAFile: ca.File(t.TempDir()), Timeout: long}
	check := func(device string) (r Result) {
		_ = node.Do(func() error {
			r = c.Check(context.Background(), Server{Addr: netip.MustParseAddrPort("10.0.0.2:6443"), Device: device})
			return nil
		})
		return r
	}
	for _, tt := range []struct {
		device string
		served [2]int
	}{{"", [2]int{1, 0}}, {"eth0", [2]int{2, 0}}, {"eth1", [2]int{2, 1}}} {
		if r := check(tt.device); r.Outcome != Served || !r.Verified {
			t.Fatalf("by %q: %+v, want it served", tt.device, r)
		}
		if got := [2]int{first.Livez(), second.Livez()}; got != tt.served {
			t.Errorf("by %q: the servers have been asked %v times, want %v", tt.device, got, tt.served)
		}
	}
	if r := check("eth7"); r.Outcome != Unreachable || !errors.Is(r.Err, unix.ENODEV) || !strings.Contains(r.Err.Error(), "binding to device eth7") {
		t.Errorf("no such device: %+v", r)
	}
	noneStays(t)
}

// Cluster CAs are rotated in place.
func TestReadsTheCAFileEachTime(t *testing.T) {
	ca, next := newCA(t), newCA(t)
	dir := t.TempDir()
	var cert atomic.Pointer[tls.Certificate]
	issue := func(ca *lab.CA) {
		c := ca.Issue("127.0.0.1")
		cert.Store(&c)
	}
	addr := serveHTTPS(t, "127.0.0.1", status(200), &tls.Config{
		// Not GetCertificate: httptest adds a certificate of its own, which wins.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{*cert.Load()}}, nil
		},
	})
	c := Checker{CAFile: ca.File(dir), Timeout: long}
	for _, tt := range []struct {
		name   string
		before func()
		want   Outcome
	}{
		{"first", func() { issue(ca) }, Served},
		{"server has the next", func() { issue(next) }, TLS},
		{"file has the next", func() { next.File(dir) }, Served},
	} {
		tt.before()
		if r := c.Check(t.Context(), Server{Addr: addr}); r.Outcome != tt.want || r.Verified != (tt.want == Served) {
			t.Errorf("%s: %+v, want %s", tt.name, r, tt.want)
		}
	}
}

// What a VIP in trouble looks like from a node.
func TestOnTheWire(t *testing.T) {
	l := lab.Start(t)
	sw, node, master := l.Switch(), l.Host("node"), l.Host("master")
	node.Plug(sw, "eth0", "", "10.0.0.1/24")
	master.Plug(sw, "eth0", "", "10.0.0.2/24", "2001:db8::2/64", "fe80::2/64")
	node.IP("addr add 2001:db8::1/64 dev eth0 nodad")
	node.IP("route add unreachable 192.0.2.1")
	node.IP("route add prohibit 192.0.2.2")
	node.IP("route add blackhole 192.0.2.3")
	node.Sysctl("net/ipv4/neigh/eth0/retrans_time_ms", "50")
	ca := l.CA()
	api := master.ServeAPI(ca, "[::]:6443", []string{"10.0.0.2", "2001:db8::2", "fe80::2"})
	c := Checker{CAFile: ca.File(t.TempDir()), Timeout: long}
	expect := func(c Checker, addr string, want Outcome, verified bool, errs ...error) {
		t.Helper()
		var r Result
		_ = node.Do(func() error {
			r = c.Check(context.Background(), Server{Addr: netip.MustParseAddrPort(addr)})
			return nil
		})
		if r.Outcome != want || r.Verified != verified || (r.Err == nil) != (want == Served) {
			t.Errorf("%s: %+v, want %s, verified %v", addr, r, want, verified)
		}
		for _, err := range errs {
			if !errors.Is(r.Err, err) {
				t.Errorf("%s: error %v is not %v", addr, r.Err, err)
			}
		}
	}
	for _, addr := range []string{"10.0.0.2:6443", "[::ffff:10.0.0.2]:6443", "[2001:db8::2]:6443", "[fe80::2%eth0]:6443"} {
		expect(c, addr, Served, true)
	}
	if api.Livez() != 4 {
		t.Errorf("%d requests for /livez, want 4", api.Livez())
	}
	expect(c, "10.0.0.2:6444", Refused, false, unix.ECONNREFUSED)
	expect(c, "192.0.2.1:6443", Unreachable, false, unix.EHOSTUNREACH)
	expect(c, "192.0.2.2:6443", Unreachable, false, unix.EACCES)
	expect(c, "192.0.2.3:6443", Unreachable, false, unix.EINVAL)
	expect(c, "192.0.2.4:6443", Unreachable, false, unix.ENETUNREACH)
	expect(c, "10.0.0.9:6443", Unreachable, false, unix.EHOSTUNREACH) // no neighbour

	api.Freeze()
	fast := Checker{CAFile: c.CAFile, Timeout: short}
	expect(fast, "10.0.0.2:6443", Timeout, false)
	expect(Checker{Plain: true, Timeout: short}, "10.0.0.2:6443", Served, false) // the kernel does
	api.Thaw()
	expect(c, "10.0.0.2:6443", Served, true)
	api.Kill()
	expect(c, "10.0.0.2:6443", Refused, false)
	master.IP("link set eth0 down")
	node.IP("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent")
	expect(fast, "10.0.0.2:6443", Timeout, false) // the other end is silent
	noneStays(t)
}

func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Outcome
	}{
		{unix.ECONNREFUSED, Refused},
		{unix.ECONNRESET, Reset},
		{unix.EPIPE, Reset},
		{io.EOF, Reset},
		{io.ErrUnexpectedEOF, Reset},
		{unix.EHOSTUNREACH, Unreachable},
		{unix.ENETUNREACH, Unreachable},
		{unix.ENETDOWN, Unreachable},
		{unix.ETIMEDOUT, Timeout},
		{os.ErrDeadlineExceeded, Timeout},
		{context.DeadlineExceeded, Timeout},
		{errors.New("another"), "otherwise"},
	} {
		err := fmt.Errorf("wrapped: %w", &net.OpError{Op: "read", Err: os.NewSyscallError("read", tt.err)})
		if got := classify(err, "otherwise"); got != tt.want {
			t.Errorf("%v: %s, want %s", err, got, tt.want)
		}
	}
}

func TestCheckCAFile(t *testing.T) {
	good := newCA(t).File(t.TempDir())
	if err := CheckCAFile(good); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"empty":      "",
		"key":        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"not one":    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"not there":  "",
		"not a file": "",
	} {
		says := " holds no PEM certificate"
		path := filepath.Join(dir, name)
		var err error
		switch name {
		case "not there":
			says = ": no such file or directory"
		case "not a file":
			says = ": is a directory"
			err = os.Mkdir(path, 0o700)
		default:
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckCAFile(path); !errors.Is(err, ErrCAFile) || !strings.HasPrefix(err.Error(), "no usable CA file: ") || !strings.HasSuffix(err.Error(), path+says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOutcomes(t *testing.T) {
	seen := make(map[Outcome]bool)
	for _, o := range Outcomes {
		seen[o] = o != ""
	}
	if len(seen) != 7 {
		t.Errorf("%v, want seven", Outcomes)
	}
}
