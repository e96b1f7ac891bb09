// Command demo shows the agent at work in about a minute, without touching the
// machine. First act: three hosts on a switch inside network namespaces, an agent
// with a 10 s interval on one of them, and that host's neighbour table as it ages.
// Second act: a VIP moves in silence, and two nodes, one with the agent and one
// without, find it again.
//
// It needs no root where user namespaces are allowed.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func main() {
	agent := flag.String("agent", "bin/arp-cache-cleaner", "path of the agent")
	length := flag.Duration("for", 15*time.Second, "how long to watch entries age")
	flag.Parse()
	if err := lab.Enter(); err != nil {
		fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	sum, err := ages(ctx, *agent, *length)
	if err == nil && ctx.Err() == nil {
		err = failover(ctx, *agent)
	}
	if err != nil {
		fail(err)
	}
	fmt.Println(sum)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "demo:", err)
	os.Exit(1)
}

const story = `Three hosts on a switch, inside namespaces of their own:

  node     10.0.0.1    runs the agent with --interval=10s
  peer     10.0.0.2    receives a UDP stream from node: its entry is in use
  gateway  10.0.0.254  node's default route: a next hop, no traffic

On node there are also an entry that nobody uses (.50) and one that an
administrator pinned (.60). Without the agent the ages of both would grow for
ever. With it, none of the three ages (used/confirmed/updated) of a learned
entry passes 10 s; the pinned one is left alone; the stream loses nothing.
`

// ages is the first act. It returns what became of the stream.
func ages(ctx context.Context, agent string, length time.Duration) (sum string, err error) {
	l := lab.New(fail)
	defer l.Close()
	sw := l.Switch()
	node, peer, gateway := l.Host("node"), l.Host("peer"), l.Host("gateway")
	node.Plug(sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24")
	peer.Plug(sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24")
	gateway.Plug(sw, "eth0", "02:00:00:00:00:fe", "10.0.0.254/24")
	node.IP("route add default via 10.0.0.254")
	node.Touch("10.0.0.254")
	node.IP("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
	node.IP("neigh add 10.0.0.60 lladdr 02:00:00:00:00:60 dev eth0 nud permanent")
	stream, err := lab.UDP(node, peer, netip.MustParseAddrPort("10.0.0.2:7000"), time.Millisecond)
	if err != nil {
		return "", err
	}
	fmt.Print(story)

	cmd := exec.CommandContext(ctx, agent, "--interval=10s", "--web.listen-address=127.0.0.1:10330",
		"--health.listen-address=127.0.0.1:10331")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	if err := node.Start(cmd); err != nil {
		return "", fmt.Errorf("starting the agent (make build makes it): %w", err)
	}
	watch(ctx, node, agent, length)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("agent: %w", err)
	}
	if err := stream.Stop(); err != nil {
		return "", err
	}
	sent, received, holes := stream.Counts()
	return fmt.Sprintf("UDP stream: %d packets sent, %d received, %d lost", sent, received, holes), nil
}

// watch prints the table every few seconds, and last what the agent makes of it.
func watch(ctx context.Context, node *lab.Host, agent string, length time.Duration) {
	start := time.Now()
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for {
		fmt.Printf("\n%2.0f s  $ ip -statistics neighbour\n", time.Since(start).Seconds())
		for _, n := range node.Neighbours() {
			fmt.Println("     ", n.Line)
		}
		if time.Since(start) >= length {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	fmt.Printf("\n$ arp-cache-cleaner list\n%s", indent(node.Run(agent, "list")))
}

func indent(s string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n      ") + "\n"
}
