package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

const (
	idleEntries   = 200
	steadyEntries = 10000
	scrapeEvery   = 15 * time.Second
	steadyFor     = 2 * time.Minute
	starts        = 15
)

// footprint measures what a running agent takes.
func footprint(ctx context.Context, agent string) (err error) {
	if err := lab.Enter(); err != nil {
		return err
	}
	limits, err := raiseLimits(2 * steadyEntries)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, limits.restore()) }()
	n, err := newNode(limits)
	if err != nil {
		return err
	}
	defer n.close()

	describe(os.Stdout)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fi, err := os.Stat(agent)
	if err != nil {
		return fmt.Errorf("the agent (make build makes it): %w", err)
	}
	fmt.Fprintf(w, "\nbinary\t%.1f MB\n", float64(fi.Size())/1e6)

	if err := n.table.fill(idleEntries); err != nil {
		return err
	}
	var took []time.Duration
	for range starts {
		p, err := run(ctx, n.host, agent)
		if err != nil {
			return err
		}
		took = append(took, p.ready)
		if err := p.stop(); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "start to ready, median of %d\t%.1f ms\n", starts, median(took).Seconds()*1000)

	if limits.room() < steadyEntries {
		fmt.Fprintf(w, "memory at %d entries\tskipped: the kernel holds %d (gc_thresh), and only root may change that\n", steadyEntries, limits.room())
		return nil
	}
	if err := n.table.fill(steadyEntries); err != nil {
		return err
	}
	p, err := run(ctx, n.host, agent)
	if err != nil {
		return err
	}
	rss, anon, memErr := p.memoryOver(ctx, steadyFor)
	if err := errors.Join(memErr, p.stop()); err != nil {
		return err
	}
	fmt.Fprintf(w, "memory at %d entries, a scrape every %v, the most of %v\t%.1f MiB resident, %.1f MiB of them anonymous\n",
		steadyEntries, scrapeEvery, steadyFor, mib(rss), mib(anon))
	return nil
}

// node is one with a connection to a VIP, by which the agent finds that.
type node struct {
	host  *lab.Host
	table *table
	close func()
}

func newNode(limits *limits) (*node, error) {
	l := lab.New(func(err error) {
		fmt.Fprintln(os.Stderr, "bench:", errors.Join(err, limits.restore()))
		os.Exit(1)
	})
	host, api, sw := l.Host("node"), l.Host("api"), l.Switch()
	host.Plug(sw, "eth0", "", "10.255.255.254/8")
	api.Plug(sw, "eth0", "", "10.255.255.253/8")
	host.IP("route add default via 10.255.255.253")
	var listener net.Listener
	var kubelet net.Conn
	err := errors.Join(
		api.Do(func() (err error) {
			listener, err = net.Listen("tcp", "10.255.255.253:6443")
			return err
		}),
		host.Do(func() (err error) {
			kubelet, err = net.Dial("tcp", "10.255.255.253:6443")
			return err
		}))
	if err != nil {
		l.Close()
		return nil, err
	}
	t, err := newTable(host, "eth0")
	return &node{host, t, func() {
		_, _ = kubelet.Close(), listener.Close()
		l.Close()
	}}, err
}

func mib(b int) float64 { return float64(b) / (1 << 20) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// running is an agent, with its default flags but for some.
type running struct {
	cmd    *exec.Cmd
	client *http.Client
	ready  time.Duration // from its start
}

// run starts an agent, and returns when it is ready.
func run(ctx context.Context, h *lab.Host, agent string, args ...string) (*running, error) {
	p := &running{
		cmd: exec.Command(agent, append(args, "--log-level=error", "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")...),
		client: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			hostErr := h.Do(func() error {
				c, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return c, hostErr
		}}},
	}
	p.cmd.Stderr = os.Stderr
	start := time.Now()
	if err := h.Start(p.cmd); err != nil {
		return nil, err
	}
	for p.get(ctx, "http://127.0.0.1:10331/readyz") != nil {
		if err := sleep(ctx, time.Millisecond); err != nil || time.Since(start) > 10*time.Second {
			return nil, errors.Join(err, errors.New("the agent does not become ready"), p.stop())
		}
	}
	p.ready = time.Since(start)
	return p, nil
}

func (p *running) get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func (p *running) stop() error {
	p.client.CloseIdleConnections()
	return errors.Join(p.cmd.Process.Signal(syscall.SIGTERM), p.cmd.Wait())
}

// memoryOver scrapes the agent while d passes, and looks at it every second. It
// returns the most that it took, once it had been up for half a minute.
func (p *running) memoryOver(ctx context.Context, d time.Duration) (rss, anon int, err error) {
	const settled = 30 * time.Second
	for up := time.Duration(0); up < settled+d; up += time.Second {
		if up%scrapeEvery == 0 {
			if err := p.get(ctx, "http://127.0.0.1:10330/metrics"); err != nil {
				return 0, 0, err
			}
		}
		if err := sleep(ctx, time.Second); err != nil {
			return 0, 0, err
		}
		r, a, err := p.memory()
		if err != nil {
			return 0, 0, err
		}
		if up >= settled {
			rss, anon = max(rss, r), max(anon, a)
		}
	}
	return rss, anon, nil
}

// memory returns the resident and the anonymous bytes.
func (p *running) memory() (rss, anon int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		switch n, _ := strconv.Atoi(f[1]); f[0] {
		case "VmRSS:":
			rss = n << 10
		case "RssAnon:":
			anon = n << 10
		}
	}
	return rss, anon, nil
}
