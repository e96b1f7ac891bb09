package lab

import (
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

const (
	soon = 5 * time.Second // for what must happen
	hush = 300 * time.Millisecond
	beat = 10 * time.Millisecond
)

var vip = netip.MustParseAddrPort("10.0.0.100:6443")

// cluster is a client and API servers for one address, which a has.
func cluster(t *testing.T) (l *Lab, ca *CA, node, a, b *Host) {
	t.Helper()
	l = Start(t)
	sw := l.Switch()
	node, a, b = l.Host("node"), l.Host("a"), l.Host("b")
	node.Plug(sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24")
	a.Plug(sw, "eth0", "02:00:00:00:00:0a", "10.0.0.10/24", "10.0.0.100/32")
	b.Plug(sw, "eth0", "02:00:00:00:00:0b", "10.0.0.11/24")
	return l, l.CA(), node, a, b
}

func (c *APIClient) must(t *testing.T, host string) {
	t.Helper()
	if !c.Await(host, soon) {
		last, at := c.LastServed()
		t.Fatalf("%q did not answer, %q did %v ago", host, last, time.Since(at))
	}
}

// until polls for what no event tells.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	timer := time.NewTimer(soon)
	defer timer.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timer.C:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestFrozenAPIKeepsItsConnections(t *testing.T) {
	_, ca, node, a, _ := cluster(t)
	api := a.ServeAPI(ca, "0.0.0.0:6443", []string{"10.0.0.100"})
	c := node.Client(ca, vip, beat)
	c.must(t, "a")
	api.Freeze()
	api.Freeze()
	// What was under way comes through, and then nothing does.
	c.Await("a", hush/3)
	if c.Await("", hush) {
		t.Error("answered while frozen")
	}
	var conn net.Conn
	if err := node.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", vip.String(), soon)
		return err
	}); err != nil {
		t.Fatalf("the kernel of a frozen server accepts connections, but: %v", err)
	}
	defer conn.Close()
	if n := api.Conns(); n != 1 {
		t.Errorf("%d connections accepted, want 1", n)
	}
	api.Thaw()
	api.Thaw()
	c.must(t, "a")
	until(t, "the connection of the freeze is accepted", func() bool { return api.Conns() == 2 })
	if c.Reconnects() != 0 || c.Resets() != 0 || api.Livez() != 0 {
		t.Errorf("%d reconnects, %d resets, %d requests for /livez, want none", c.Reconnects(), c.Resets(), api.Livez())
	}
}

func TestKilledAPIComesBack(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		_, ca, node, a, _ := cluster(t)
		api := a.ServeAPI(ca, "10.0.0.100:6443", []string{"10.0.0.100"})
		c := node.Client(ca, vip, beat)
		c.must(t, "a")
		if frozen {
			api.Freeze()
		}
		api.Kill()
		until(t, "connection refused", func() bool { return c.Resets() > 0 })
		a.ServeAPI(ca, "10.0.0.100:6443", []string{"10.0.0.100"})
		c.must(t, "a")
		if n := c.Reconnects(); n != 1 {
			t.Errorf("frozen %v: %d reconnects, want 1", frozen, n)
		}
	}
}

// The new holder of an address knows nothing of the old one's connections.
func TestClientFollowsTheAddress(t *testing.T) {
	_, ca, node, a, b := cluster(t)
	a.ServeAPI(ca, "10.0.0.100:6443", []string{"10.0.0.100"})
	b.ServeAPI(ca, "10.0.0.100:6443", []string{"10.0.0.100"}) // not there yet
	c := node.Client(ca, vip, beat)
	c.must(t, "a")
	a.IP("addr del 10.0.0.100/32 dev eth0")
	b.IP("addr add 10.0.0.100/32 dev eth0")
	node.IP("neigh replace 10.0.0.100 lladdr 02:00:00:00:00:0b dev eth0 nud reachable")
	c.must(t, "b")
	if c.Resets() != 1 || c.Reconnects() != 1 {
		t.Errorf("%d resets, %d reconnects, want 1 and 1", c.Resets(), c.Reconnects())
	}
}

func TestClientTrustsOnlyItsCA(t *testing.T) {
	l, ca, node, a, b := cluster(t)
	impostor := a.ServeAPI(l.CA(), "[::]:6443", []string{"10.0.0.100"})
	c := node.Client(ca, vip, beat)
	until(t, "the client tries twice", func() bool { return impostor.Conns() > 1 })
	if last, _ := c.LastServed(); last != "" || c.Resets() != 0 || c.Reconnects() != 0 {
		t.Errorf("served by %q, %d resets, %d reconnects, want none", last, c.Resets(), c.Reconnects())
	}
	api := b.ServeAPI(ca, "[::]:0", []string{"10.0.0.11", "kubernetes"})
	node.Client(ca, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.11"), api.Addr().Port()), time.Hour).must(t, "b")
}

func TestNothingOutlivesTheLab(t *testing.T) {
	l, ca, node, a, _ := cluster(t)
	api := a.ServeAPI(ca, "0.0.0.0:6443", []string{"10.0.0.100"})
	c := node.Client(ca, vip, beat)
	c.must(t, "a")
	api.Freeze()
	l.Close()
	until(t, "all goroutines of API servers and clients end", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "lab/apiserver.go")
	})
}
