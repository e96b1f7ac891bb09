package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// successorMAC is the host that the VIP moves to.
const successorMAC = "02:00:00:00:01:02"

// field is a failover as it is met in the field: with a client of the API server,
// and an agent on the node or, for comparison, none.
type field struct {
	*lab.Failover
	t      *testing.T
	c      lab.FailoverCase
	alone  bool // there is no agent
	client *lab.APIClient
	p      *process
}

func newField(t *testing.T, alone bool, args ...string) *field {
	t.Helper()
	s := &field{t: t, alone: alone, c: lab.FailoverCase{Name: t.Name(), Args: args}}
	s.Failover = lab.NewFailover(lab.Start(t), &s.c, false, t.TempDir())
	t.Cleanup(s.Close)
	return s
}

func (s *field) vip() netip.AddrPort { return netip.AddrPortFrom(s.VIP, 6443) }

// give puts the VIP on a device of a host, without a word to anybody, and take
// removes it.
func (s *field) give(h *lab.Host, dev string) { h.IP(fmt.Sprintf("addr add %s/32 dev %s", s.VIP, dev)) }
func (s *field) take(h *lab.Host, dev string) { h.IP(fmt.Sprintf("addr del %s/32 dev %s", s.VIP, dev)) }

// talks starts the client, and waits until the first host serves it. name is in the
// server's certificate; the client's sockets are bound to the device, if there is one.
func (s *field) talks(name, device string) {
	s.t.Helper()
	s.client = s.Node.ClientBy(s.CA, s.vip(), name, device, time.Second)
	if !s.client.Await("one", 5*time.Second) {
		s.t.Fatal("the API server does not answer the client")
	}
}

// agent starts the agent, and waits until it watches the VIP; vip is what the agent
// calls it.
func (s *field) agent(vip string) {
	s.t.Helper()
	if s.alone {
		return
	}
	s.p = prepare(s.t, s.Node)
	cmd := s.Agent(&s.c, "/proc/self/exe")
	cmd.Args, cmd.Env, cmd.Stderr = append(cmd.Args, "--log-level=debug"), s.p.cmd.Env, &s.p.stderr
	s.p.cmd = cmd
	s.p.launch(nil)
	s.t.Cleanup(func() {
		s.p.kill()
		if s.t.Failed() {
			s.t.Logf("the agent's log:\n%s\n%s", last(s.p.stderr.String(), 60), s.Node.IP("-s neigh"))
		}
	})
	s.p.ready()
	if !s.Says(fmt.Sprintf("arp_cache_cleaner_vip_held_here{vip=%q}", vip), 10*time.Second) {
		s.t.Fatalf("the agent does not watch %s", vip)
	}
}

// calm watches for d that every look at the agent's metrics shows all of the samples.
func (s *field) calm(d time.Duration, samples ...string) {
	s.t.Helper()
	for begun := time.Now(); time.Since(begun) < d; <-time.After(200 * time.Millisecond) {
		_, body := s.p.get("http://127.0.0.1:10330/metrics")
		for _, sample := range samples {
			if !strings.Contains(body, "arp_cache_cleaner_"+sample+"\n") {
				s.t.Fatalf("after %v the agent does not say %s", time.Since(begun), sample)
			}
		}
		if age := s.p.metric(fmt.Sprintf("vip_verified_age_seconds{vip=%q}", s.VIP)); age > 5 {
			s.t.Fatalf("the VIP was last known to work %v s ago", age)
		}
	}
}

// moves are situations in which the entry has to go from the first host to the
// second, within a time. Without the agent it does not.
var moves = []struct {
	name  string
	limit time.Duration
	do    func(*field)
}{
	{"the certificate names no address, and the holder hangs", 15 * time.Second, func(s *field) {
		const name = "kubernetes.default.svc"
		for api, h := range map[**lab.API]*lab.Host{&s.API1: s.One, &s.API2: s.Two} {
			(*api).Kill()
			*api = h.ServeAPI(s.CA, "[::]:6443", []string{name})
		}
		s.talks(name, "")
		s.agent(s.VIP.String())
		s.give(s.Two, "eth0")
		s.API1.Freeze()
	}},
	{"the holder says that it cannot serve", 15 * time.Second, func(s *field) {
		s.talks(s.VIP.String(), "")
		s.agent(s.VIP.String())
		s.give(s.Two, "eth0")
		s.API1.Ail()
	}},
	{"the holder closes what it accepts, and several clients try", 15 * time.Second, func(s *field) {
		s.talks(s.VIP.String(), "")
		for i := range 3 {
			c := s.Node.Client(s.CA, s.vip(), time.Second+time.Duration(i)*230*time.Millisecond)
			if !c.Await("one", 5*time.Second) {
				s.t.Fatal("the API server does not answer the clients")
			}
		}
		s.agent(s.VIP.String())
		s.give(s.Two, "eth0")
		s.API1.Drop()
	}},
	{"the agent starts while connections are refused", 7 * time.Second, func(s *field) {
		s.talks(s.VIP.String(), "")
		s.API1.Kill()
		within(s.t, 5*time.Second, "connections are refused", func() bool { return s.client.Resets() > 1 })
		s.agent(s.VIP.String())
		s.give(s.Two, "eth0")
	}},
	{"sockets are bound to a device", lab.RepairLimit, func(s *field) {
		s.Node.Plug(s.Switch, "eth1", "02:00:00:00:00:03", "10.0.0.3/32")
		for _, conf := range []string{"all", "eth1"} {
			s.Node.Sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0")
		}
		s.Node.IP("rule add oif eth1 lookup 100")
		s.Node.IP("route add 10.0.0.0/24 dev eth1 src 10.0.0.3 table 100")
		for _, h := range []*lab.Host{s.One, s.Two} {
			h.IP("neigh replace 10.0.0.3 dev eth0 nud permanent lladdr 02:00:00:00:00:03")
		}
		s.talks(s.VIP.String(), "eth1")
		s.agent(s.VIP.String() + "%eth1")
		s.take(s.One, "eth0")
		s.give(s.Two, "eth0")
	}},
	{"this node had the VIP, first of the addresses of a device", lab.RepairLimit + time.Second, func(s *field) {
		s.Node.ServeAPI(s.CA, "[::]:6443", []string{s.VIP.String()})
		s.talks(s.VIP.String(), "")
		s.agent(s.VIP.String())
		s.take(s.One, "eth0")
		s.Node.IP("link add vrrp.25 link eth0 type macvlan mode private")
		s.Node.IP("link set vrrp.25 up")
		s.Node.IP(fmt.Sprintf("addr add %s/24 dev vrrp.25", s.VIP))
		if !s.client.Await("node", 20*time.Second) {
			s.t.Fatal("the node's own server does not answer the client")
		}
		if !s.alone && !s.Says(fmt.Sprintf("vip_held_here{vip=%q} 1", s.VIP), 10*time.Second) {
			s.t.Error("the agent does not say that the VIP is held here")
		}
		s.Node.IP(fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud stale", s.VIP, holderMAC)) // the kernel would keep it for long
		s.Node.IP(fmt.Sprintf("addr del %s/24 dev vrrp.25", s.VIP))
		s.give(s.Two, "eth0")
	}},
}

func TestMoves(t *testing.T) {
	t.Parallel()
	for _, m := range moves {
		for _, alone := range []bool{false, true} {
			t.Run(m.name+map[bool]string{false: "", true: ", without the agent"}[alone], func(t *testing.T) {
				t.Parallel()
				s := newField(t, alone)
				m.do(s)
				begun := time.Now()
				if alone {
					for time.Since(begun) < m.limit+2*time.Second {
						if s.Named() == successorMAC {
							t.Fatalf("the kernel follows by itself after %v: this shows nothing", time.Since(begun))
						}
						<-time.After(50 * time.Millisecond)
					}
					return
				}
				within(t, m.limit, "the entry names the new holder", func() bool { return s.Named() == successorMAC })
				t.Logf("after %v", time.Since(begun))
				if !s.client.Await("two", 5*time.Second) {
					t.Error("the new holder does not serve the client")
				}
				for begun := time.Now(); time.Since(begun) < 3*time.Second; <-time.After(20 * time.Millisecond) {
					if named := s.Named(); named != successorMAC {
						t.Fatalf("then it names %q", named)
					}
				}
			})
		}
	}
}

// Two link-layer addresses that answer for the VIP are told from two hosts: by a
// connection, and without a packet of anybody else going another way.
func TestTwoLinkLayerAddresses(t *testing.T) {
	t.Parallel()
	for name, one := range map[string]bool{"of one host": true, "of two hosts": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newField(t, false, "--interval=20s") // everybody is asked more often
			if one {
				s.One.Plug(s.Switch, "eth1", "02:00:00:00:01:03") // it answers for eth0's addresses: arp_ignore is 0
			} else {
				s.give(s.Two, "eth0") // its server has a certificate for the same address, of the same CA
			}
			s.Node.IP(fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud reachable", s.VIP, holderMAC)) // else either may be first
			s.talks(s.VIP.String(), "")
			s.agent(s.VIP.String())
			if two := fmt.Sprintf("vip_holders{one_host=\"%v\",vip=%q} 2", one, s.VIP); !s.Says(two, 40*time.Second) {
				t.Fatalf("the agent does not say %s", two)
			}
			within(t, 10*time.Second, "the service is checked", func() bool { return s.p.metric(fmt.Sprintf("vip_checks_total{result=\"served\",vip=%q}", s.VIP)) > 0 })
			if two := fmt.Sprintf("vip_holders{one_host=\"%v\",vip=%q} 2", one, s.VIP); !s.Says(two, 2*time.Second) {
				t.Errorf("after a check the agent does not say %s", two)
			}
			if named := s.Named(); named != holderMAC {
				t.Errorf("the entry names %s", named)
			}
			if n := s.client.Resets(); n > 0 {
				t.Errorf("%d connections of the client were reset", n)
			}
			if got := strings.Count(s.p.stderr.String(), "link-layer addresses of one host"); got != map[bool]int{true: 1}[one] {
				t.Errorf("said %d times that it is one host", got)
			}
		})
	}
}

// A VIP that this node's firewall translates has no neighbour. It works, and nobody
// is told otherwise.
func TestTranslatedVIP(t *testing.T) {
	t.Parallel()
	s := newField(t, false)
	s.take(s.One, "eth0")
	s.Node.Firewall(t, `table ip nat {
		chain output { type nat hook output priority -100; ip daddr `+s.VIP.String()+` tcp dport 6443 dnat to 10.0.0.11; }
	}`)
	s.talks(s.VIP.String(), "")
	s.agent(s.VIP.String())
	translated := func() bool {
		_, body := s.p.get("http://127.0.0.1:10330/metrics")
		return strings.Contains(body, `vip_state{reason="translated",state="works",vip="10.0.0.100"} 1`)
	}
	within(t, 10*time.Second, "the VIP is known to be translated", translated)
	// It works all the time. Where nothing was received between two looks, as the first
	// round has one follow the other closely, the reason is another for a moment.
	s.calm(8*time.Second, `vip_on_link{vip="10.0.0.100"} 0`, `vip_events_total{event="silent",vip="10.0.0.100"} 0`)
	within(t, 10*time.Second, "the VIP is still known to be translated", translated)
	if named := s.Named(); named != "" {
		t.Errorf("there is a neighbour with the VIP, %s: this shows nothing", named)
	}
	if log := s.p.stderr.String(); strings.Contains(log, "event=") {
		t.Error("something is said to have happened to the VIP")
	}
}

// Whoever connects to this node from the API server's port is no API server.
func TestPeerFromTheServersPort(t *testing.T) {
	t.Parallel()
	s := newField(t, false)
	peer := s.Lab.Host("peer")
	peer.Plug(s.Switch, "eth0", "", "10.0.0.66/24")
	var l net.Listener
	if err := s.Node.Do(func() (err error) {
		l, err = net.Listen("tcp", "10.0.0.1:9100")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	if err := peer.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 66), Port: 6443}}
		c, err = d.DialContext(context.Background(), "tcp", "10.0.0.1:9100")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	// The VIP, which the agent finds in the same list, shows that it has looked.
	s.talks(s.VIP.String(), "")
	s.agent(s.VIP.String())
	s.calm(3*time.Second, `vips{source="auto"} 1`)
	if shown := s.Node.Run("ss", "-Htn", "state", "established"); !strings.Contains(shown, "10.0.0.66:6443") {
		t.Errorf("there is no connection from port 6443:\n%s", shown)
	}
	if log := s.p.stderr.String(); strings.Contains(log, "vip=10.0.0.66") {
		t.Error("the peer is watched")
	}
}

// On a device that is not Ethernet nobody can be asked: that is said once, and the
// connections to the VIP say how it does.
func TestVIPOnAnOddLink(t *testing.T) {
	t.Parallel()
	s := newField(t, false)
	s.VIP = netip.MustParseAddr("10.9.0.100")
	s.Node.OddLink("10.9.0.1/24", s.One, "10.9.0.100/24")
	s.talks("vip.lab", "")
	s.agent(s.VIP.String())
	progress := func() bool {
		_, body := s.p.get("http://127.0.0.1:10330/metrics")
		return strings.Contains(body, `vip_state{reason="tcp_progress",state="works",vip="10.9.0.100"} 1`)
	}
	within(t, 10*time.Second, "a connection shows that the VIP works", progress)
	s.calm(8*time.Second, `vip_events_total{event="silent",vip="10.9.0.100"} 0`)
	within(t, 10*time.Second, "a connection still shows that the VIP works", progress)
	if shown := s.Node.IP("neigh show dev odd0"); !strings.Contains(shown, "02:02:02:02:02:02:02:02") {
		t.Errorf("this is not an odd link:\n%s", shown)
	}
	log := s.p.stderr.String()
	if n := strings.Count(log, "nobody can be asked"); n != 1 || !strings.Contains(log, `level=WARN msg="nobody can be asked`) {
		t.Errorf("said %d times, want once, as a warning", n)
	}
	if strings.Contains(log, "event=") {
		t.Error("something is said to have happened to the VIP")
	}
}

// An entry that another program owns and keeps current is not pinned: nobody has to
// look after it. It is left as it is.
func TestOwnedEntryOfTheVIP(t *testing.T) {
	t.Parallel()
	for flags, pinned := range map[string]bool{"extern_learn nud reachable": false, "managed extern_learn": false, "nud permanent": true} {
		t.Run(flags, func(t *testing.T) {
			t.Parallel()
			s := newField(t, false)
			s.Node.IP(fmt.Sprintf("neigh replace %s lladdr %s dev eth0 %s", s.VIP, holderMAC, flags))
			s.talks(s.VIP.String(), "")
			s.agent(s.VIP.String())
			s.calm(5*time.Second, fmt.Sprintf("vip_pinned{vip=%q} %d", s.VIP, map[bool]int{true: 1}[pinned]),
				fmt.Sprintf(`vip_events_total{event="pinned",vip=%q} %d`, s.VIP, map[bool]int{true: 1}[pinned]))
			shown := s.Node.IP("neigh show " + s.VIP.String())
			for _, want := range strings.Fields(strings.ReplaceAll(flags, "nud ", "")) {
				if want != "reachable" && !strings.Contains(strings.ToLower(shown), want) {
					t.Errorf("the entry is not %s any more: %s", want, shown)
				}
			}
		})
	}
}

// A holder that stands still for a while, as a virtual machine does that is moved or
// copied, does not lose the VIP to a host that answers for it and refuses connections.
func TestHolderStandsStill(t *testing.T) {
	t.Parallel()
	s := newField(t, false)
	s.talks(s.VIP.String(), "")
	s.agent(s.VIP.String())
	s.API2.Kill()
	s.give(s.Two, "eth0")
	sw := s.Switch.Host()
	sw.Firewall(t, `table bridge lab {
		chain still { type filter hook prerouting priority 0; }
		chain to { type filter hook forward priority 0; }
	}`)
	stuns := []time.Duration{1500, 4000, 1500, 4000, 1500, 1500, 4000, 1500, 1500, 1500, 1500, 1500, 1500}
	if testing.Short() {
		stuns = stuns[:2]
	}
	for i, stun := range stuns {
		sw.Firewall(t, `add rule bridge lab still ether saddr `+holderMAC+` drop
			add rule bridge lab to ether daddr `+holderMAC+` counter drop`)
		<-time.After(stun * time.Millisecond)
		if rules := sw.Run("nft", "list", "chain", "bridge", "lab", "to"); strings.Contains(rules, "packets 0 ") {
			t.Errorf("stun %d: it did not stand still:\n%s", i, rules)
		}
		sw.Firewall(t, "flush table bridge lab")
		if !s.client.Await("one", 12*time.Second) {
			t.Errorf("stun %d: the holder does not serve the client", i)
		}
		<-time.After(2*time.Second + time.Duration(i)*100*time.Millisecond)
		if named := s.Named(); named != holderMAC {
			t.Fatalf("stun %d: the entry names %q", i, named)
		}
	}
	if !strings.Contains(s.p.stderr.String(), successorMAC) { // as a duplicate, or in a trial
		t.Error("nobody else answered for the VIP: this shows nothing")
	}
}

// The VIP goes back, announced, to a host that the agent has held off, and that serves
// again. The agent follows about as fast as it finds a holder silent; without it the
// announcement takes the entry at once.
func TestFailbackIsFollowed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	for name, alone := range map[string]bool{"with the agent": false, "without it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newField(t, alone)
			s.talks(s.VIP.String(), "")
			s.agent(s.VIP.String())
			s.give(s.Two, "eth0")
			s.API1.Freeze()
			if alone {
				s.Announce(s.Two)
			}
			within(t, 15*time.Second, "the entry names the other host", func() bool { return s.Named() == successorMAC })
			s.API1.Thaw()
			s.take(s.One, "eth0")
			if !s.client.Await("two", 15*time.Second) {
				t.Fatal("the other host does not serve the client")
			}
			if !alone && !s.Says(s.Sample(&lab.FailoverCase{Says: `vip_events_total{event="held",vip="VIP"} 1`}), time.Second) {
				t.Fatal("the entry is not held: this shows nothing")
			}
			<-time.After(12 * time.Second) // as long as nobody is taken for one that announces itself all the time
			s.take(s.Two, "eth0")
			s.give(s.One, "eth0")
			s.Announce(s.One)
			begun := time.Now()
			within(t, 4*time.Second, "the entry names the first host again", func() bool { return s.Named() == holderMAC })
			<-time.After(500 * time.Millisecond) // it may be undone
			within(t, 4*time.Second, "the entry names the first host again", func() bool { return s.Named() == holderMAC })
			t.Logf("after %v", time.Since(begun))
			if !s.client.Await("one", 5*time.Second) {
				t.Error("the first host does not serve the client")
			}
		})
	}
}

// A server that said that it cannot serve is known to be well again a few seconds after
// its clients are answered: sooner than the next check was due.
func TestWellAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("takes up to a minute")
	}
	t.Parallel()
	s := newField(t, false)
	answered := s.patient()
	within(t, 5*time.Second, "the client is answered", func() bool { return answered.Load() > 0 })
	s.agent(s.VIP.String())
	state := func(state, reason string) string {
		return s.Sample(&lab.FailoverCase{Says: fmt.Sprintf("vip_state{reason=%q,state=%q,vip=\"VIP\"} 1", reason, state)})
	}
	s.API1.Ail()
	if !s.Says(state("failing", "server_error"), 55*time.Second) {
		t.Fatal("the agent does not say that the server fails: this shows nothing")
	}
	checks, before := s.API1.Livez(), answered.Load()
	s.API1.Heal()
	within(t, 5*time.Second, "the client is answered again", func() bool { return answered.Load() > before })
	begun := time.Now()
	if !s.Says(state("works", "tcp_progress"), 15*time.Second) {
		t.Error("not known to be well again within 15 s")
	}
	t.Logf("after %v and %d checks", time.Since(begun), s.API1.Livez()-checks)
}

// patient starts a client that asks for something every second on one connection, and
// waits for each answer as long as it takes. It counts them.
func (s *field) patient() *atomic.Int64 {
	s.t.Helper()
	var raw net.Conn
	if err := s.Node.Do(func() (err error) {
		raw, err = net.Dial("tcp", s.vip().String())
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	answered, done := new(atomic.Int64), make(chan struct{})
	go func() {
		defer close(done)
		r := bufio.NewReader(conn)
		for ; ; <-time.After(time.Second) {
			if _, err := io.WriteString(conn, "GET /api HTTP/1.1\r\nHost: vip\r\n\r\n"); err != nil {
				return
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			answered.Add(1)
		}
	}()
	s.t.Cleanup(func() {
		_ = raw.Close()
		<-done
	})
	return answered
}

// An API server that has no rival and is slow to say that it is not well gets few
// checks from all nodes together: one each within 30 s at most.
func TestFewChecksOfASlowServer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	const nodes = 20
	s := newField(t, false)
	s.talks(s.VIP.String(), "")
	var agents []*process
	for i := range nodes {
		h := s.Lab.Host(fmt.Sprintf("node%d", i))
		mac, addr := fmt.Sprintf("02:00:00:00:03:%02x", i), fmt.Sprintf("10.0.0.%d", 200+i)
		h.Plug(s.Switch, "eth0", mac, addr+"/24")
		if c := h.Client(s.CA, s.vip(), time.Second); !c.Await("one", 5*time.Second) {
			t.Fatalf("host %s is not served", h.Name)
		}
		agents = append(agents, start(t, h, "--vip-ca-file="+s.CAFile))
	}
	for _, p := range agents {
		eventually(t, "every agent watches the VIP", func() bool { return p.metric(`vips{source="auto"}`) == 1 })
	}
	before := s.API1.Livez()
	if before > 0 {
		t.Errorf("%d checks of a server that works", before)
	}
	s.API1.Ail()
	<-time.After(30 * time.Second)
	n := s.API1.Livez()
	t.Logf("%d checks by %d nodes", n, nodes)
	if n > nodes {
		t.Errorf("%d checks by %d nodes in 30 s, want one each at most", n, nodes)
	}
	within(t, 3*time.Minute, "some node checks the server", func() bool { return s.API1.Livez() > 0 })
}

// Another host answers for the VIP later than the watch waits, and later than locktime.
// Without the agent nobody asks everybody. With it the entry is back at once, each
// time, and the other is reported.
func TestSecondHolderOfTheVIPAnswersLate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("agent=%v", !alone), func(t *testing.T) {
			t.Parallel()
			s := newField(t, alone, "--interval=20s") // everybody is asked more often
			s.Node.IP(fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud reachable", s.VIP, holderMAC))
			s.talks(s.VIP.String(), "")
			late(s.Lab, s.Switch, s.VIP.String(), 1200*time.Millisecond)
			so := s.Follow()
			s.agent(s.VIP.String())
			if alone {
				<-time.After(20 * time.Second)
				if named := so(); len(named) > 1 {
					t.Errorf("the entry moves by itself: %v", named)
				}
				return
			}
			within(t, time.Minute, "three late answers have moved the entry, and it is back", func() bool { return len(so()) >= 7 })
			for i, n := range so()[:6] {
				if stayed := so()[i+1].At.Sub(n.At); n.Host == otherMAC && stayed > 500*time.Millisecond {
					t.Errorf("it was with the other for %v", stayed)
				}
			}
			if !s.Says(fmt.Sprintf("vip_events_total{event=\"duplicate\",vip=%q} 1", s.VIP), 5*time.Second) {
				t.Error("the agent does not say that there are two holders")
			}
			if n := s.client.Resets() + s.client.Reconnects(); n > 0 {
				t.Errorf("the client was disconnected %d times", n)
			}
		})
	}
}
