package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const namespace = "arp-cache-cleaner"

// cluster is the cluster that KUBECONFIG names.
type cluster struct {
	image   string
	dir     string // of what is made for this run
	api     string // where kubectl proxy listens
	proxy   *exec.Cmd
	pinned  map[string]string // PERMANENT entries of each node before the agent came
	archive string
}

type node struct {
	Name, IP string
	Ready    bool
}

type pod struct {
	Name, Node string
	Ready      bool
}

// connect starts a proxy to the API server, and makes the image known to the
// nodes.
func connect(ctx context.Context) (*cluster, error) {
	c := &cluster{image: os.Getenv("E2E_IMAGE"), pinned: map[string]string{}}
	var err error
	if c.dir, err = os.MkdirTemp("", "e2e-"); err != nil {
		return nil, err
	}
	c.proxy = exec.CommandContext(ctx, "kubectl", "proxy", "--port=0")
	c.proxy.Stderr = os.Stderr
	out, err := c.proxy.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.proxy.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n') // Starting to serve on 127.0.0.1:41234
	if err != nil {
		return nil, fmt.Errorf("kubectl proxy: %w", err)
	}
	fields := strings.Fields(line)
	c.api = "http://" + fields[len(fields)-1]
	if os.Getenv("E2E_LOAD_IMAGE") != "" {
		if c.image == "" {
			c.image = "e2e.local/arp-cache-cleaner:e2e"
		}
		c.archive = filepath.Join(c.dir, "image.tar")
		if err := writeImage(c.archive, c.image, "bin/arp-cache-cleaner"); err != nil {
			return nil, err
		}
		return c, c.loadImage(ctx)
	}
	if c.image == "" {
		return nil, fmt.Errorf("neither E2E_IMAGE nor E2E_LOAD_IMAGE is set: which image are nodes to run?")
	}
	return c, nil
}

func (c *cluster) close() {
	if c.proxy.Process != nil {
		_ = c.proxy.Process.Kill()
		_ = c.proxy.Wait()
	}
	_ = os.RemoveAll(c.dir)
}

// loadImage makes the image known to all nodes.
func (c *cluster) loadImage(ctx context.Context) error {
	if c.archive == "" {
		return nil
	}
	_, err := hook(ctx, "E2E_LOAD_IMAGE", c.archive)
	return err
}

// hook runs the command in a variable with arguments, and returns what it prints.
func hook(ctx context.Context, variable string, args ...string) (string, error) {
	return command(ctx, "sh", append([]string{"-c", os.Getenv(variable) + ` "$@"`, variable}, args...)...)
}

// onNode runs a command on a node.
func onNode(ctx context.Context, node string, args ...string) (string, error) {
	return hook(ctx, "E2E_ON_NODE", append([]string{node}, args...)...)
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	return command(ctx, "kubectl", args...)
}

func command(ctx context.Context, name string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// get decodes what the API server answers, or stores it in a string.
func (c *cluster) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.api+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch text, ok := into.(*string); {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("GET %s: %s: %s", path, resp.Status, body)
	case ok:
		*text = string(body)
		return nil
	}
	return json.Unmarshal(body, into)
}

type condition struct{ Type, Status string }

func isReady(conditions []condition) bool {
	for _, c := range conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// nodes lists the nodes that are to have an agent.
func (c *cluster) nodes(ctx context.Context) ([]node, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Addresses  []struct{ Type, Address string }
				Conditions []condition
			}
		}
	}
	if err := c.get(ctx, "/api/v1/nodes?labelSelector=kubernetes.io/os%3Dlinux", &list); err != nil {
		return nil, err
	}
	nodes := make([]node, 0, len(list.Items))
	for _, i := range list.Items {
		n := node{Name: i.Metadata.Name, Ready: isReady(i.Status.Conditions)}
		for _, a := range i.Status.Addresses {
			if a.Type == "InternalIP" && n.IP == "" {
				n.IP = a.Address
			}
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// pods lists the agents by node. Those that are being deleted are left out.
func (c *cluster) pods(ctx context.Context) (map[string]pod, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp *time.Time
			}
			Spec   struct{ NodeName string }
			Status struct{ Conditions []condition }
		}
	}
	if err := c.get(ctx, "/api/v1/namespaces/"+namespace+"/pods?labelSelector=app.kubernetes.io%2Fname%3Darp-cache-cleaner", &list); err != nil {
		return nil, err
	}
	pods := map[string]pod{}
	for _, i := range list.Items {
		if i.Metadata.DeletionTimestamp == nil {
			pods[i.Spec.NodeName] = pod{i.Metadata.Name, i.Spec.NodeName, isReady(i.Status.Conditions)}
		}
	}
	return pods, nil
}

// renewals returns when each node last renewed its Lease.
func (c *cluster) renewals(ctx context.Context) (map[string]time.Time, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ RenewTime time.Time }
		}
	}
	if err := c.get(ctx, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &list); err != nil {
		return nil, err
	}
	renewed := map[string]time.Time{}
	for _, i := range list.Items {
		renewed[i.Metadata.Name] = i.Spec.RenewTime
	}
	return renewed, nil
}

// entry is a neighbour entry of a node, ages in seconds.
type entry struct {
	Addr, LLAddr, State      string
	Used, Confirmed, Updated float64
}

// learned returns the entries of a node that the promise is about. It asks the
// node where it can, so that no agent has to run there, and the agent elsewhere.
func (c *cluster) learned(ctx context.Context, node string) ([]entry, error) {
	if os.Getenv("E2E_ON_NODE") == "" {
		return c.listed(ctx, node)
	}
	out, err := onNode(ctx, node, "ip", "-statistics", "-json", "neigh", "show")
	if err != nil {
		return nil, err
	}
	var rows []struct {
		Dst, Dev, LLAddr         string
		State                    []string
		Used, Confirmed, Updated float64
		Managed                  json.RawMessage
		ExternLearn              json.RawMessage `json:"extern_learn"`
		Protocol                 string
	}
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		return nil, fmt.Errorf("ip neigh on %s: %w", node, err)
	}
	var entries []entry
	for _, r := range rows {
		state := strings.Join(r.State, ",")
		if r.Dev == "lo" || r.ExternLearn != nil || r.Managed != nil || (r.Protocol != "" && r.Protocol != "kernel") ||
			slices.Contains([]string{"PERMANENT", "NOARP", "INCOMPLETE", "NONE"}, state) {
			continue
		}
		entries = append(entries, entry{r.Dst, r.LLAddr, state, r.Used, r.Confirmed, r.Updated})
	}
	return entries, nil
}

func (c *cluster) listed(ctx context.Context, node string) ([]entry, error) {
	pods, err := c.pods(ctx)
	if err != nil {
		return nil, err
	}
	p, ok := pods[node]
	if !ok || !p.Ready {
		return nil, nil // no agent to ask just now
	}
	out, err := kubectl(ctx, "-n", namespace, "exec", p.Name, "--", "/arp-cache-cleaner", "list", "-o", "json")
	if err != nil {
		return nil, err
	}
	var rows []struct {
		Address, LLAddr, State, Verdict string
		Used                            float64 `json:"used_seconds"`
		Confirmed                       float64 `json:"confirmed_seconds"`
		Updated                         float64 `json:"updated_seconds"`
	}
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		return nil, fmt.Errorf("list on %s: %w", node, err)
	}
	var entries []entry
	for _, r := range rows {
		if r.Verdict != "keep" {
			entries = append(entries, entry{r.Address, r.LLAddr, strings.ToUpper(r.State), r.Used, r.Confirmed, r.Updated})
		}
	}
	return entries, nil
}
