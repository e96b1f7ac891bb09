package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/machine"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// beAgent makes the test binary the agent itself, so that tests meet the real
// process: its arguments, signals and exit code.
const beAgent = "ARP_TEST_BE_AGENT"

func TestMain(m *testing.M) {
	if mask := os.Getenv(confine); mask != "" {
		beConfined(mask)
	}
	if os.Getenv(beAgent) != "" {
		if os.Getenv(beMeasured) != "" {
			serveVitals()
		}
		main()
	}
	lab.Main(m)
}

// process is an agent running on a lab host.
type process struct {
	t      *testing.T
	host   *lab.Host
	cmd    *exec.Cmd
	stdout bytes.Buffer
	stderr lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// prepare returns an agent that is not started yet.
func prepare(t *testing.T, h *lab.Host, args ...string) *process {
	p := &process{t: t, host: h, cmd: exec.Command("/proc/self/exe", args...)}
	// The race detector would have each process sleep for a second at its end.
	p.cmd.Env = append(os.Environ(), beAgent+"=1", "GORACE=atexit_sleep_ms=0")
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	return p
}

// start starts an agent and has it killed when the test ends.
func start(t *testing.T, h *lab.Host, args ...string) *process {
	t.Helper()
	return startWithout(t, h, nil, args...)
}

// launch starts the process without some capabilities: what the bounding set of
// the thread lacks, the process it starts cannot have.
func (p *process) launch(without []uintptr) {
	p.t.Helper()
	if err := p.host.Do(func() (err error) {
		for _, c := range without {
			err = errors.Join(err, unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0))
		}
		return errors.Join(err, p.cmd.Start())
	}); err != nil {
		p.t.Fatal(err)
	}
}

// startWithout is start without some capabilities.
func startWithout(t *testing.T, h *lab.Host, without []uintptr, args ...string) *process {
	t.Helper()
	p := prepare(t, h, append(args, "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")...)
	p.launch(without)
	t.Cleanup(p.kill)
	return p
}

// kill ends the process, unless it has been waited for.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// wait waits for the process to end and returns its exit code.
func (p *process) wait() int {
	p.t.Helper()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop sends SIGTERM and returns the exit code and how long it took.
func (p *process) stop() (code int, took time.Duration) {
	p.t.Helper()
	sent := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	code = p.wait()
	return code, time.Since(sent)
}

// client returns an HTTP client whose connections start on the host.
func client(h *lab.Host) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = h.Do(func() (err error) {
				var d net.Dialer
				c, err = d.DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
}

// get returns status and body, or 0 while nobody listens.
func (p *process) get(url string) (int, string) {
	resp, err := client(p.host).Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// eventually polls until ok, for at most ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, 10*time.Second, what, ok)
}

// within polls until ok, for at most d.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s", d, what)
		case <-tick.C:
		}
	}
}

func (p *process) ready() {
	p.t.Helper()
	eventually(p.t, "ready", func() bool {
		code, _ := p.get("http://127.0.0.1:10331/readyz")
		return code == http.StatusOK
	})
}

// node returns a lab host with a peer that answers at 10.0.0.2.
func node(t *testing.T) *lab.Host {
	t.Helper()
	l := lab.Start(t)
	sw := l.Switch()
	n, peer := l.Host("node"), l.Host("peer")
	n.Plug(sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24")
	peer.Plug(sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24")
	return n
}

// The agent's threads may be woken late, those of the Go runtime among them. Where
// the kernel will not have it so (newer ones with a real-time policy), the agent
// starts all the same.
func TestTimerSlack(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		prefix []string
	}{
		{name: "as usual"},
		{"with a real-time policy", []string{"chrt", "--fifo", "1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := prepare(t, node(t), "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")
			if tt.prefix != nil {
				cmd := exec.Command(tt.prefix[0], slices.Concat(tt.prefix[1:], []string{self}, p.cmd.Args[1:])...)
				cmd.Env, cmd.Stdout, cmd.Stderr = p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr
				p.cmd = cmd
			}
			p.launch(nil)
			t.Cleanup(p.kill)
			p.ready()
			threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
			if err != nil || len(threads) < 2 {
				t.Fatal(threads, err)
			}
			for _, thread := range threads {
				b, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns")
				if want := fmt.Sprintf("%d\n", machine.TimerSlack.Nanoseconds()); tt.prefix == nil && (err != nil || string(b) != want) {
					t.Errorf("thread %s: %q, %v, want %q", thread.Name(), b, err, want)
				}
			}
			if code, _ := p.stop(); code != 0 {
				t.Errorf("exit code %d: %s", code, p.stderr.String())
			}
		})
	}
}

func TestAgentServesAndStops(t *testing.T) {
	t.Parallel()
	n := node(t)
	n.IP("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
	n.IP("neigh add 10.0.0.60 lladdr 02:00:00:00:00:60 dev eth0 nud permanent")
	n.Touch("10.0.0.2")
	p := start(t, n, "--interval=2s")
	p.ready()

	for url, want := range map[string]int{
		"http://127.0.0.1:10331/healthz": 200,
		"http://127.0.0.1:10331/readyz":  200,
		"http://127.0.0.1:10331/metrics": 404,
		"http://127.0.0.1:10331/":        404,
		"http://127.0.0.1:10330/":        200,
		"http://127.0.0.1:10330/readyz":  404,
	} {
		if code, body := p.get(url); code != want {
			t.Errorf("GET %s: %d %q, want %d", url, code, body, want)
		}
	}
	eventually(t, "the idle entry is deleted and counted", func() bool {
		_, body := p.get("http://127.0.0.1:10330/metrics")
		return strings.Contains(body, `arp_cache_cleaner_renewals_total{device="eth0",method="delete",result="ok"}`) &&
			!strings.Contains(n.IP("neigh"), "10.0.0.50")
	})
	_, body := p.get("http://127.0.0.1:10330/metrics")
	for _, want := range []string{
		`arp_cache_cleaner_entries{device="eth0",family="ipv4",state="permanent"} 1`,
		`arp_cache_cleaner_kept_entries{reason="permanent"} 1`,
		`arp_cache_cleaner_acting{reason="always"} 1`,
		`arp_cache_cleaner_interval_seconds 2`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics have no %s", want)
		}
	}

	if code, took := p.stop(); code != 0 || took > time.Second {
		t.Errorf("after SIGTERM: exit code %d in %v, want 0 within 1 s; log:\n%s", code, took, p.stderr.String())
	}
	for _, want := range []string{"msg=starting ", " acting=true reason=always machine=", "msg=stopped\n"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, p.stderr.String())
		}
	}
	if !strings.Contains(n.IP("neigh"), "10.0.0.60") {
		t.Error("the permanent entry is gone")
	}
}

func TestOnce(t *testing.T) {
	t.Parallel()
	n := node(t)
	n.Touch("10.0.0.2")
	n.Batch(`neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale
neigh add 10.0.0.51 lladdr 02:00:00:00:00:51 dev eth0 nud reachable
neigh add 10.0.0.60 lladdr 02:00:00:00:00:60 dev eth0 nud permanent`)
	var env []string
	once := func(args ...string) (int, string) {
		p := prepare(t, n, append(args, "--once", "--family=ipv4", "--interface=eth0")...)
		p.cmd.Env = append(p.cmd.Env, env...)
		if err := n.Start(p.cmd); err != nil {
			t.Fatal(err)
		}
		code := p.wait()
		return code, p.stdout.String() + p.stderr.String()
	}
	code, out := once("--act=never")
	// lo has an entry of its own once anything was sent on it: only eth0 counts.
	if code != 0 || !strings.HasPrefix(out, "dry run (never), ") || !strings.Contains(out, "deleted 1, verified in place 2, unanswered 0, undecided 0, gone meanwhile 0, failed 0\n") {
		t.Errorf("dry run: exit %d, %q", code, out)
	}
	if left := n.IP("neigh"); !strings.Contains(left, "10.0.0.50") || !strings.Contains(left, "REACHABLE") {
		t.Errorf("dry run changed the table:\n%s", left)
	}
	env = []string{"ARP_CACHE_CLEANER_INTERAL=5m"}
	code, out = once("--act=never")
	if warning := `level=WARN msg="an environment variable is ignored: no flag has that name" variable=ARP_CACHE_CLEANER_INTERAL did_you_mean=ARP_CACHE_CLEANER_INTERVAL`; code != 0 || strings.Count(out, warning) != 1 {
		t.Errorf("with a mistyped variable: exit %d, %q", code, out)
	}
	env = nil
	code, out = once()
	if code != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, "deleted 1, verified in place 1, unanswered 1, undecided 0, gone meanwhile 0, failed 0\n") {
		t.Errorf("exit %d, %q", code, out)
	}
	left := n.IP("neigh")
	for want, there := range map[string]bool{"10.0.0.50": false, "10.0.0.51 dev eth0 lladdr 02:00:00:00:00:51": true, "10.0.0.2 dev eth0 lladdr 02:00:00:00:00:02 REACHABLE": true, "10.0.0.60": true} {
		if strings.Contains(left, want) != there {
			t.Errorf("%q in the table: want %v\n%s", want, there, left)
		}
	}
}

func TestAgentWithoutNetAdmin(t *testing.T) {
	t.Parallel()
	n := node(t)
	n.IP("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
	unprivileged := func(args ...string) *process {
		p := prepare(t, n, args...)
		p.launch([]uintptr{unix.CAP_NET_ADMIN})
		return p
	}
	p := unprivileged()
	const refusal = "changing the neighbour table: not permitted (operation not permitted): CAP_NET_ADMIN is missing: run as root; " +
		"in Kubernetes with runAsUser: 0 and capabilities.add: [NET_ADMIN, NET_RAW]; or give --act=never to observe only\n"
	if code := p.wait(); code != 1 || p.stderr.String() != "arp-cache-cleaner: "+refusal {
		t.Errorf("exit code %d, want 1 and one line that names CAP_NET_ADMIN: %q", code, p.stderr.String())
	}
	p = unprivileged("--act=never", "--once")
	if code := p.wait(); code != 0 {
		t.Errorf("observing: exit code %d: %s", code, p.stderr.String())
	}
	p = unprivileged("list")
	if code := p.wait(); code != 0 || !strings.Contains(p.stdout.String(), "10.0.0.50") {
		t.Errorf("list: exit code %d: %s%s", code, p.stdout.String(), p.stderr.String())
	}
}

// An address that the node does not have, or a port that another process has, is
// said once. The agent renews entries meanwhile, and takes the address when it can.
func TestEndpointsDoNotStopTheWork(t *testing.T) {
	t.Parallel()
	const host = "10.0.0.99"
	have := func(n *lab.Host) { n.IP("addr add " + host + "/32 dev eth0") }
	take := func(port string) func(*testing.T, *lab.Host) func() {
		return func(t *testing.T, n *lab.Host) func() {
			have(n)
			var l net.Listener
			if err := n.Do(func() (err error) {
				l, err = net.Listen("tcp", net.JoinHostPort(host, port))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return func() { _ = l.Close() }
		}
	}
	for _, tt := range []struct {
		name    string
		trouble func(*testing.T, *lab.Host) (end func())
		says    []string
	}{
		{"no such address", func(_ *testing.T, n *lab.Host) func() { return func() { have(n) } }, []string{
			`flag=--web.listen-address address=10.0.0.99:10330 every=5s err="listen tcp 10.0.0.99:10330: bind: cannot assign requested address"`,
			`flag=--health.listen-address address=10.0.0.99:10331 every=5s err="listen tcp 10.0.0.99:10331: bind: cannot assign requested address"`,
		}},
		{"metrics port taken", take("10330"), []string{
			`flag=--web.listen-address address=10.0.0.99:10330 every=5s err="listen tcp 10.0.0.99:10330: bind: address already in use"`,
		}},
		{"health port taken", take("10331"), []string{
			`flag=--health.listen-address address=10.0.0.99:10331 every=5s err="listen tcp 10.0.0.99:10331: bind: address already in use"`,
		}},
		{"address comes, goes and comes back", func(_ *testing.T, n *lab.Host) func() { have(n); return func() {} }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := node(t)
			end := tt.trouble(t, n)
			p := prepare(t, n, "--interval=1s", "--vip=none", "--listen-host="+host)
			p.launch(nil)
			t.Cleanup(p.kill)
			renews := func(when string) {
				t.Helper()
				n.IP("neigh replace 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
				eventually(t, "an idle entry is renewed "+when, func() bool { return !strings.Contains(n.IP("neigh"), "10.0.0.50") })
			}
			served := func() bool {
				metrics, _ := p.get("http://" + host + ":10330/metrics")
				ready, _ := p.get("http://" + host + ":10331/readyz")
				return metrics == http.StatusOK && ready == http.StatusOK
			}
			renews("at the start")
			if tt.says != nil && served() {
				t.Fatal("both endpoints are served in spite of the trouble")
			}
			end()
			eventually(t, "both endpoints are served", served)
			n.IP("addr del " + host + "/32 dev eth0")
			renews("without the address")
			have(n)
			eventually(t, "both endpoints are served again", served)
			if code, took := p.stop(); code != 0 || took > time.Second {
				t.Errorf("after SIGTERM: exit code %d in %v", code, took)
			}
			log := p.stderr.String()
			for _, says := range tt.says {
				if strings.Count(log, `level=WARN msg="cannot listen: the address is tried again, and all else goes on" `+says) != 1 {
					t.Errorf("the log does not say once: %s", says)
				}
			}
			if strings.Count(log, "cannot listen") != len(tt.says) || strings.Count(log, "msg=listening") != 2 {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

// Where the kernel has no sock_diag, the sweep runs all the same, and a VIP that is
// named is healed when it moves without a word.
func TestKernelWithoutSockDiag(t *testing.T) {
	t.Parallel()
	const vipAddr, warning = "10.0.0.100", `level=WARN msg="how TCP connections fare cannot be told: --vip=auto finds VIPs by /proc/net/tcp, and all are watched by ARP and ND alone" ` +
		`err="opening netlink sock_diag socket: not supported by this kernel (protocol not supported)"`
	for _, tt := range []struct {
		vip   string
		warns int
	}{{"auto", 1}, {vipAddr, 1}, {"none", 0}} {
		t.Run("vip="+tt.vip, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			n, one, two := l.Host("node"), l.Host("one"), l.Host("two")
			n.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
			one.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", vipAddr+"/24")
			two.Plug(sw, "eth0", "02:00:00:00:00:03", "10.0.0.3/24")
			n.IP("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
			n.Touch(vipAddr)
			p := prepare(t, n, "--interval=2s", "--vip="+tt.vip, "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")
			if err := n.Do(func() error {
				return errors.Join(lab.WithoutNetlink(unix.NETLINK_SOCK_DIAG), p.cmd.Start())
			}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.kill)
			p.ready()
			eventually(t, "the idle entry is renewed", func() bool { return !strings.Contains(n.IP("neigh"), "10.0.0.50") })
			if tt.vip == vipAddr {
				eventually(t, "the VIP is watched", func() bool { return p.metric(`vip_on_link{vip="`+vipAddr+`"}`) == 1 })
				two.IP("addr add " + vipAddr + "/24 dev eth0 nodad")
				one.IP("addr del " + vipAddr + "/24 dev eth0")
				eventually(t, "the VIP is healed", func() bool { return strings.Contains(n.IP("neigh show to "+vipAddr), "02:00:00:00:00:03") })
			}
			if code, took := p.stop(); code != 0 || took > time.Second {
				t.Errorf("after SIGTERM: exit code %d in %v", code, took)
			}
			if log := p.stderr.String(); strings.Count(log, warning) != tt.warns || strings.Count(log, "sock_diag") != tt.warns {
				t.Errorf("the log does not say %d times %s:\n%s", tt.warns, warning, log)
			}
		})
	}
}

// Connections are nobody's business where no VIP is watched.
func TestSockDiagIsOpenedForVIPsAlone(t *testing.T) {
	t.Parallel()
	n := node(t)
	opened := func() bool { // by protocol, and port id, which of the kernel's own sockets is 0
		for line := range strings.Lines(n.Run("cat", "/proc/net/netlink")) {
			if f := strings.Fields(line); f[1] == fmt.Sprint(unix.NETLINK_SOCK_DIAG) && f[2] != "0" {
				return true
			}
		}
		return false
	}
	for value, want := range map[string]bool{"auto": true, "10.0.0.2": true, "none": false} {
		p := start(t, n, "--vip="+value)
		p.ready()
		if got := opened(); got != want {
			t.Errorf("--vip=%s: sock_diag is opened: %v, want %v", value, got, want)
		}
		p.stop()
	}
}

// A file that guards the metrics and cannot be used is refused before anything
// listens.
func TestWebConfigCannotBeUsed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "web.yaml")
	p := start(t, node(t), "--web.config.file="+file)
	if code := p.wait(); code != 2 || !strings.Contains(p.stderr.String(), "arp-cache-cleaner: --web.config.file: web configuration "+file+": ") {
		t.Errorf("exit code %d: %q", code, p.stderr.String())
	}
}

// What guards metrics and status page does not keep kubelet, or the ready command, from the
// probes.
func TestWebConfigGuardsAllButProbes(t *testing.T) {
	t.Parallel()
	n := node(t)
	config := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(config, []byte("basic_auth_users: {prometheus: $2a$04$jmVBJ7yxBRQQLjwBvz0kpe/r1MIFKYDyZy1sVXdTQmpa/nTBH3g6q}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, n, "--web.config.file="+config)
	p.ready()
	if code, _ := p.get("http://127.0.0.1:10330/metrics"); code != http.StatusUnauthorized {
		t.Errorf("metrics without a password: %d, want 401", code)
	}
	if code, _ := p.get("http://127.0.0.1:10330/"); code != http.StatusUnauthorized {
		t.Errorf("status page without a password: %d, want 401", code)
	}
	ask := prepare(t, n, "ready", "--listen-host=127.0.0.1")
	if err := n.Start(ask.cmd); err != nil {
		t.Fatal(err)
	}
	if code := ask.wait(); code != 0 || ask.stdout.String() != "ok\n" {
		t.Errorf("ready: exit code %d, %q%q", code, ask.stdout.String(), ask.stderr.String())
	}
}

func TestReady(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc // nil: nobody listens
		code   int
		stdout string
		stderr string // with %s for the address
	}{
		{"ready", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") }, 0, "ok\n", ""},
		{"not ready, and why", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "dumping neighbour table: not permitted", http.StatusServiceUnavailable)
		}, 1, "", "not ready: 503 from %s: dumping neighbour table: not permitted\n"},
		{"somebody else's port", http.NotFound, 1, "", "not ready: 404 from %s: 404 page not found\n"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "9") }, 1, "",
			"not ready: asking at --health.listen-address=%s: unexpected EOF\n"},
		{"nobody there", nil, 1, "", "not ready: asking at --health.listen-address=%[1]s: Get \"http://%[1]s/readyz\": dial tcp %[1]s: connect: connection refused\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(tt.answer)
			defer s.Close()
			addr := s.Listener.Addr().String()
			if tt.answer == nil {
				s.Close()
			}
			want := tt.stderr
			if want != "" {
				want = "arp-cache-cleaner: " + strings.ReplaceAll(strings.ReplaceAll(want, "%[1]s", addr), "%s", addr)
			}
			var out, errOut bytes.Buffer
			code := runArgs(t.Context(), []string{"ready", "--health.listen-address=" + addr}, &out, &errOut)
			if code != tt.code || out.String() != tt.stdout || errOut.String() != want {
				t.Errorf("exit code %d, stdout %q, stderr %q\nwant %d, %q, %q", code, out.String(), errOut.String(), tt.code, tt.stdout, want)
			}
		})
	}
}

// What a signal cuts short says so, and does not look complete.
func TestStoppedBeforeItWasDone(t *testing.T) {
	t.Parallel()
	n := node(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"--once"}, {"probe", "10.0.0.2"}} {
		var out, errOut bytes.Buffer
		var code int
		if err := n.Do(func() error {
			code = runArgs(ctx, args, &out, &errOut)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if want := "arp-cache-cleaner: stopped by a signal before it was done\n"; code != 1 || errOut.String() != want {
			t.Errorf("%v: exit code %d, stderr %q; want 1, %q", args, code, errOut.String(), want)
		}
	}
}

// The parts have their time to end, and no more.
func TestFinish(t *testing.T) {
	failed := errors.New("serving on :10330: fault")
	for _, tt := range []struct {
		name       string
		ends, took time.Duration // after the signal
		err, want  error
		late       bool
	}{
		{"at once", 0, 0, nil, nil, false},
		{"a part fails", -time.Second, -time.Second, failed, failed, false},
		{"in time", exitTimeout - 1, exitTimeout - 1, nil, nil, false},
		{"too late", time.Minute, exitTimeout, failed, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signal := time.Now().Add(time.Second)
				ctx, cancel := context.WithDeadline(t.Context(), signal)
				defer cancel()
				var log bytes.Buffer
				err := finish(ctx, func() error {
					time.Sleep(time.Until(signal.Add(tt.ends)))
					return tt.err
				}, slog.New(slog.NewTextHandler(&log, nil)))
				if took := time.Since(signal); took != tt.took || !errors.Is(err, tt.want) {
					t.Errorf("%v after %v, want %v after %v", err, took, tt.want, tt.took)
				}
				if said := strings.Contains(log.String(), `level=WARN msg="stopping while the kernel still owes an answer"`); said != tt.late {
					t.Errorf("log: %q", log.String())
				}
				time.Sleep(2 * time.Minute) // for what was not waited for
			})
		})
	}
}

// A CA file may come later. One that is none is refused before anything runs.
func TestCAFile(t *testing.T) {
	t.Parallel()
	n := node(t)
	garbage := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(garbage, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, n, "--vip-ca-file="+garbage)
	if code := p.wait(); code != 2 || strings.Count(p.stderr.String(), "\n") != 1 || !strings.Contains(p.stderr.String(), "--vip-ca-file: no usable CA file: "+garbage) {
		t.Errorf("exit code %d: %q", code, p.stderr.String())
	}
	p = start(t, n, "--vip-ca-file="+garbage+".later")
	p.ready()
	if !strings.Contains(p.stderr.String(), "--vip-ca-file does not exist: until it does, no VIP can be checked\" file="+garbage+".later\n") {
		t.Errorf("log: %s", p.stderr.String())
	}
	p.stop()
	// One that has become none is named by every check.
	v := serviceChecker(&vipOptions{CAFile: garbage, Health: "https"}, vip.Verified, slog.New(slog.DiscardHandler)).Check(t.Context(), vip.Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:1")})
	if !v.Unknown || v.Served || v.Err == nil || v.Err.Error() != "--vip-ca-file: no usable CA file: "+garbage+" holds no PEM certificate" {
		t.Errorf("checked: %+v", v)
	}
}

// What --vip-on-conflict lacks is said once, when there is a VIP that it is about. On a
// node without one, the log begins with the start.
func TestConflictHint(t *testing.T) {
	const hint = "--vip-on-conflict=verified needs --vip-health=https and --vip-ca-file: "
	n := node(t)
	p := start(t, n)
	p.ready()
	if log := p.stderr.String(); strings.Contains(log, hint) || !strings.Contains(strings.SplitN(log, "\n", 2)[0], "msg=starting") {
		t.Errorf("log without a VIP: %s", log)
	}
	p.stop()
	p = start(t, n, "--vip=10.0.0.100", "--vip=10.0.0.101")
	eventually(t, "both VIPs are watched", func() bool { return strings.Count(p.stderr.String(), `msg="watching the VIP"`) == 2 })
	if log := p.stderr.String(); strings.Count(log, hint) != 1 {
		t.Errorf("log with two VIPs: %s", log)
	}
}

func TestDecideToAct(t *testing.T) {
	for _, tt := range []struct {
		act    string
		vmware bool
		acting bool
		reason string
	}{
		{"always", false, true, "always"},
		{"never", true, false, "never"},
		{"vsphere", true, true, "vsphere"},
		{"vsphere", false, false, "not_vsphere"},
	} {
		if acting, reason := decideToAct(tt.act, tt.vmware); acting != tt.acting || reason != tt.reason {
			t.Errorf("decideToAct(%q, %v) = %v, %q; want %v, %q", tt.act, tt.vmware, acting, reason, tt.acting, tt.reason)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	outputs := map[string]string{}
	for _, line := range []string{"--version", "version", "--help", "help", "help --once", "list --help", "help list", "probe --help", "help probe", "help help", "help version"} {
		var out, errOut bytes.Buffer
		if code := runArgs(t.Context(), strings.Fields(line), &out, &errOut); code != 0 || out.Len() == 0 || errOut.Len() != 0 {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", line, code, out.String(), errOut.String())
		}
		outputs[line] = out.String()
	}
	for _, same := range [][2]string{{"version", "--version"}, {"help", "--help"}, {"help --once", "--help"}, {"help list", "list --help"}, {"help probe", "probe --help"}} {
		if outputs[same[0]] != outputs[same[1]] {
			t.Errorf("%s and %s differ:\n%s\n%s", same[0], same[1], outputs[same[0]], outputs[same[1]])
		}
	}
	for _, c := range commands() {
		if want := c.synopsis(); !strings.Contains(outputs["help"], "  "+want+" ") {
			t.Errorf("help does not name %s", want)
		}
		if c.summary == "" || c.about == "" || (c.run == nil) != (c.name == "help") {
			t.Errorf("command %q lacks something", c.name)
		}
	}
}

// runArgs is main without the process around it.
func runArgs(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, noEnv, stdout)
	return run(ctx, o, err, stdout, stderr)
}

func noEnv(string) (string, bool) { return "", false }
