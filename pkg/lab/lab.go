// Package lab builds small networks out of network namespaces: hosts on a
// switch, with their own neighbour tables, on one machine that stays as it is.
// Tests and the programs under hack/ run the real kernel in it. The product
// does not import it.
//
// Namespaces are anonymous, held by a file descriptor, and vanish with the
// process however it ends.
package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Lab is a set of hosts and switches that Close takes down.
type Lab struct {
	fail    func(error)
	closers []func()
}

// New returns an empty lab. Whatever goes wrong while building it is handed to
// fail, which must not return: a lab with a part missing is of no use.
func New(fail func(error)) *Lab { return &Lab{fail: fail} }

// Close removes everything the lab made.
func (l *Lab) Close() {
	for i := len(l.closers) - 1; i >= 0; i-- {
		l.closers[i]()
	}
	l.closers = nil
}

func (l *Lab) check(err error, format string, args ...any) {
	if err != nil {
		l.fail(fmt.Errorf("lab: %s: %w", fmt.Sprintf(format, args...), err))
	}
}

// Host is a network namespace with a loopback device that is up.
type Host struct {
	Name string

	lab *Lab
	ns  netns.NsHandle
	nl  *netlink.Handle
}

// Host makes a host. It does not forward packets: a kernel whose first
// namespace does passes that on to new ones, and a router in the lab would
// repair by itself what a test wants broken.
func (l *Lab) Host(name string) *Host {
	ns, err := newNamespace()
	l.check(err, "host %s", name)
	l.closers = append(l.closers, func() { _ = ns.Close() })
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	l.check(err, "host %s", name)
	l.closers = append(l.closers, h.Close)
	host := &Host{Name: name, lab: l, ns: ns, nl: h}
	lo, err := h.LinkByName("lo")
	l.check(err, "host %s", name)
	l.check(h.LinkSetUp(lo), "host %s", name)
	host.Sysctl("net/ipv4/ip_forward", "0")
	host.Sysctl("net/ipv6/conf/all/forwarding", "0")
	host.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	return host
}

// newNamespace makes a network namespace without moving the caller into it.
func newNamespace() (netns.NsHandle, error) {
	type result struct {
		ns  netns.NsHandle
		err error
	}
	c := make(chan result)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so no other
		// goroutine can find itself in the new namespace.
		runtime.LockOSThread()
		ns, err := netns.New()
		c <- result{ns, err}
	}()
	r := <-c
	if r.err != nil {
		return r.ns, fmt.Errorf("creating a network namespace: %w", r.err)
	}
	return r.ns, nil
}

// Do runs fn on a thread inside the host's namespace. Sockets that fn opens
// stay there and may be used by any goroutine afterwards.
func (h *Host) Do(fn func() error) error {
	c := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(h.ns); err != nil {
			c <- fmt.Errorf("entering host %s: %w", h.Name, err)
			return
		}
		c <- fn()
	}()
	return <-c
}

// Start starts cmd on the host.
func (h *Host) Start(cmd *exec.Cmd) error {
	if err := h.Do(cmd.Start); err != nil {
		return fmt.Errorf("on host %s: %w", h.Name, err)
	}
	return nil
}

// Try runs a command on the host and returns its standard output. The error
// carries what it wrote to standard error.
func (h *Host) Try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := h.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s %s on host %s: %w: %s", name, strings.Join(args, " "), h.Name, err,
			strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Run is Try for commands that must succeed.
func (h *Host) Run(name string, args ...string) string {
	out, err := h.Try(name, args...)
	if err != nil {
		h.lab.fail(err)
	}
	return out
}

// IP runs iproute2's ip on the host; args is split at white space.
func (h *Host) IP(args string) string {
	out := h.Run("ip", strings.Fields(args)...)
	h.added(args)
	return out
}

// added waits until an IPv6 address that ip has added is in use.
func (h *Host) added(args string) {
	f := strings.Fields(args)
	if len(f) < 5 || f[0] != "addr" || f[1] != "add" || f[3] != "dev" {
		return
	}
	ip, _, err := net.ParseCIDR(f[2])
	if err != nil || ip.To4() != nil {
		return
	}
	link, err := h.nl.LinkByName(f[4])
	h.lab.check(err, "address %s on host %s", f[2], h.Name)
	switch {
	case link.Attrs().RawFlags&unix.IFF_UP == 0:
	case link.Attrs().RawFlags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) != 0:
		err = h.routed(ip)
	case link.Attrs().OperState == netlink.OperUp:
		err = h.answers(f[4], ip)
	}
	h.lab.check(err, "address %s on host %s", f[2], h.Name)
}

// routed waits until an IPv6 address has a route of its own in the table local.
func (h *Host) routed(ip net.IP) error {
	route := fmt.Sprintf("%x 80 ", []byte(ip.To16()))
	return awaited("have its own address", func() (bool, error) {
		b, err := h.read("/proc/thread-self/net/ipv6_route")
		return strings.Contains(b, route), err
	})
}

// read reads a file as it is on the host.
func (h *Host) read(path string) (string, error) {
	var b []byte
	err := h.Do(func() (err error) {
		b, err = os.ReadFile(path)
		return err
	})
	return string(b), err
}

// Sysctl writes a setting of the host, named by its path below /proc/sys.
func (h *Host) Sysctl(path, value string) {
	err := h.Do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) })
	h.lab.check(err, "host %s", h.Name)
}

// Switch is a bridge in a namespace of its own.
type Switch struct {
	host   *Host
	bridge netlink.Link
	ports  int
}

// Switch makes a switch with no ports. It does not snoop multicast, so that
// Neighbor Discovery works from the first frame on.
func (l *Lab) Switch() *Switch {
	h := l.Host("switch")
	snoop := false
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}, MulticastSnooping: &snoop}
	l.check(errors.Join(h.nl.LinkAdd(br), h.nl.LinkSetUp(br)), "making a bridge")
	return &Switch{host: h, bridge: br}
}

// Host returns the switch's own namespace, where frames can be filtered.
func (s *Switch) Host() *Host { return s.host }

// Port is a device of a host that is plugged into a switch.
type Port struct {
	Index int    // of the device, on the host
	Name  string // of the port, on the switch
}

// Plug connects a new device of the host to the switch. mac may be empty;
// addrs are addresses with their prefix length.
func (h *Host) Plug(s *Switch, dev, mac string, addrs ...string) Port {
	port := fmt.Sprintf("p%d", s.ports)
	s.ports++
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: port, MasterIndex: s.bridge.Attrs().Index},
		PeerName:      dev,
		PeerNamespace: netlink.NsFd(int(h.ns)),
	}
	var err error
	if mac != "" {
		veth.PeerHardwareAddr, err = net.ParseMAC(mac)
		h.lab.check(err, "plugging %s of host %s", dev, h.Name)
	}
	h.lab.check(errors.Join(s.host.nl.LinkAdd(veth), s.host.nl.LinkSetUp(veth)), "plugging %s of host %s", dev, h.Name)
	link, err := h.nl.LinkByName(dev)
	h.lab.check(err, "plugging %s of host %s", dev, h.Name)
	h.lab.check(h.nl.LinkSetUp(link), "plugging %s of host %s", dev, h.Name)
	h.lab.check(errors.Join(carrier(h.nl, dev), carrier(s.host.nl, port)), "plugging %s of host %s", dev, h.Name)
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		h.lab.check(err, "address %s", a)
		addr.Flags |= unix.IFA_F_NODAD
		h.lab.check(h.nl.AddrAdd(link, addr), "address %s on host %s", a, h.Name)
		h.lab.check(h.answers(dev, addr.IP), "address %s on host %s", a, h.Name)
	}
	return Port{Index: link.Attrs().Index, Name: port}
}

// carrier waits until a device carries frames. It is up before its carrier is
// (linkwatch), and until then what is sent is dropped without a word.
func carrier(nl *netlink.Handle, dev string) error {
	return awaited("carry frames", func() (bool, error) {
		link, err := nl.LinkByName(dev)
		return err == nil && link.Attrs().OperState == netlink.OperUp, err
	})
}

// answers waits until the host answers solicitations for an IPv6 address: it joins
// the group that they are sent to a little later, and has a route to itself then
// (addrconf_dad_work).
func (h *Host) answers(dev string, ip net.IP) error {
	if ip.To4() != nil {
		return nil
	}
	// The solicited-node address (RFC 4291 section 2.7.1), as /proc/net/igmp6 has it.
	group := fmt.Sprintf(" ff0200000000000000000001ff%x ", []byte(ip[13:]))
	err := awaited("answer solicitations", func() (bool, error) {
		joined, err := h.read("/proc/thread-self/net/igmp6")
		for line := range strings.Lines(joined) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[1] == dev && strings.Contains(line, group) {
				return true, err
			}
		}
		return false, err
	})
	// Both happen under the lock that this request takes (RTNL).
	_, locked := h.nl.LinkByName(dev)
	return errors.Join(err, locked)
}

// awaited polls until ok, for ten seconds or more.
func awaited(what string, ok func() (bool, error)) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range 5000 {
		if done, err := ok(); done || err != nil {
			return err
		}
		<-tick.C
	}
	return fmt.Errorf("it does not %s", what)
}

// Batch runs many ip commands, one a line, in one process.
func (h *Host) Batch(lines string) {
	cmd := exec.Command("ip", "-force", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := h.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	h.lab.check(err, "ip -batch: %s", strings.TrimSpace(out.String()))
	for line := range strings.Lines(lines) {
		h.added(line)
	}
}
