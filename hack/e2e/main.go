// Command e2e shows on a real cluster that the DaemonSet does what README.md
// promises. It takes the cluster that KUBECONFIG names, deploys the agent with a
// short interval, and takes it away again.
//
// What differs from cluster to cluster is asked of commands in the environment:
//
//	E2E_LOAD_IMAGE ARCHIVE  makes the image in a docker-archive known to every node,
//	                        including those that have come since. Without it E2E_IMAGE
//	                        has to name an image that nodes can pull.
//	E2E_ON_NODE NODE CMD... runs a command as root on a node ("ssh -l root" will do)
//	E2E_MOVE_VIP move       moves the control-plane address to another host, with no
//	                        gratuitous ARP
//	E2E_MOVE_VIP zombie     the same, but the host that had it keeps answering for it,
//	                        while its API server is frozen
//	E2E_MOVE_VIP restore    ends that, and has every node find the address again
//	E2E_REPAVE NODE         deletes a node and brings it back with the same name and
//	                        address, and another MAC
//
// What a missing command leaves open is reported as not run. E2E_RUN is a regular
// expression that selects parts by name. README.md has the commands for some clusters.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	// interval is what the agent is given: short, so that a run is.
	interval = 30 * time.Second
	// observe is how long nodes are watched after a move.
	observe = 60 * time.Second
	// leaseGap is the promise for moves: kubelet renews the Lease every 10 s, and
	// a node is given up after 40.
	leaseGap = 20 * time.Second
)

// part is one thing that is shown.
type part struct {
	name  string
	needs []string // hooks, by variable
	run   func(context.Context, *cluster) error
}

var parts = []part{
	{"without the agent: VIP moves silently", []string{"E2E_MOVE_VIP"}, func(ctx context.Context, c *cluster) error { return c.moveVIP(ctx, "move", false) }},
	{"without the agent: zombie holder with a frozen API", []string{"E2E_MOVE_VIP"}, func(ctx context.Context, c *cluster) error { return c.moveVIP(ctx, "zombie", false) }},
	{"deploy: ready on every node", nil, deploy},
	{"metrics of every pod", nil, metrics},
	{"no learned entry exceeds the interval", nil, boundedAge},
	{"protected entries stay", []string{"E2E_ON_NODE"}, protected},
	{"VIP moves silently", []string{"E2E_MOVE_VIP"}, func(ctx context.Context, c *cluster) error { return c.moveVIP(ctx, "move", true) }},
	{"zombie holder with a frozen API", []string{"E2E_MOVE_VIP"}, func(ctx context.Context, c *cluster) error { return c.moveVIP(ctx, "zombie", true) }},
	{"rolling update keeps the promise", nil, rollingUpdate},
	{"repave: a node comes back with another MAC", []string{"E2E_REPAVE", "E2E_ON_NODE"}, repave},
	{"remove: nothing stays behind", nil, remove},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	failed, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
	if err != nil || failed {
		os.Exit(1)
	}
}

func run(ctx context.Context) (failed bool, err error) {
	selected, err := regexp.Compile(cmp.Or(os.Getenv("E2E_RUN"), ".*"))
	if err != nil {
		return true, fmt.Errorf("E2E_RUN: %w", err)
	}
	c, err := connect(ctx)
	if err != nil {
		return true, err
	}
	defer c.close()
	var passes, failures, skips int
	for _, p := range parts {
		always := strings.HasPrefix(p.name, "deploy") || strings.HasPrefix(p.name, "remove")
		if !always && !selected.MatchString(p.name) {
			continue
		}
		fmt.Printf("=== %s\n", p.name)
		if missing := p.missing(); missing != "" {
			skips++
			fmt.Printf("--- not run: %s is not set\n", missing)
			continue
		}
		start := time.Now()
		err := p.run(ctx, c)
		took := time.Since(start).Round(time.Second)
		if err == nil {
			passes++
			fmt.Printf("--- passed (%v)\n", took)
			continue
		}
		failures++
		fmt.Printf("--- FAILED (%v): %v\n", took, err)
		if errors.Is(err, errFatal) || ctx.Err() != nil {
			break
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passes, failures, skips)
	return failures > 0, ctx.Err()
}

func (p *part) missing() string {
	for _, hook := range p.needs {
		if os.Getenv(hook) == "" {
			return hook
		}
	}
	return ""
}

// errFatal ends the run: nothing after it can be shown.
var errFatal = errors.New("cannot go on")

func note(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }
