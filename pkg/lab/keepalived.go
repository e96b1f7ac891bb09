package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// Keepalived is a keepalived that runs on one of the hosts that can hold the VIP
// of a Failover, and shares it with the other one's by VRRP (RFC 5798).
type Keepalived struct {
	f        *Failover
	host     *Host
	dir      string
	cmd      *exec.Cmd
	ended    chan struct{} // closed when it has been waited for
	mu       sync.Mutex
	log      bytes.Buffer // guarded by mu
	stopOnce sync.Once
}

// Keepalived starts keepalived on a host with the given VRRP priority, 1 to 254;
// the higher one holds the VIP. It is stopped with the failover. The error is
// that of the command, exec.ErrNotFound among others.
func (f *Failover) Keepalived(h *Host, priority int) (*Keepalived, error) {
	k := &Keepalived{f: f, host: h, dir: filepath.Join(filepath.Dir(f.CAFile), "keepalived-"+h.Name), ended: make(chan struct{})}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, err
	}
	if err := k.configure(priority); err != nil {
		return nil, err
	}
	k.cmd = exec.Command("keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file", k.file("conf"),
		"--pid", k.file("pid"), "--vrrp_pid", k.file("vrrp.pid"))
	k.cmd.Stdout, k.cmd.Stderr = k, k
	if err := h.Start(k.cmd); err != nil {
		return nil, err
	}
	go func() {
		_ = k.cmd.Wait()
		close(k.ended)
	}()
	f.background = append(f.background, k.Stop)
	return k, nil
}

func (k *Keepalived) file(name string) string { return filepath.Join(k.dir, name) }

// configure writes the configuration. Advertisements are sent by unicast, and
// everything else is keepalived's default: one a second, and the other host takes
// over when three, and a little more, are missing.
func (k *Keepalived) configure(priority int) error {
	other := k.f.One
	if k.host == k.f.One {
		other = k.f.Two
	}
	conf := fmt.Sprintf(`global_defs {
	router_id %s
}
vrrp_instance VIP {
	state BACKUP
	interface eth0
	virtual_router_id 51
	priority %d
	unicast_src_ip %s
	unicast_peer {
		%s
	}
	virtual_ipaddress {
		%s/%d dev eth0
	}
}
`, k.host.Name, priority, k.f.address(k.host), k.f.address(other), k.f.VIP, k.f.bits())
	return os.WriteFile(k.file("conf"), []byte(conf), 0o600)
}

// Prioritize gives it another priority, and has it read that (SIGHUP).
func (k *Keepalived) Prioritize(priority int) error {
	return errors.Join(k.configure(priority), k.cmd.Process.Signal(syscall.SIGHUP))
}

// Crash kills it, as when the kernel is out of memory: the host keeps the VIP if
// it has it.
func (k *Keepalived) Crash() error {
	text, err := os.ReadFile(k.file("vrrp.pid"))
	if err != nil {
		return err
	}
	vrrp, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", k.file("vrrp.pid"), err)
	}
	// The parent would start another child, and the child takes the VIP off the
	// device when its parent dies. The parent stands still first.
	err = errors.Join(k.cmd.Process.Signal(syscall.SIGSTOP), syscall.Kill(vrrp, syscall.SIGKILL), k.cmd.Process.Kill())
	<-k.ended
	return err
}

// Stop ends it as a service manager does (SIGTERM): it gives the VIP up. It waits
// until it has ended.
func (k *Keepalived) Stop() {
	k.stopOnce.Do(func() { _ = k.cmd.Process.Signal(syscall.SIGTERM) })
	select {
	case <-k.ended:
	case <-time.After(5 * time.Second):
		_ = k.cmd.Process.Kill()
		<-k.ended
	}
}

// Write takes what keepalived logs.
func (k *Keepalived) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.log.Write(b)
}

// Log returns what keepalived has logged.
func (k *Keepalived) Log() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.log.String()
}

// Has waits until the host has the VIP, or has not, and reports whether that came
// to be.
func (f *Failover) Has(h *Host, want bool, within time.Duration) bool {
	return poll(within, func() bool {
		addrs, err := h.nl.AddrList(nil, netlink.FAMILY_ALL)
		has := false
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP)
			has = has || ip.Unmap() == f.VIP
		}
		return err == nil && has == want
	})
}

// Served waits until a host, or if that is "" any host, serves the client on the
// node once more, and reports whether it did.
func (f *Failover) Served(host string, within time.Duration) bool {
	return f.client.Await(host, within)
}

// LoseAnnouncements has the switch drop what the hosts announce of the VIP on its
// way to the node. The function that it returns says how much of a host that was.
func (f *Failover) LoseAnnouncements() (lost func(*Host) int) {
	sw := f.Switch.Host()
	rules := "add table bridge lab\nadd chain bridge lab towards { type filter hook forward priority 0; }\n"
	for h, mac := range map[*Host]string{f.One: failoverMAC1, f.Two: failoverMAC2} {
		rules += "add counter bridge lab " + h.Name + "\n"
		for _, announcement := range []string{
			"arp saddr ip 10.0.0.100 arp daddr ip 10.0.0.100",
			"ip6 daddr ff02::1 icmpv6 type nd-neighbor-advert",
		} {
			rules += fmt.Sprintf("add rule bridge lab towards oifname %s ether saddr %s %s counter name %s drop\n", f.nodePort.Name, mac, announcement, h.Name)
		}
	}
	sw.Run("nft", rules)
	return func(h *Host) int {
		_, rest, _ := strings.Cut(sw.Run("nft", "list", "counter", "bridge", "lab", h.Name), "packets ")
		n, _ := strconv.Atoi(strings.Fields(rest + " ?")[0])
		return n
	}
}

// Naming says which host the node's entry for the VIP names, and since when.
type Naming struct {
	At   time.Time
	Host string // "one", "two", or a link-layer address
}

// Follow records which host the node's entry for the VIP names, by the kernel's
// notifications. The function that it returns says what it was so far, first which
// it named when Follow was called; an entry that names nobody for a while is no
// change.
func (f *Failover) Follow() (so func() []Naming) {
	var mu sync.Mutex
	var all []Naming
	names := map[string]string{failoverMAC1: "one", failoverMAC2: "two"}
	note := func(lladdr string) {
		mu.Lock()
		defer mu.Unlock()
		if name, ok := names[lladdr]; ok {
			lladdr = name
		}
		if lladdr != "" && (len(all) == 0 || all[len(all)-1].Host != lladdr) {
			all = append(all, Naming{time.Now(), lladdr})
		}
	}
	updates, done := make(chan netlink.NeighUpdate), make(chan struct{})
	f.Lab.check(f.Node.Do(func() error { return netlink.NeighSubscribe(updates, done) }), "following the entry of host node")
	note(f.Named())
	var wg sync.WaitGroup
	wg.Go(func() {
		for u := range updates {
			if ip, _ := netip.AddrFromSlice(u.IP); ip.Unmap() == f.VIP && u.State&named != 0 {
				note(u.HardwareAddr.String())
			}
		}
	})
	f.background = append(f.background, func() {
		close(done)
		wg.Wait()
	})
	return func() []Naming {
		mu.Lock()
		defer mu.Unlock()
		return append([]Naming(nil), all...)
	}
}
