package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fakeListener accepts nobody, and fails at the given time after it was opened, if
// that is not 0.
type fakeListener struct {
	fails  <-chan time.Time
	closed chan struct{}
}

func newFakeListener(failsIn time.Duration) *fakeListener {
	l := &fakeListener{closed: make(chan struct{})}
	if failsIn > 0 {
		l.fails = time.After(failsIn)
	}
	return l
}

func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case <-l.fails:
		return nil, errors.New("accept: listener failed")
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *fakeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *fakeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 10331} }

// retried runs a server on one address for a while. It returns when the address was
// tried, counted from the start, and the log without its times.
func retried(t *testing.T, configFile string, length time.Duration, listen func(since time.Duration) (net.Listener, error)) (tries []time.Duration, log []string) {
	t.Helper()
	var b bytes.Buffer
	text := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	s := New("--health.listen-address", []string{"192.0.2.1:10331"}, configFile, http.NotFoundHandler(), text)
	begun := time.Now()
	s.listen = func(context.Context, string) (net.Listener, error) {
		tries = append(tries, time.Since(begun))
		return listen(time.Since(begun))
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	if err := s.Run(ctx); err != nil || time.Since(begun) != length {
		t.Errorf("Run ended with %v after %v, want nil after %v", err, time.Since(begun), length)
	}
	return tries, slices.Collect(strings.Lines(b.String()))
}

const (
	listeningLine = "level=INFO msg=listening flag=--health.listen-address address=192.0.2.1:10331 on=192.0.2.1:10331\n"
	failingLine   = "level=WARN msg=\"cannot listen: the address is tried again, and all else goes on\" flag=--health.listen-address address=192.0.2.1:10331 every=5s err="
)

// An address that cannot be had is tried again until it can, and so is one that is
// lost later. Each turn is said once.
func TestAddressIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, log := retried(t, "", time.Hour, func(since time.Duration) (net.Listener, error) {
			switch {
			case since < 12*time.Second:
				return nil, errors.New("cannot assign requested address")
			case since < 20*time.Second:
				return newFakeListener(time.Minute), nil
			case since < 81*time.Second:
				return nil, errors.New("address already in use")
			}
			return newFakeListener(0), nil
		})
		if want := []time.Duration{0, 5 * time.Second, 10 * time.Second, 15 * time.Second, 80 * time.Second, 85 * time.Second}; !slices.Equal(tries, want) {
			t.Errorf("tried after %v, want %v", tries, want)
		}
		if want := []string{
			failingLine + "\"cannot assign requested address\"\n", listeningLine,
			failingLine + "\"accept: listener failed\"\n", listeningLine,
		}; !slices.Equal(log, want) {
			t.Errorf("got  %q\nwant %q", log, want)
		}
	})
}

// An address that is lost as soon as it is had does not fill the log.
func TestAddressIsLostAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, log := retried(t, "", time.Hour, func(time.Duration) (net.Listener, error) { return newFakeListener(time.Millisecond), nil })
		if len(tries) < 700 {
			t.Errorf("tried %d times in an hour, want once in 5 s", len(tries))
		}
		if want := []string{listeningLine, failingLine + "\"accept: listener failed\"\n"}; !slices.Equal(log, want) {
			t.Errorf("got  %q\nwant %q", log, want)
		}
	})
}

// Nothing is served without the web configuration that guards it, which may have
// become bad since the start.
func TestNothingIsServedUnguarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "web.yaml")
		time.AfterFunc(12*time.Second, func() {
			if err := os.WriteFile(file, []byte("http_server_config: {http2: false}\n"), 0o600); err != nil {
				t.Error(err)
			}
		})
		tries, log := retried(t, file, time.Minute, func(time.Duration) (net.Listener, error) { return newFakeListener(0), nil })
		if want := []time.Duration{15 * time.Second}; !slices.Equal(tries, want) {
			t.Errorf("listened after %v, want %v", tries, want)
		}
		if len(log) < 2 || !strings.HasPrefix(log[0], failingLine) || !strings.Contains(log[0], "web configuration "+file) || log[1] != listeningLine {
			t.Errorf("log: %q", log)
		}
	})
}

// The error names an address that is taken. Once it is free it can be had.
func TestTakenAddressIsNamed(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = listenLimited(t.Context(), l.Addr().String())
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v does not name %s", err, l.Addr())
	}
	_ = l.Close()
	again, err := listenLimited(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}
