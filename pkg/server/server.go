// Package server serves the agent's HTTP endpoints. It knows neither metrics
// nor the sweep: it is given handlers and checks.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/sync/errgroup"
)

// shutdownTimeout is how long requests in flight may take to finish once the
// server is told to stop. The whole agent is to be gone within a second.
const shutdownTimeout = 500 * time.Millisecond

// Server serves one handler on any number of addresses.
type Server struct {
	listeners  []net.Listener
	servers    []*http.Server // one for each listener: the toolkit changes what it is given
	configFile string
	log        *slog.Logger
}

// Listen opens all addresses ("host:port", "[::1]:port", ":port"), so that a
// port that is taken is an error at start. It serves nothing yet. configFile
// is a web configuration file of the Prometheus exporter toolkit (TLS, client
// certificates, basic authentication), "" for plain HTTP open to everybody; it
// is read again for every request, so that certificates and passwords can
// change without a restart. CheckConfig says whether it can be used.
func Listen(ctx context.Context, addresses []string, configFile string, h http.Handler, log *slog.Logger) (*Server, error) {
	s := &Server{configFile: configFile, log: log}
	var lc net.ListenConfig
	for _, a := range addresses {
		l, err := lc.Listen(ctx, "tcp", a)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("listening on %s: %w", a, err)
		}
		s.listeners = append(s.listeners, &limited{Listener: l})
		s.servers = append(s.servers, newServer(h, log))
	}
	return s, nil
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

// Addrs returns the addresses listened on, with the ports chosen for :0.
func (s *Server) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Run serves until ctx is done, then lets requests in flight finish for a
// moment, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range s.listeners {
		g.Go(func() error {
			if err := s.serve(l, s.servers[i]); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving on %s: %w", l.Addr(), err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
			defer cancel()
			if err := s.servers[i].Shutdown(grace); err != nil {
				_ = s.servers[i].Close() // a client that does not hang up
			}
			return nil
		})
	}
	return g.Wait()
}

func (s *Server) serve(l net.Listener, server *http.Server) error {
	if s.configFile == "" {
		return server.Serve(l)
	}
	return web.Serve(l, server, &web.FlagConfig{WebConfigFile: &s.configFile}, s.log)
}

func (s *Server) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
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

// Metrics returns a handler that serves h at /metrics, and at / a line that
// says so.
func Metrics(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintln(w, `<!doctype html><title>arp-cache-cleaner</title><a href="metrics">metrics</a>`)
	})
	return mux
}
