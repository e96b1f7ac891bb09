// Package server serves the agent's HTTP endpoints. It knows neither metrics
// nor the sweep: it is given handlers and checks.
package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

const (
	// shutdownTimeout is how long requests in flight may take to finish once the
	// server is told to stop. The whole agent is to be gone within a second.
	shutdownTimeout = 500 * time.Millisecond

	// retryEvery is how often an address is tried that cannot be listened on.
	retryEvery = 5 * time.Second
)

// Server serves one handler on any number of addresses. An address that cannot be
// listened on, because the host does not have it or somebody else has the port, is
// tried again until it can: what the process does beside serving goes on without it.
type Server struct {
	flag       string
	addresses  []string
	configFile string
	handler    http.Handler
	log        *slog.Logger

	listen func(ctx context.Context, address string) (net.Listener, error)
}

// New returns a server on all addresses ("host:port", "[::1]:port", ":port"), which
// flag, such as --web.listen-address, has given: the log names it. It opens nothing
// yet. configFile is a web configuration file of the Prometheus exporter toolkit
// (TLS, client certificates, basic authentication), "" for plain HTTP open to
// everybody; it is read again for every request, so that certificates and passwords
// can change without a restart. CheckConfig says whether it can be used.
func New(flag string, addresses []string, configFile string, h http.Handler, log *slog.Logger) *Server {
	return &Server{flag: flag, addresses: addresses, configFile: configFile, handler: h, log: log, listen: listenLimited}
}

// CheckConfig says what is wrong with a web configuration file that cannot be
// used, so that it is known at start and not with the first request.
func CheckConfig(file string) error {
	if err := web.Validate(file); err != nil {
		return fmt.Errorf("web configuration %s: %w", file, err)
	}
	return nil
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:     answered(h),
		ConnContext: remember,
		// A scraper that hangs must not pin a connection of a privileged process.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	// With HTTP/2 a connection could carry any number of requests.
	s.Protocols.SetHTTP1(true)
	return s
}

// Run serves until ctx is done, then lets requests in flight finish for a
// moment, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, a := range s.addresses {
		wg.Go(func() { s.keepServing(ctx, a) })
	}
	wg.Wait()
	return nil
}

// keepServing serves on one address until ctx is done. It says once that it cannot,
// and once that it can again.
func (s *Server) keepServing(ctx context.Context, address string) {
	log := s.log.With("flag", s.flag, "address", address)
	// flapping: it could be listened on, and was lost at once.
	failing, flapping := false, false
	for {
		l, err := s.open(ctx, address)
		if err == nil {
			if !flapping {
				log.Info("listening", "on", l.Addr())
				failing = false
			}
			began := time.Now()
			err = s.serve(ctx, l)
			flapping = time.Since(began) < retryEvery
		}
		if ctx.Err() != nil {
			return
		}
		if !failing {
			log.Warn("cannot listen: the address is tried again, and all else goes on", "every", retryEvery, "err", err)
			failing = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryEvery):
		}
	}
}

// open listens on an address, if the web configuration allows to serve on it.
func (s *Server) open(ctx context.Context, address string) (net.Listener, error) {
	if err := CheckConfig(s.configFile); err != nil { // a file may have become bad since the start
		return nil, err
	}
	return s.listen(ctx, address)
}

// serve serves on l until ctx is done or l fails, and closes it.
func (s *Server) serve(ctx context.Context, l net.Listener) error {
	server := newServer(s.handler, s.log) // the toolkit changes what it is given
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			_ = server.Close() // a client that does not hang up
		}
	})
	var err error
	if s.configFile == "" {
		err = server.Serve(l)
	} else {
		err = web.Serve(l, server, &web.FlagConfig{WebConfigFile: &s.configFile}, s.log)
	}
	if !stop() {
		<-ended
	}
	_ = server.Close() // with a listener that failed go its connections
	_ = l.Close()
	return err
}

// Health returns a handler with /healthz and /readyz and nothing else. A check
// that returns an error answers 503 with the error as the body.
func Health(live, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", check(live))
	mux.Handle("GET /readyz", check(ready))
	return mux
}

func check(f func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := f(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
}

// Page is something to read: the state of things when it was asked for.
type Page interface {
	HTML(w io.Writer) error
	Text(w io.Writer) error
}

// Web returns a handler that serves metrics at /metrics, and at / what page
// returns: as HTML to clients that accept it, as browsers do, and as text to others.
func Web(metrics http.Handler, page func() Page) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		contentType, write := "text/plain; charset=utf-8", Page.Text
		if acceptsHTML(r) {
			contentType, write = "text/html; charset=utf-8", Page.HTML
		}
		var b bytes.Buffer // so that a page is served whole, or not at all
		if err := write(page(), &b); err != nil {
			http.Error(w, "the page could not be written", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Vary", "Accept")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		// The page has a style of its own. It runs nothing, loads nothing, sends
		// nothing, and nobody shows it inside a page of his own.
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		_, _ = w.Write(b.Bytes())
	})
	return mux
}

// acceptsHTML reports whether a request names HTML among what it accepts. A
// wildcard alone is what curl sends.
func acceptsHTML(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/html")
}
