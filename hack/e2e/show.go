package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// overlay is the kustomization that a user would write.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images:
  - {name: ghcr.io/arp-cache-cleaner/arp-cache-cleaner, newName: %s, newTag: %s}
patches:
  - patch: |
      apiVersion: apps/v1
      kind: DaemonSet
      metadata: {name: arp-cache-cleaner, namespace: arp-cache-cleaner}
      spec:
        template:
          spec:
            containers:
              - name: agent
                env:
                  - {name: ARP_CACHE_CLEANER_INTERVAL, value: %s}
                  - {name: ARP_CACHE_CLEANER_ACT, value: always}
`

func deploy(ctx context.Context, c *cluster) error {
	if err := c.deploy(ctx); err != nil {
		return errors.Join(errFatal, err)
	}
	return nil
}

func (c *cluster) deploy(ctx context.Context) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	if os.Getenv("E2E_ON_NODE") != "" {
		for _, n := range nodes {
			if c.pinned[n.Name], err = permanent(ctx, n.Name); err != nil {
				return err
			}
		}
	}
	base, err := filepath.Abs("deploy")
	if err != nil {
		return err
	}
	relative, err := filepath.Rel(c.dir, base)
	if err != nil {
		return err
	}
	colon := strings.LastIndex(c.image, ":")
	text := fmt.Sprintf(overlay, relative, c.image[:colon], c.image[colon+1:], interval)
	if err := os.WriteFile(filepath.Join(c.dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		return err
	}
	if _, err := kubectl(ctx, "apply", "-k", c.dir); err != nil {
		return err
	}
	start := time.Now()
	if _, err := kubectl(ctx, "-n", namespace, "rollout", "status", "daemonset/arp-cache-cleaner", "--timeout=3m"); err != nil {
		return err
	}
	pods, err := c.pods(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if !pods[n.Name].Ready {
			return fmt.Errorf("no ready agent on %s", n.Name)
		}
	}
	note("%d nodes, %d ready agents after %v", len(nodes), len(pods), time.Since(start).Round(time.Second))
	return nil
}

// permanent lists a node's PERMANENT entries.
func permanent(ctx context.Context, node string) (string, error) {
	return onNode(ctx, node, "ip", "neigh", "show", "nud", "permanent")
}

func metrics(ctx context.Context, c *cluster) error {
	pods, err := c.pods(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		var text string
		if err := c.get(ctx, "/api/v1/namespaces/"+namespace+"/pods/"+p.Name+":10330/proxy/metrics", &text); err != nil {
			return err
		}
		for _, want := range []string{"arp_cache_cleaner_build_info{", `arp_cache_cleaner_acting{reason="always"} 1`, "arp_cache_cleaner_broadcast_available 1"} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("%s on %s: no %s", p.Name, p.Node, want)
			}
		}
	}
	note("%d pods scraped", len(pods))
	return nil
}

func boundedAge(ctx context.Context, c *cluster) error {
	// What is overdue when an agent starts is dealt with in its first seconds.
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*interval)
	defer cancel()
	return c.watchAges(ctx)
}

// watchAges holds every node to the interval until ctx is done.
func (c *cluster) watchAges(ctx context.Context) error {
	nodes, err := c.nodes(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	var oldest float64
	var samples int
	for ; ctx.Err() == nil; _ = sleep(ctx, time.Second) {
		for _, n := range nodes {
			entries, err := c.learned(ctx, n.Name)
			if err != nil && ctx.Err() == nil {
				note("%s: %v", n.Name, err) // its agent is being replaced
			}
			for _, e := range entries {
				age := max(e.Used, e.Updated)
				// The kernel starts the confirmed age of a new entry at 60 s.
				if e.Confirmed < age+59 {
					age = max(age, e.Confirmed)
				}
				if e.State == "FAILED" && e.Updated == 0 {
					continue // no entry yet until a moment ago
				}
				if age > interval.Seconds() {
					return fmt.Errorf("%s: %+v is older than %v", n.Name, e, interval)
				}
				samples, oldest = samples+1, max(oldest, age)
			}
		}
	}
	note("%d samples on %d nodes, oldest %.0f s of %.0f", samples, len(nodes), oldest, interval.Seconds())
	if samples == 0 {
		return errors.New("no learned entry was seen")
	}
	return nil
}

func protected(ctx context.Context, c *cluster) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	n := nodes[0]
	dev, err := device(ctx, n)
	if err != nil {
		return err
	}
	own := map[string][]string{
		"192.0.2.77": {"nud", "permanent"},
		"192.0.2.78": {"nud", "reachable", "extern_learn"},
		"192.0.2.79": {"nud", "stale", "protocol", "zebra"},
	}
	defer func() {
		for addr := range own {
			_, _ = onNode(context.WithoutCancel(ctx), n.Name, "ip", "neigh", "del", addr, "dev", dev)
		}
	}()
	for addr, marks := range own {
		if _, err := onNode(ctx, n.Name, append([]string{"ip", "neigh", "replace", addr, "lladdr", "02:00:5e:00:53:77", "dev", dev}, marks...)...); err != nil {
			return err
		}
	}
	if err := sleep(ctx, 2*interval); err != nil {
		return err
	}
	left, err := onNode(ctx, n.Name, "ip", "neigh", "show", "dev", dev)
	if err != nil {
		return err
	}
	for addr, marks := range own {
		if !strings.Contains(left, addr+" lladdr 02:00:5e:00:53:77") {
			return fmt.Errorf("%s (%s) is gone from %s", addr, strings.Join(marks, " "), n.Name)
		}
	}
	note("%d entries on %s are still there after %v", len(own), n.Name, 2*interval)
	return nil
}

// device is the one that carries a node's own address.
func device(ctx context.Context, n node) (string, error) {
	out, err := onNode(ctx, n.Name, "ip", "-json", "address", "show", "to", n.IP)
	if err != nil {
		return "", err
	}
	var links []struct{ IfName string }
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) == 0 {
		return "", fmt.Errorf("no device on %s has %s: %q, %w", n.Name, n.IP, out, err)
	}
	return links[0].IfName, nil
}

// moveVIP has the address moved, and watches how the nodes fare. They are held
// to the promise where the agent runs.
func (c *cluster) moveVIP(ctx context.Context, how string, agent bool) (err error) {
	if err := c.allReady(ctx); err != nil {
		return err
	}
	defer func() {
		if _, restoreErr := hook(context.WithoutCancel(ctx), "E2E_MOVE_VIP", "restore"); restoreErr != nil {
			err = errors.Join(err, errFatal, restoreErr)
			return
		}
		err = errors.Join(err, c.allReady(ctx))
	}()
	if _, err := hook(ctx, "E2E_MOVE_VIP", how); err != nil {
		return errors.Join(errFatal, err)
	}
	gaps, notReady, err := c.watchLeases(ctx, observe)
	if err != nil {
		return err
	}
	var worst time.Duration
	var down []string
	for name, gap := range gaps {
		worst = max(worst, gap)
		if notReady[name] {
			down = append(down, name)
		}
	}
	note("in %v after the move: greatest gap between two renewals of a Lease %v; %d of %d nodes NotReady", observe, worst.Round(100*time.Millisecond), len(down), len(gaps))
	switch {
	case !agent:
		return nil // shown beside it, and promised by nobody
	case len(down) > 0:
		return fmt.Errorf("NotReady: %s", strings.Join(down, ", "))
	case worst > leaseGap:
		return fmt.Errorf("a Lease was not renewed for %v, more than %v", worst, leaseGap)
	}
	return nil
}

// watchLeases returns by node the greatest time between two renewals of its
// Lease, and whether it was ever NotReady.
func (c *cluster) watchLeases(ctx context.Context, d time.Duration) (gaps map[string]time.Duration, notReady map[string]bool, err error) {
	gaps, notReady = map[string]time.Duration{}, map[string]bool{}
	last := map[string]time.Time{}
	for end := time.Now().Add(d); time.Now().Before(end); err = sleep(ctx, 500*time.Millisecond) {
		if err != nil {
			return nil, nil, err
		}
		renewed, err := c.renewals(ctx)
		if err != nil {
			note("%v", err)
			continue
		}
		nodes, err := c.nodes(ctx)
		if err != nil {
			note("%v", err)
			continue
		}
		for _, n := range nodes {
			notReady[n.Name] = notReady[n.Name] || !n.Ready
			at, before := renewed[n.Name], last[n.Name]
			if before.IsZero() {
				before = at
			}
			gap := at.Sub(before)
			if at.Equal(before) {
				gap = time.Since(at)
			}
			gaps[n.Name], last[n.Name] = max(gaps[n.Name], gap), at
		}
	}
	return gaps, notReady, nil
}

// allReady waits until every node is, and renews its Lease.
func (c *cluster) allReady(ctx context.Context) error {
	return eventually(ctx, 2*time.Minute, "every node Ready", func() (bool, error) {
		nodes, err := c.nodes(ctx)
		if err != nil {
			return false, err
		}
		renewed, err := c.renewals(ctx)
		if err != nil {
			return false, err
		}
		for _, n := range nodes {
			if !n.Ready || time.Since(renewed[n.Name]) > 12*time.Second {
				return false, nil
			}
		}
		return len(nodes) > 0, nil
	})
}

func rollingUpdate(ctx context.Context, c *cluster) error {
	watching, stop := context.WithCancel(ctx)
	var ages error
	var wg sync.WaitGroup
	wg.Go(func() { ages = c.watchAges(watching) })
	start := time.Now()
	_, err := kubectl(ctx, "-n", namespace, "rollout", "restart", "daemonset/arp-cache-cleaner")
	if err == nil {
		_, err = kubectl(ctx, "-n", namespace, "rollout", "status", "daemonset/arp-cache-cleaner", "--timeout=5m")
	}
	note("rolled in %v", time.Since(start).Round(time.Second))
	if err == nil {
		err = sleep(ctx, 5*time.Second)
	}
	stop()
	wg.Wait()
	return errors.Join(err, ages)
}

func repave(ctx context.Context, c *cluster) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	victim, others := nodes[len(nodes)-1], nodes[:len(nodes)-1]
	before, err := mac(ctx, victim)
	if err != nil {
		return err
	}
	// Every other node knows it.
	for _, n := range others {
		dev, err := device(ctx, n)
		if err != nil {
			return err
		}
		if _, err := onNode(ctx, n.Name, "ip", "neigh", "replace", victim.IP, "lladdr", before, "dev", dev, "nud", "reachable"); err != nil {
			return err
		}
	}
	if _, err := hook(ctx, "E2E_REPAVE", victim.Name); err != nil {
		return errors.Join(errFatal, err)
	}
	if err := c.loadImage(ctx); err != nil {
		return err
	}
	back := time.Now()
	if err := eventually(ctx, 2*time.Minute, "an agent is ready on "+victim.Name, func() (bool, error) {
		pods, err := c.pods(ctx)
		return pods[victim.Name].Ready, err
	}); err != nil {
		return err
	}
	note("%s has a ready agent %v after it came back", victim.Name, time.Since(back).Round(time.Second))
	after, err := mac(ctx, victim)
	if err != nil {
		return err
	}
	if after == before {
		return fmt.Errorf("%s came back with the same MAC, %s: nothing was shown", victim.Name, before)
	}
	err = eventually(ctx, interval-time.Since(back)+5*time.Second, "no node has the old MAC of "+victim.Name, func() (bool, error) {
		for _, n := range others {
			entries, err := c.learned(ctx, n.Name)
			if err != nil {
				return false, err
			}
			for _, e := range entries {
				if e.Addr == victim.IP && e.LLAddr == before {
					return false, nil
				}
			}
		}
		return true, nil
	})
	if err == nil {
		note("%s -> %s, on every node within %v", before, after, time.Since(back).Round(time.Second))
	}
	return err
}

// mac is the link-layer address behind a node's own address.
func mac(ctx context.Context, n node) (string, error) {
	dev, err := device(ctx, n)
	if err != nil {
		return "", err
	}
	out, err := onNode(ctx, n.Name, "ip", "-json", "link", "show", "dev", dev)
	if err != nil {
		return "", err
	}
	var links []struct{ Address string }
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) == 0 {
		return "", fmt.Errorf("no MAC of %s on %s: %q, %w", dev, n.Name, out, err)
	}
	return links[0].Address, nil
}

func remove(ctx context.Context, c *cluster) error {
	if _, err := kubectl(ctx, "delete", "-k", c.dir, "--timeout=2m"); err != nil {
		return err
	}
	if os.Getenv("E2E_ON_NODE") == "" {
		return nil
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		left, err := permanent(ctx, n.Name)
		if err != nil {
			return err
		}
		if left != c.pinned[n.Name] {
			return fmt.Errorf("%s: PERMANENT entries before:\n%s\nand after:\n%s", n.Name, c.pinned[n.Name], left)
		}
	}
	return nil
}

// eventually polls until ok, for at most d.
func eventually(ctx context.Context, d time.Duration, what string, ok func() (bool, error)) error {
	var last error
	for end := time.Now().Add(d); time.Now().Before(end); {
		done, err := ok()
		if done && err == nil {
			return nil
		}
		last = err
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	return errors.Join(fmt.Errorf("not within %v: %s", d.Round(time.Second), what), last)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
