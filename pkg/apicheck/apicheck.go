// Package apicheck finds out whether the API server behind an address serves,
// and whether it can prove who it is.
//
// It asks as the kubelet does, by HTTPS, and never by a bare TCP connect: that
// proves nothing, because the kernel of a frozen API server still accepts
// connections, and each leaves a "TLS handshake error" in the server's log
// (net/http's Server.Serve). For the same reason the certificate is verified
// after the handshake and not within it, where a failure would be an alert.
//
// The path is /livez: API priority and fairness exempts it (the "probes" flow
// schema of Kubernetes), and anonymous requests may read it by default (the
// ClusterRole system:public-info-viewer). Where they may not, as on RKE2, the
// answer is 401, which takes a serving API server all the same. A status of 500
// or more is another matter: kube-apiserver says it, after 2 seconds, where its
// etcd does not answer, and a load balancer where it has no server left.
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
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Outcome is what became of a check, as it stands in logs and labels.
type Outcome string

// The outcomes. All but Served have an error that says more.
const (
	Served      Outcome = "served"      // it answered, with a status below 500
	Unwell      Outcome = "unwell"      // it answered that it cannot serve: 500 or more
	Refused     Outcome = "refused"     // nobody listens
	Reset       Outcome = "reset"       // the connection ended, or went on with something that is no HTTP response
	Timeout     Outcome = "timeout"     // no answer in time, or the caller gave up
	Unreachable Outcome = "unreachable" // no connection could be made: no route, no neighbour
	TLS         Outcome = "tls"         // no TLS server, a certificate that does not lead to CAFile, or ErrCAFile
)

// Outcomes are all outcomes there are.
var Outcomes = [...]Outcome{Served, Unwell, Refused, Reset, Timeout, Unreachable, TLS}

// ErrCAFile is in the errors of checks that were not made because of a CA file
// that cannot be used. They say nothing about the server.
var ErrCAFile = errors.New("no usable CA file")

const (
	// defaultTimeout leaves time for the 2 s that kube-apiserver waits for etcd.
	// Half of it is for the connection and the handshake, which a server that is
	// frozen does not get past.
	defaultTimeout = 4 * time.Second
	// apiServerName is in the certificate of every kube-apiserver (kubeadm, k3s,
	// OpenShift and the rest: pods verify it), whatever else it is called, and in
	// that of no kubelet.
	apiServerName = "kubernetes.default.svc"
	// maxResponse bounds what is read of a response: the address is asked
	// exactly because something else may have taken it.
	maxResponse = 64 << 10
)

// Checker checks API servers. The zero Checker is ready to use, and one Checker
// may be used by several goroutines.
type Checker struct {
	// CAFile is a file of PEM certificates that the server's has to lead to. It
	// is read again on each check, because cluster CAs are rotated in place.
	// Without it certificates are not verified.
	CAFile string
	// Plain asks for a TCP connection and nothing more, of servers that are no
	// API servers.
	Plain bool
	// Timeout is for the whole check, and half of it for the connection and the
	// TLS handshake; 0 is 4 seconds.
	Timeout time.Duration
}

// Server is what to check.
type Server struct {
	Addr netip.AddrPort
	Name string // that its certificate may be for; may be empty
	// Device is the name of the device that the connection is bound to, or "": for
	// servers that are reached by sockets bound to one, or in a VRF. Before Linux
	// 5.7 that takes CAP_NET_RAW.
	Device string
	// Connected is called with the connection once the server has served by it, and
	// before it is closed; nil is nothing. It may end the connection.
	Connected func(*net.TCPConn)
}

// Result is what a check found.
type Result struct {
	Outcome Outcome
	// Verified says that the certificate leads to CAFile, and is for the address,
	// the name or kubernetes.default.svc, whatever came after that.
	Verified bool
	// Unproven says why a certificate that leads to CAFile is not Verified. A
	// server serves all the same.
	Unproven error
	Status   int // of HTTP, or 0 if there was no response
	Took     time.Duration
	Err      error // nil if it served
}

// Check asks a server on a connection of its own, which is closed when it
// returns.
func (c *Checker) Check(ctx context.Context, s Server) Result {
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	var r Result
	r.Outcome, r.Err = c.check(limited, s, &r)
	r.Took = time.Since(start)
	if r.Err != nil && ctx.Err() != nil {
		r.Outcome, r.Err = Timeout, fmt.Errorf("checking %s: %w", s.Addr, ctx.Err())
	}
	return r
}

func (c *Checker) timeout() time.Duration { return cmp.Or(c.Timeout, defaultTimeout) }

// check fills in of r what is found on the way.
func (c *Checker) check(ctx context.Context, s Server, r *Result) (Outcome, error) {
	var roots *x509.CertPool
	if c.CAFile != "" && !c.Plain {
		var err error
		if roots, err = load(c.CAFile); err != nil {
			return TLS, err
		}
	}
	early, cancel := context.WithTimeout(ctx, c.timeout()/2)
	defer cancel()
	raw, err := dial(early, s)
	if err != nil {
		return classify(err, Unreachable), err
	}
	if c.Plain {
		s.connected(raw)
		_ = raw.Close()
		return Served, nil
	}
	host := cmp.Or(s.Name, apiServerName)
	// No ALPN, so that the server speaks HTTP/1.1 (RFC 9113 section 3.2).
	conn := tls.Client(raw, &tls.Config{
		ServerName:         host, // sent if it is a name, not an address (RFC 6066 section 3)
		InsecureSkipVerify: true, //nolint:gosec // verified below, see the package comment
	})
	// Sends close_notify if there was a handshake, also after a timeout: it sets
	// a write deadline of its own, and the socket's buffer has room.
	defer func() { _ = conn.Close() }()
	if err := conn.HandshakeContext(early); err != nil {
		return classify(err, TLS), fmt.Errorf("TLS handshake with %s: %w", s.Addr, err)
	}
	chain := conn.ConnectionState().PeerCertificates
	if roots != nil {
		if err := leadsTo(roots, chain); err != nil {
			return TLS, fmt.Errorf("certificate of %s: %w", s.Addr, err)
		}
		r.Unproven = isFor(chain[0], s)
		r.Verified = r.Unproven == nil
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	r.Status, err = get(conn, net.JoinHostPort(host, strconv.Itoa(int(s.Addr.Port()))))
	switch {
	case err != nil:
		return classify(err, Reset), fmt.Errorf("GET /livez from %s: %w", s.Addr, err)
	case r.Status >= http.StatusInternalServerError:
		return Unwell, fmt.Errorf("GET /livez from %s: HTTP status %d", s.Addr, r.Status)
	}
	s.connected(raw)
	return Served, nil
}

func (s *Server) connected(raw net.Conn) {
	if conn, ok := raw.(*net.TCPConn); ok && s.Connected != nil {
		s.Connected(conn)
	}
}

func dial(ctx context.Context, s Server) (net.Conn, error) {
	// No keep-alives: the connection does not live long enough for one.
	dialer := net.Dialer{KeepAlive: -1}
	if s.Device != "" {
		dialer.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			if c := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), s.Device) }); c != nil {
				return c
			}
			if err != nil {
				return fmt.Errorf("binding to device %s: %w", s.Device, err)
			}
			return nil
		}
	}
	return dialer.DialContext(ctx, "tcp", s.Addr.String())
}

// get asks for /livez, reads the response, and returns its status. net/http's
// Transport would do, but it keeps goroutines of its own that outlive the request
// for a moment.
func get(conn net.Conn, host string) (status int, err error) {
	req := &http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: "https", Host: host, Path: "/livez"},
		Header: http.Header{"User-Agent": {"arp-cache-cleaner"}},
	}
	if err := req.Write(conn); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxResponse)), req)
	if err != nil {
		return 0, err
	}
	// A close with data unread is a reset to the server (tcp_close in
	// net/ipv4/tcp.c). What the body says, and whether it is whole, does not matter.
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, nil
}

// leadsTo does what crypto/tls does in a handshake, but for the name.
func leadsTo(roots *x509.CertPool, chain []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// isFor returns nil if a certificate is for the server: by the address, or by the
// name, because endpoints that are known by name have no address in it; or for any
// API server of the cluster.
func isFor(c *x509.Certificate, s Server) error {
	err := c.VerifyHostname(s.Addr.Addr().Unmap().WithZone("").String())
	if err != nil && s.Name != "" {
		err = c.VerifyHostname(s.Name)
	}
	if err != nil && c.VerifyHostname(apiServerName) == nil {
		err = nil
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
