package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Failover is a node that depends on a VIP, and two control-plane hosts that
// can hold it. The first one does. Nothing is announced by gratuitous ARP unless
// a case does so itself.
type Failover struct {
	Lab      *Lab
	Switch   *Switch
	Node     *Host
	One, Two *Host
	VIP      netip.Addr
	CA       *CA
	CAFile   string
	API1     *API // on One
	API2     *API // on Two
	IPv6     bool

	nodePort   Port
	ports      [2]Port
	sink1      *sink
	sink2      *sink
	client     *APIClient // nil: the node has no connection to the VIP
	broken     atomic.Bool
	background []func() // ends what a case started
}

// The hosts' link-layer addresses.
const (
	failoverMAC1 = "02:00:00:00:01:01"
	failoverMAC2 = "02:00:00:00:01:02"
)

// FailoverCase is one way in which a VIP moves, or does not.
type FailoverCase struct {
	Name string
	// Idle: the node has no connection to the VIP, and sends nothing.
	Idle bool
	// Args are given to the agent beside the CA file.
	Args []string
	// Before prepares the hosts, before the node first talks to the VIP.
	Before func(*Failover)
	// Break moves the VIP.
	Break func(*Failover)
	// Says is the sample that is to appear in the agent's metrics, without the
	// namespace; VIP stands for the address. Without it, the agent is to repair
	// the entry within Limit: it must name the second host then.
	Says  string
	Limit time.Duration
	// Zombie: the first host announces itself all the time, and it is counted
	// which host the node believes.
	Zombie bool
	// IPv6 says that the case applies to Neighbor Discovery as well.
	IPv6 bool
}

// FailoverResult is what became of a case. Times are since the break; Never is
// what did not happen in time.
type FailoverResult struct {
	Entry    time.Duration // the entry named the second host
	Connects time.Duration // a new connection was served by it
	UDP      time.Duration // a datagram arrived there
	TCP      time.Duration // the client that was connected before was served by it
	// Of Zombie: datagrams that arrived at either host since the entry was
	// repaired, and connections of the client that were reset.
	ToZombie, ToHolder uint64
	Resets             int
}

// Never is the time of what did not happen.
const Never = time.Duration(-1)

// Within what a VIP is to be repaired. A frozen API server is suspect once it
// has not answered for 3 s.
const (
	RepairLimit = 4 * time.Second
	frozenLimit = 15 * time.Second
)

// FailoverCases are the cases of the failover matrix. Limit is RepairLimit where
// it is not given.
var FailoverCases = []FailoverCase{
	{Name: "old holder lost the VIP", IPv6: true, Break: (*Failover).move},
	{Name: "first broadcast lost", Before: (*Failover).loseFirstBroadcast, Break: (*Failover).move},
	{Name: "old holder forwards for the VIP", IPv6: true, Before: (*Failover).forward, Break: (*Failover).move},
	{Name: "old holder's link is down", IPv6: true, Break: func(f *Failover) {
		f.One.IP("link set eth0 down")
		f.give(f.Two, "eth0")
	}},
	{Name: "idle client", IPv6: true, Idle: true, Args: []string{"--vip=VIP"}, Break: (*Failover).move},
	{Name: "entry kept confirmed by others", IPv6: true, Before: (*Failover).confirm, Break: (*Failover).move},
	{Name: "zombie, API process gone", IPv6: true, Break: func(f *Failover) {
		f.give(f.Two, "eth0")
		f.API1.Kill()
	}},
	{Name: "VIP on the old holder's lo, API gone", IPv6: true, Break: func(f *Failover) {
		f.take(f.One)
		f.give(f.One, "lo")
		f.give(f.Two, "eth0")
		f.API1.Kill()
	}},
	{Name: "zombie, API frozen", IPv6: true, Limit: frozenLimit, Break: (*Failover).freeze},
	{Name: "zombie, API frozen, announces itself", IPv6: true, Limit: frozenLimit, Zombie: true, Break: func(f *Failover) {
		f.freeze()
		f.announce()
	}},
	{Name: "zombie with a live API", IPv6: true, Args: []string{"--interval=20s"}, // asks everybody every 10 s
		Break: func(f *Failover) { f.give(f.Two, "eth0") }, Says: event("duplicate")},
	{Name: "PERMANENT entry", IPv6: true, Before: func(f *Failover) {
		f.Node.IP(fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", f.VIP, failoverMAC1))
	}, Break: (*Failover).move, Says: event("pinned")},
	{Name: "VIP held by this node", IPv6: true, Break: func(f *Failover) {
		f.take(f.One)
		f.give(f.Node, "eth0")
	}, Says: event("held_here")},
	{Name: "VIP behind a gateway", IPv6: true, Before: func(f *Failover) {
		f.Node.IP(fmt.Sprintf("route add %s via %s", f.VIP, f.address(f.One)))
	}, Break: func(*Failover) {}, Says: event("not_on_link")},
	{Name: "VIP given as a name that changes", Idle: true, Args: []string{"--vip=vip.lab"},
		Before: func(f *Failover) { f.name(f.VIP) },
		Break: func(f *Failover) {
			f.take(f.One)
			f.name(netip.MustParseAddr(f.address(f.Two)))
		}, Says: `vip_on_link{vip="10.0.0.12"} 1`},
	{Name: "VIP gone altogether", IPv6: true, Idle: true, Args: []string{"--vip=VIP"},
		Break: func(f *Failover) { f.take(f.One) }, Says: event("silent")},
}

func event(name string) string { return fmt.Sprintf(`vip_events_total{event=%q,vip="VIP"} 1`, name) }

// NewFailover builds the hosts for a case. dir is for files.
func NewFailover(l *Lab, c *FailoverCase, ipv6 bool, dir string) *Failover {
	f := &Failover{Lab: l, Switch: l.Switch(), Node: l.Host("node"), One: l.Host("one"), Two: l.Host("two"), IPv6: ipv6}
	f.VIP = netip.MustParseAddr("10.0.0.100")
	if ipv6 {
		f.VIP = netip.MustParseAddr("2001:db8::100")
	}
	const nodeMAC = "02:00:00:00:00:01"
	f.nodePort = f.Node.Plug(f.Switch, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
	for i, h := range []*Host{f.One, f.Two} {
		f.ports[i] = h.Plug(f.Switch, "eth0", []string{failoverMAC1, failoverMAC2}[i],
			fmt.Sprintf("10.0.0.1%d/24", i+1), fmt.Sprintf("2001:db8::1%d/64", i+1))
		// A host that asks for the node from the VIP would announce itself by that.
		h.IP("neigh replace 10.0.0.1 dev eth0 nud permanent lladdr " + nodeMAC)
		h.IP("neigh replace 2001:db8::1 dev eth0 nud permanent lladdr " + nodeMAC)
		h.Sysctl("net/ipv4/conf/all/send_redirects", "0")
		h.Sysctl("net/ipv4/conf/eth0/send_redirects", "0")
		// As on a host that did not see its neighbours come up: nothing is learned
		// from what it did not ask for.
		h.Sysctl("net/ipv6/conf/eth0/ndisc_notify", "0")
	}
	f.CA = l.CA()
	f.CAFile = f.CA.File(dir)
	f.API1, f.API2 = f.Serve(f.One), f.Serve(f.Two)
	f.sink1, f.sink2 = f.listen(f.One), f.listen(f.Two)
	f.give(f.One, "eth0")
	if c.Before != nil {
		c.Before(f)
	}
	return f
}

// Serve starts an API server on a host.
func (f *Failover) Serve(h *Host) *API {
	return h.ServeAPI(f.CA, "[::]:6443", []string{f.VIP.String(), "vip.lab"})
}

// Agent returns the case's agent, to be started on the node: the program at path
// with the case's arguments.
func (f *Failover) Agent(c *FailoverCase, path string) *exec.Cmd {
	args := []string{"--vip-ca-file=" + f.CAFile, "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331"}
	for _, a := range c.Args {
		args = append(args, strings.ReplaceAll(a, "VIP", f.VIP.String()))
	}
	if _, err := os.Stat(f.hostsFile()); err != nil {
		return exec.Command(path, args...)
	}
	// Names are resolved by a file of its own.
	const script = `mount --make-rprivate / && mount --bind "$1" /etc/hosts && shift && exec "$@"`
	cmd := exec.Command("sh", slices.Concat([]string{"-c", script, "sh", f.hostsFile(), path}, args)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// Watched waits until the agent watches the VIP, and reports whether it does.
func (f *Failover) Watched(within time.Duration) bool {
	return f.Says(fmt.Sprintf("arp_cache_cleaner_vip_held_here{vip=%q}", f.VIP.String()), within)
}

// Says waits until the agent's metrics contain a text, and reports whether they
// do.
func (f *Failover) Says(text string, within time.Duration) bool {
	return poll(within, func() bool { return strings.Contains(f.metrics(), text) })
}

// poll waits until ok, and reports whether it was within a time.
func poll(within time.Duration, ok func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); time.Since(start) < within; <-tick.C {
		if ok() {
			return true
		}
	}
	return false
}

// Talk starts the node's traffic to the VIP: a client of its API server, and
// datagrams that nobody answers.
func (f *Failover) Talk(c *FailoverCase) error {
	if c.Idle {
		f.Node.Touch(f.VIP.String())
		if !poll(5*time.Second, func() bool { return f.Named() != "" }) {
			return errors.New("the VIP is not resolved")
		}
		return nil
	}
	f.client = f.Node.Client(f.CA, netip.AddrPortFrom(f.VIP, 6443), time.Second)
	if !f.client.Await("one", 5*time.Second) {
		return errors.New("the API server does not answer the client")
	}
	f.flood()
	return nil
}

// Run breaks what the case breaks, and watches what becomes of it until the
// entry is right and everybody is served, for at most the given time.
func (f *Failover) Run(c *FailoverCase, within time.Duration) FailoverResult {
	r := FailoverResult{Entry: Never, Connects: Never, UDP: Never, TCP: Never}
	f.sink1.reset()
	f.sink2.reset()
	f.broken.Store(true)
	c.Break(f)
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Since(start) < within {
		<-tick.C
		if r.Entry == Never && f.Named() == failoverMAC2 {
			r.Entry = time.Since(start)
		}
		if at := f.sink2.first.Load(); r.UDP == Never && at != 0 {
			r.UDP = time.Unix(0, at).Sub(start)
		}
		if f.client != nil && r.TCP == Never {
			if host, at := f.client.LastServed(); host == "two" && at.After(start) {
				r.TCP = at.Sub(start)
			}
		}
		if r.Entry == Never {
			continue
		}
		if r.Connects == Never && f.connect() == "two" {
			r.Connects = time.Since(start)
		}
		if r.Connects != Never && (c.Idle || r.UDP != Never && r.TCP != Never) {
			break
		}
	}
	return r
}

// Hold watches for the given time where the node's datagrams go, while the
// first host announces itself.
func (f *Failover) Hold(r *FailoverResult, d time.Duration) {
	f.sink1.reset()
	f.sink2.reset()
	resets := f.client.Resets()
	<-time.After(d)
	r.ToZombie, r.ToHolder = f.sink1.count.Load(), f.sink2.count.Load()
	r.Resets = f.client.Resets() - resets
}

// Sample returns what the agent is to say in a case that is reported.
func (f *Failover) Sample(c *FailoverCase) string {
	return "arp_cache_cleaner_" + strings.ReplaceAll(c.Says, "VIP", f.VIP.String())
}

// metrics returns what the node's agent says.
func (f *Failover) metrics() string {
	resp, err := f.http(time.Second).Get("http://127.0.0.1:10330/metrics")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// http returns a client whose connections start on the node, one for each
// request.
func (f *Failover) http(timeout time.Duration) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(f.CA.cert)
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = f.Node.Do(func() (err error) {
				c, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
}

// Close ends what the case runs. The lab closes the rest.
func (f *Failover) Close() {
	for _, stop := range slices.Backward(f.background) {
		stop()
	}
	f.background = nil
}

// named are the states of an entry that the kernel sends packets by.
const named = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT

// Named returns the link-layer address in the node's entry for the VIP, "" if
// it has none that can be used.
func (f *Failover) Named() string {
	family := netlink.FAMILY_V4
	if f.VIP.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := f.Node.nl.NeighList(0, family)
	if err != nil {
		return ""
	}
	for _, n := range list {
		if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() == f.VIP && n.State&named != 0 {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

// connect makes a new connection to the VIP, and returns who serves it.
func (f *Failover) connect() string {
	resp, err := f.http(time.Second).Get("https://" + netip.AddrPortFrom(f.VIP, 6443).String() + "/api")
	if err != nil {
		return ""
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.Header.Get("X-Host")
}

func (f *Failover) bits() int { return f.VIP.BitLen() }

// give puts the VIP on a device, without a word to anybody.
func (f *Failover) give(h *Host, dev string) {
	nodad := ""
	if f.VIP.Is6() {
		nodad = " nodad"
	}
	h.IP(fmt.Sprintf("addr replace %s/%d dev %s%s", f.VIP, f.bits(), dev, nodad))
}

func (f *Failover) take(h *Host) {
	h.IP(fmt.Sprintf("addr del %s/%d dev eth0", f.VIP, f.bits()))
}

func (f *Failover) move() {
	f.take(f.One)
	f.give(f.Two, "eth0")
}

func (f *Failover) freeze() {
	f.give(f.Two, "eth0")
	f.API1.Freeze()
}

func (f *Failover) address(h *Host) string {
	i := slices.Index([]*Host{f.One, f.Two}, h) + 1
	if f.IPv6 {
		return fmt.Sprintf("2001:db8::1%d", i)
	}
	return fmt.Sprintf("10.0.0.1%d", i)
}

// forward has the first host forward packets for the VIP once it has lost it.
func (f *Failover) forward() {
	f.One.Sysctl("net/ipv4/ip_forward", "1")
	f.One.Sysctl("net/ipv6/conf/all/forwarding", "1")
}

// loseFirstBroadcast has the second host miss the first broadcast after the
// break.
func (f *Failover) loseFirstBroadcast() {
	var lost bool
	f.Two.RespondARP(f.ports[1], failoverMAC2, []string{f.VIP.String()}, func(r Request) (time.Duration, bool) {
		switch {
		case !f.broken.Load():
			return 0, false
		case r.Broadcast && !lost:
			lost = true
			return 0, false
		}
		return 0, true
	})
}

// confirm has an application on the node vouch for the VIP's entry all the time
// (MSG_CONFIRM), whoever holds it.
func (f *Failover) confirm() {
	fd := -1
	to := sockaddr(netip.AddrPortFrom(f.VIP, 9))
	family := unix.AF_INET
	if f.VIP.Is6() {
		family = unix.AF_INET6
	}
	f.Lab.check(f.Node.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}), "confirming")
	f.every(100*time.Millisecond, func(int) { _ = unix.Sendto(fd, []byte("confirm"), unix.MSG_CONFIRM, to) },
		func() { _ = unix.Close(fd) })
}

// announce has the first host announce itself as kube-vip does: every 3 s, by
// gratuitous ARP requests and replies in turn, or by unsolicited advertisements.
// The first comes at once, and the second after half that time: the client connects
// again some 6 s after the break, and asks every second from then on, and what it
// sends between an announcement and its undoing is answered by a reset.
func (f *Failover) announce() {
	send, end := f.announcer(f.One)
	send(0)
	f.every(1500*time.Millisecond, func(n int) {
		if n%2 == 0 {
			send(n/2 + 1)
		}
	}, end)
}

// Announce has a host announce itself once.
func (f *Failover) Announce(h *Host) {
	send, end := f.announcer(h)
	defer end()
	send(0)
}

// announcer returns what announces a host, by one kind of frame or, in ARP, the other
// in turn, and what ends it.
func (f *Failover) announcer(h *Host) (send func(n int), end func()) {
	fd := -1
	f.Lab.check(h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}), "announcing")
	i := slices.Index([]*Host{f.One, f.Two}, h)
	mac, _ := net.ParseMAC([]string{failoverMAC1, failoverMAC2}[i])
	return func(n int) {
		b := gratuitousARP(mac, f.VIP, uint16(1+n%2))
		if f.IPv6 {
			b = unsolicitedNA(mac, f.VIP)
		}
		_ = unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: f.ports[i].Index, Halen: 6})
	}, func() { _ = unix.Close(fd) }
}

var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// gratuitousARP is a frame of RFC 826 that everybody hears: a request (1) or a
// reply (2).
func gratuitousARP(mac net.HardwareAddr, a netip.Addr, op uint16) []byte {
	b := slices.Concat(everybody, mac, []byte{8, 6, 0, 1, 8, 0, 6, 4})
	b = binary.BigEndian.AppendUint16(b, op)
	return slices.Concat(b, mac, a.AsSlice(), everybody, a.AsSlice())
}

// unsolicitedNA is a frame of RFC 4861 section 7.2.6, with the Override flag.
func unsolicitedNA(mac net.HardwareAddr, a netip.Addr) []byte {
	all := netip.MustParseAddr("ff02::1")
	icmp := slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, a.AsSlice(), []byte{2, 1}, mac)
	sum := uint32(len(icmp) + unix.IPPROTO_ICMPV6)
	for _, b := range [][]byte{a.AsSlice(), all.AsSlice(), icmp} {
		for ; len(b) > 0; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
	}
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum>>16+sum&0xffff))
	return slices.Concat([]byte{0x33, 0x33, 0, 0, 0, 1}, mac, []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255},
		a.AsSlice(), all.AsSlice(), icmp)
}

// flood sends datagrams to the VIP, so many that what a zombie gets can be
// counted.
func (f *Failover) flood() {
	var tx net.Conn
	f.Lab.check(f.Node.Do(func() (err error) {
		tx, err = net.Dial("udp", netip.AddrPortFrom(f.VIP, 7000).String())
		return err
	}), "sending to the VIP")
	f.every(time.Millisecond, func(n int) { _ = sendNumber(tx, uint64(n)) }, func() { _ = tx.Close() })
}

// name has the name vip.lab resolve to an address, for the node's agent alone.
func (f *Failover) name(a netip.Addr) {
	f.Lab.check(os.WriteFile(f.hostsFile(), []byte(a.String()+" vip.lab\n"), 0o600), "naming the VIP")
}

func (f *Failover) hostsFile() string { return f.CAFile + ".hosts" }

// every calls fn with growing numbers until the failover is closed.
func (f *Failover) every(period time.Duration, fn func(n int), last func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer last()
		_ = every(ctx, period, func(n uint64) error {
			fn(int(n))
			return nil
		})
	})
	f.background = append(f.background, func() {
		cancel()
		wg.Wait()
	})
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// sink counts the datagrams for the VIP that arrive at a host.
type sink struct {
	count atomic.Uint64
	first atomic.Int64 // when, in Unix nanoseconds; 0: none yet
}

func (s *sink) reset() {
	s.count.Store(0)
	s.first.Store(0)
}

// listen opens a sink on the host, whether it has the VIP or not.
func (f *Failover) listen(h *Host) *sink {
	s := &sink{}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) }), err)
	}}
	var rx net.PacketConn
	f.Lab.check(h.Do(func() (err error) {
		rx, err = lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(f.VIP, 7000).String())
		return err
	}), "listening on host %s", h.Name)
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, datagramSize)
		for {
			if _, _, err := rx.ReadFrom(b); err != nil {
				return
			}
			s.count.Add(1)
			s.first.CompareAndSwap(0, time.Now().UnixNano())
		}
	})
	f.Lab.closers = append(f.Lab.closers, func() {
		_ = rx.Close()
		wg.Wait()
	})
	return s
}
