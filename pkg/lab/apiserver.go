package lab

import (
	"bufio"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CA is a certificate authority that is thrown away with the lab.
type CA struct {
	lab   *Lab
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	chain [][]byte // what its servers send beside their own: intermediates up to the root
}

// CA makes a certificate authority.
func (l *Lab) CA() *CA {
	root := &CA{lab: l, cert: certificate("lab CA")}
	root.sign(root)
	return root
}

// Intermediate makes a certificate authority that ca vouches for.
func (ca *CA) Intermediate() *CA {
	sub := &CA{lab: ca.lab, cert: certificate("lab intermediate CA")}
	ca.sign(sub)
	sub.chain = append([][]byte{sub.cert.Raw}, ca.chain...)
	return sub
}

func (ca *CA) sign(sub *CA) {
	var err error
	sub.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca.lab.check(err, "making a CA")
	sub.cert.IsCA, sub.cert.BasicConstraintsValid = true, true
	sub.cert.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, sub.cert, ca.cert, sub.key.Public(), ca.key)
	ca.lab.check(err, "making a CA")
	sub.cert, err = x509.ParseCertificate(der)
	ca.lab.check(err, "making a CA")
}

func certificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

// File writes the CA's certificate to a file in dir, in place of the one of
// another CA, and returns its path.
func (ca *CA) File(dir string) string {
	path := filepath.Join(dir, "ca.crt")
	err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600)
	ca.lab.check(err, "writing the CA")
	return path
}

// Issue returns a server's certificate for IP addresses and DNS names.
func (ca *CA) Issue(names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca.lab.check(err, "making a certificate")
	cert := certificate("kube-apiserver")
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca.cert, key.Public(), ca.key)
	ca.lab.check(err, "making a certificate")
	return tls.Certificate{Certificate: append([][]byte{der}, ca.chain...), PrivateKey: key}
}

// API is an API server that answers everything and knows nothing. Each answer
// names the host in the header X-Host.
type API struct {
	conns, livez atomic.Int64
	server       http.Server
	listener     net.Listener
	wg           sync.WaitGroup // the server's loop and all its connections

	mu     sync.Mutex // for Freeze, Thaw and Kill to take turns
	frozen bool

	unwell atomic.Bool // see Ail
	drops  atomic.Bool // see Drop

	gate sync.RWMutex // write-locked while frozen
	dead bool         // guarded by gate

	openMu sync.Mutex
	open   map[net.Conn]bool // nil once killed
}

// ServeAPI starts an API server on the host. listen may be an address that the
// host does not have yet; names are the IP addresses and DNS names in its
// certificate. As with net.Listen, 0.0.0.0 is [::] where there is IPv6.
func (h *Host) ServeAPI(ca *CA, listen string, names []string) *API {
	a := &API{open: make(map[net.Conn]bool)}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1), // for IPv6 too
			)
		}), err)
	}}
	err := h.Do(func() (err error) {
		a.listener, err = lc.Listen(context.Background(), "tcp", listen)
		return err
	})
	h.lab.check(err, "API server of host %s", h.Name)
	a.server.ErrorLog = log.New(io.Discard, "", 0) // broken handshakes are part of the game
	a.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Host", h.Name)
		if r.URL.Path == "/livez" {
			a.livez.Add(1)
		}
		switch {
		case a.unwell.Load():
			a.ail(w, r)
		case r.URL.Path == "/livez":
			_, _ = io.WriteString(w, "ok")
		default:
			_, _ = fmt.Fprintf(w, "this is %s\n", h.Name)
		}
	})
	config := &tls.Config{Certificates: []tls.Certificate{ca.Issue(names...)}}
	a.wg.Go(func() { _ = a.server.Serve(tls.NewListener(apiListener{a.listener, a}, config)) })
	h.lab.closers = append(h.lab.closers, a.Kill)
	return a
}

// Addr returns the address that the server listens on.
func (a *API) Addr() netip.AddrPort { return a.listener.Addr().(*net.TCPAddr).AddrPort() }

// Livez returns how many requests for /livez came.
func (a *API) Livez() int { return int(a.livez.Load()) }

// Conns returns how many connections were accepted.
func (a *API) Conns() int { return int(a.conns.Load()) }

// Ail has the server be as a kube-apiserver without etcd: /livez answers 500 after
// two seconds, and what reads or writes is not answered.
func (a *API) Ail() { a.unwell.Store(true) }

// Heal has a server that ails be well, and answer what it has not answered yet.
func (a *API) Heal() { a.unwell.Store(false) }

// ail answers as a server that ails.
func (a *API) ail(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/livez" {
		_ = every(r.Context(), 50*time.Millisecond, func(uint64) error {
			if a.unwell.Load() {
				return nil
			}
			return io.EOF
		})
		return
	}
	select {
	case <-r.Context().Done():
	case <-time.After(2 * time.Second):
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// Drop has the server be as a balancer without a server behind it: it closes all
// connections, and takes new ones and closes each unanswered after a second.
func (a *API) Drop() {
	a.drops.Store(true)
	a.openMu.Lock()
	defer a.openMu.Unlock()
	for c := range a.open {
		_ = c.Close()
	}
}

// Freeze stops the server as SIGSTOP would: the kernel goes on completing
// connections and acknowledging data, but nobody takes them and nobody answers.
// What came before the freeze and was not answered yet is answered after it.
func (a *API) Freeze() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.frozen {
		a.gate.Lock()
		a.frozen = true
	}
}

// Thaw lets the server go on, as SIGCONT would.
func (a *API) Thaw() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.frozen {
		a.frozen = false
		a.gate.Unlock()
	}
}

// Kill has the kernel close the listener and all connections, as when the
// process dies: without a close_notify, and from a freeze as well.
func (a *API) Kill() {
	_ = a.listener.Close()
	a.openMu.Lock()
	for c := range a.open {
		_ = c.Close()
	}
	a.open = nil
	a.openMu.Unlock()
	// From here on nothing can be written, so it may wake up.
	a.Freeze()
	a.dead = true
	a.Thaw()
	a.wg.Wait()
}

// pass waits while the server is frozen, and fails if it is dead.
func (a *API) pass() error {
	a.gate.RLock()
	defer a.gate.RUnlock()
	if a.dead {
		return net.ErrClosed
	}
	return nil
}

// add takes in a connection, unless the server was killed.
func (a *API) add(c net.Conn) error {
	a.openMu.Lock()
	defer a.openMu.Unlock()
	if a.open == nil {
		return errors.Join(net.ErrClosed, c.Close())
	}
	a.open[c] = true
	a.wg.Add(1)
	a.conns.Add(1)
	return nil
}

func (a *API) remove(c net.Conn) {
	a.openMu.Lock()
	defer a.openMu.Unlock()
	delete(a.open, c)
}

type apiListener struct {
	net.Listener
	api *API
}

func (l apiListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	// A frozen process accepts nothing, but the call it is in was there before.
	_ = l.api.pass()
	if err := l.api.add(c); err != nil {
		return nil, err
	}
	return &apiConn{Conn: c, api: l.api}, nil
}

// apiConn is a connection on which nothing happens while the server is frozen.
type apiConn struct {
	net.Conn
	api  *API
	once sync.Once
}

func (c *apiConn) Read(b []byte) (int, error) {
	if err := c.api.pass(); err != nil {
		return 0, err
	}
	if c.api.drops.Load() {
		<-time.After(time.Second)
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(b)
	return n, cmp.Or(c.api.pass(), err)
}

func (c *apiConn) Write(b []byte) (int, error) {
	c.api.gate.RLock() // so that Freeze returns with no write under way
	defer c.api.gate.RUnlock()
	return c.Conn.Write(b)
}

func (c *apiConn) Close() error {
	_ = c.api.pass()
	c.once.Do(func() {
		c.api.remove(c.Conn)
		c.api.wg.Done()
	})
	return c.Conn.Close()
}

// APIClient asks an API server over and over on one connection, as a kubelet
// does, and says who answers.
type APIClient struct {
	host       *Host
	server     netip.AddrPort
	config     *tls.Config
	device     string
	period     time.Duration
	resets     atomic.Int64
	reconnects atomic.Int64
	ctx        context.Context
	stop       context.CancelFunc
	wg         sync.WaitGroup

	mu   sync.Mutex
	last string
	at   time.Time
	next chan struct{} // closed with each response, and replaced
}

// apiPatience is how long a client waits for a connection and for a response.
const apiPatience = 10 * time.Second

// Client starts a client on the host, that sends the server a request at once
// and then each period. When one fails, or is not answered in 10 seconds, it
// connects again: at once, and after a connection that failed a period later.
func (h *Host) Client(ca *CA, server netip.AddrPort, period time.Duration) *APIClient {
	return h.ClientBy(ca, server, server.Addr().String(), "", period)
}

// ClientBy is Client for a server whose certificate has the given name, by sockets
// that are bound to a device (SO_BINDTODEVICE); "" is none.
func (h *Host) ClientBy(ca *CA, server netip.AddrPort, name, device string, period time.Duration) *APIClient {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	c := &APIClient{host: h, server: server, device: device, period: period, next: make(chan struct{}),
		config: &tls.Config{RootCAs: roots, ServerName: name}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.wg.Go(c.run)
	h.lab.closers = append(h.lab.closers, c.Stop)
	return c
}

// LastServed returns who sent the last response, and when it came.
func (c *APIClient) LastServed() (host string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.at
}

// Await waits until the host, or if that is "" any host, answers once more, and
// reports whether it did.
func (c *APIClient) Await(host string, within time.Duration) bool {
	start := time.Now()
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		c.mu.Lock()
		last, at, next := c.last, c.at, c.next
		c.mu.Unlock()
		if at.After(start) && (host == "" || host == last) {
			return true
		}
		select {
		case <-timer.C:
			return false
		case <-next:
		}
	}
}

// Resets returns how many times the client was told that there is no such
// connection or no server: ECONNRESET, EPIPE or ECONNREFUSED.
func (c *APIClient) Resets() int { return int(c.resets.Load()) }

// Reconnects returns how many connections that stood were lost or given up.
// While it is 0, the first one lives.
func (c *APIClient) Reconnects() int { return int(c.reconnects.Load()) }

// Stop ends the client and closes its connection.
func (c *APIClient) Stop() {
	c.stop()
	c.wg.Wait()
}

func (c *APIClient) run() {
	for c.ctx.Err() == nil {
		conn, err := c.dial()
		connected := err == nil
		if connected {
			err = c.use(conn)
			_ = conn.Close()
		}
		switch {
		case c.ctx.Err() != nil:
			return
		case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNREFUSED):
			c.resets.Add(1)
		}
		if connected {
			c.reconnects.Add(1)
			continue
		}
		select {
		case <-c.ctx.Done():
		case <-time.After(c.period):
		}
	}
}

func (c *APIClient) dial() (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, apiPatience)
	defer cancel()
	var raw net.Conn
	if err := c.host.Do(func() (err error) {
		dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			if c.device == "" {
				return nil
			}
			var bound error
			err := raw.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), c.device) })
			return errors.Join(err, bound)
		}}
		raw, err = dialer.DialContext(ctx, "tcp", c.server.String())
		return err
	}); err != nil {
		return nil, err
	}
	conn := tls.Client(raw, c.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// use sends requests until one fails.
func (c *APIClient) use(conn *tls.Conn) error {
	defer context.AfterFunc(c.ctx, func() { _ = conn.NetConn().Close() })()
	tick := time.NewTicker(c.period)
	defer tick.Stop()
	r := bufio.NewReader(conn)
	for {
		if err := c.ask(conn, r); err != nil {
			return err
		}
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-tick.C:
		}
	}
}

func (c *APIClient) ask(conn net.Conn, r *bufio.Reader) error {
	_ = conn.SetDeadline(time.Now().Add(apiPatience))
	req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: c.server.String(), Path: "/api"}}
	if err := req.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.at = resp.Header.Get("X-Host"), time.Now()
	close(c.next)
	c.next = make(chan struct{})
	return nil
}
