// Package apicheck finds out whether the API server behind an address serves,
// and whether it can prove who it is.
//
// It asks as the kubelet does, by HTTPS, and never by a bare TCP connect: that
// tells nothing, because the kernel of a frozen API server still accepts
// connections, and each leaves a "TLS handshake error" in the server's log
// (net/http's Server.Serve). For the same reason the certificate is verified
// after the handshake and not within it, where a failure would be an alert.
//
// The path is /livez: API priority and fairness exempts it (the "probes" flow
// schema of Kubernetes), and anonymous requests may read it by default (the
// ClusterRole system:public-info-viewer). Where they may not, as on RKE2, the
// answer is 401, which takes a serving API server all the same.
package apicheck

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Outcome is what became of a check, as it stands in logs and labels.
type Outcome string

// The outcomes. All but Served have an error that says more.
const (
	Served      Outcome = "served"      // it answered, with whatever status
	Refused     Outcome = "refused"     // nobody listens
	Reset       Outcome = "reset"       // the connection ended, or went on with something that is no HTTP response
	Timeout     Outcome = "timeout"     // no answer in time, or the caller gave up
	Unreachable Outcome = "unreachable" // no connection could be made: no route, no neighbour
	TLS         Outcome = "tls"         // no TLS server, not the one that was expected, or ErrCAFile
)

// Outcomes are all outcomes there are.
var Outcomes = [...]Outcome{Served, Refused, Reset, Timeout, Unreachable, TLS}

// ErrCAFile is in the errors of checks that were not made because of a CA file
// that cannot be used. They say nothing about the server.
var ErrCAFile = errors.New("no usable CA file")

const (
	defaultTimeout = 2 * time.Second
	// maxResponse bounds what is read of a response: the address is asked
	// exactly because something else may have taken it.
	maxResponse = 64 << 10
)

// Checker checks API servers. The zero Checker is ready to use, and one Checker
// may be used by several goroutines.
type Checker struct {
	// CAFile is a file of PEM certificates that the server's has to lead to. It
	// is read anew on each check, because cluster CAs are rotated in place.
	// Without it certificates are not verified.
	CAFile string
	// Plain asks for a TCP connection and nothing more, of servers that are no
	// API servers.
	Plain bool
	// Timeout is for the whole check; 0 is 2 seconds.
	Timeout time.Duration
}

// Result is what a check found.
type Result struct {
	Outcome Outcome
	// Verified says that CAFile confirmed the certificate for the address or
	// the name, whatever came after that.
	Verified bool
	Took     time.Duration
	Err      error // nil if it served
}

// Check asks the server at addr on a connection of its own, which is closed
// when it returns. With a CA file, the certificate has to be valid for the
// address or for name, which may be empty.
func (c *Checker) Check(ctx context.Context, addr netip.AddrPort, name string) Result {
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, defaultTimeout))
	defer cancel()
	var r Result
	r.Outcome, r.Err = c.check(limited, addr, name, &r.Verified)
	r.Took = time.Since(start)
	if r.Err != nil && ctx.Err() != nil {
		r.Outcome, r.Err = Timeout, fmt.Errorf("checking %s: %w", addr, ctx.Err())
	}
	return r
}

func (c *Checker) check(ctx context.Context, addr netip.AddrPort, name string, verified *bool) (Outcome, error) {
	var roots *x509.CertPool
	if c.CAFile != "" && !c.Plain {
		var err error
		if roots, err = load(c.CAFile); err != nil {
			return TLS, err
		}
	}
	// No keep-alives: the connection does not live long enough for one.
	dialer := net.Dialer{KeepAlive: -1}
	raw, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return classify(err, Unreachable), err
	}
	if c.Plain {
		_ = raw.Close()
		return Served, nil
	}
	ip := addr.Addr().Unmap().WithZone("").String()
	host := cmp.Or(name, ip)
	// No ALPN, so that the server speaks HTTP/1.1 (RFC 9113 section 3.2).
	conn := tls.Client(raw, &tls.Config{
		ServerName:         host, // sent if it is a name, not an address (RFC 6066 section 3)
		InsecureSkipVerify: true, //nolint:gosec // verified below, see the package comment
	})
	// Sends close_notify if there was a handshake, also after a timeout: it sets
	// a write deadline of its own, and the socket's buffer has room.
	defer func() { _ = conn.Close() }()
	if err := conn.HandshakeContext(ctx); err != nil {
		return classify(err, TLS), fmt.Errorf("TLS handshake with %s: %w", addr, err)
	}
	if roots != nil {
		if err := verify(conn.ConnectionState().PeerCertificates, roots, ip, name); err != nil {
			return TLS, fmt.Errorf("certificate of %s: %w", addr, err)
		}
		*verified = true
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := get(conn, net.JoinHostPort(host, strconv.Itoa(int(addr.Port())))); err != nil {
		return classify(err, Reset), fmt.Errorf("GET /livez from %s: %w", addr, err)
	}
	return Served, nil
}

// get asks for /livez and reads the response. net/http's Transport would do,
// but it keeps goroutines of its own that outlive the request for a moment.
func get(conn net.Conn, host string) error {
	req := &http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: "https", Host: host, Path: "/livez"},
		Header: http.Header{"User-Agent": {"arp-cache-cleaner"}},
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxResponse)), req)
	if err != nil {
		return err
	}
	// A close with data unread is a reset to the server (tcp_close in
	// net/ipv4/tcp.c). What the body is, and whether it is whole, is no matter.
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return nil
}

// verify does what crypto/tls does in a handshake, but for two hosts of which
// one suffices: API servers are not always told the VIP they are reached by.
func verify(chain []*x509.Certificate, roots *x509.CertPool, ip, name string) error {
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return err
	}
	err := chain[0].VerifyHostname(ip)
	if err != nil && name != "" {
		err = chain[0].VerifyHostname(name)
	}
	return err
}

// classify names what ended a check; otherwise is for an error that can only
// come from what was being done.
func classify(err error, otherwise Outcome) Outcome {
	var timeout net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Reset
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ENETDOWN):
		return Unreachable
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		// An alert (crypto/tls/conn.go). In TLS 1.3 that of a server which wants
		// a client certificate comes after the handshake.
		return TLS
	}
	return otherwise
}

// CheckCAFile says what is wrong with a CA file that cannot be used, so that it
// is known at start and not only once the VIP is in trouble.
func CheckCAFile(path string) error {
	_, err := load(path)
	return err
}

func load(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path) //nolint:gosec // a path from the command line
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCAFile, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: %s holds no PEM certificate", ErrCAFile, path)
	}
	return pool, nil
}
