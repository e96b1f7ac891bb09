package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/record"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// neighbour is a neighbour that both nodes have, and how they use it.
type neighbour struct {
	addr, use string
	touched   []time.Duration // when the node sends it one datagram
}

// neighbours are as a node of a cluster has them, some in use and some not.
var neighbours = []neighbour{
	{"10.0.0.11", "TCP", nil},
	{"10.0.0.12", "TCP", nil},
	{"10.0.0.21", "UDP", nil},
	{"10.0.0.22", "UDP", nil},
	{"10.0.0.254", "next hop", []time.Duration{20 * time.Second}},
	{"10.0.0.31", "idle", []time.Duration{0}},
	{"10.0.0.32", "idle", []time.Duration{45 * time.Second}},
	{"10.0.0.33", "idle", []time.Duration{90 * time.Second}},
}

// samplePeriod is how often the table is read.
const samplePeriod = 5 * time.Second

// sides are the two nodes, in the order of the columns.
var sides = [2]string{"kernel alone", "with the agent"}

// measureAges watches the tables of two nodes with the same neighbours and the same
// traffic, one with an agent that has its defaults and one without, and writes the
// greatest age of each entry.
func measureAges(ctx context.Context, agent, file string, length time.Duration) (err error) {
	l := lab.New(fail)
	defer l.Close()
	sw := l.Switch()
	var nodes [2]*lab.Host
	columns := []string{"seconds"}
	for i, side := range sides {
		nodes[i] = l.Host(side)
		nodes[i].Plug(sw, "eth0", fmt.Sprintf("02:00:00:00:00:0%d", i+1), fmt.Sprintf("10.0.0.%d/24", i+1))
		nodes[i].IP("route add default via 10.0.0.254")
		// A node's table has fewer than gc_thresh1 entries, and the kernel removes none that
		// are idle. This machine's may have more, in all its namespaces together.
		nodes[i].Sysctl("net/ipv4/neigh/eth0/gc_stale_time", "86400")
		for _, n := range neighbours {
			columns = append(columns, side+": "+n.use+" "+n.addr)
		}
	}
	for i, n := range neighbours {
		peer := l.Host(n.addr)
		peer.Plug(sw, "eth0", fmt.Sprintf("02:00:00:00:01:%02x", i), n.addr+"/24")
		for side, node := range nodes {
			stream, err := n.talk(node, peer, uint16(7000+side))
			if err != nil {
				return err
			}
			if stream != nil {
				defer func() { err = errors.Join(err, stream.Stop()) }()
			}
		}
	}
	cmd := exec.CommandContext(ctx, agent, "--vip=none", "--listen-host=127.0.0.1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	if err := nodes[1].Start(cmd); err != nil {
		return fmt.Errorf("starting the agent (make build makes it): %w", err)
	}
	r := record.New("make measure", columns...)
	r.Rows = sample(ctx, nodes, length)
	if err := errors.Join(ctx.Err(), cmd.Process.Signal(syscall.SIGTERM), cmd.Wait(), undisturbed(r.Rows)); err != nil {
		return err
	}
	return r.Write(file)
}

// undisturbed says if an entry of the node without an agent has vanished: the kernel
// removes those of any namespace when the machine has more than gc_thresh2 entries.
func undisturbed(rows [][]string) error {
	for i := 1; i < len(rows); i++ {
		for c, n := range neighbours {
			if rows[i-1][1+c] != "" && rows[i][1+c] == "" {
				return fmt.Errorf("after %s s the kernel has removed the entry for %s: other programs fill the machine's neighbour table", rows[i][0], n.addr)
			}
		}
	}
	return nil
}

// talk starts the traffic from a node to a neighbour; nil if there is none.
func (n *neighbour) talk(node, peer *lab.Host, port uint16) (*lab.Stream, error) {
	to := netip.AddrPortFrom(netip.MustParseAddr(n.addr), port)
	switch n.use {
	case "TCP":
		return lab.TCP(node, peer, to, time.Second)
	case "UDP":
		return lab.UDP(node, peer, to, time.Second)
	}
	return nil, nil
}

// sample reads both tables every few seconds, and sends the single datagrams.
func sample(ctx context.Context, nodes [2]*lab.Host, length time.Duration) (rows [][]string) {
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for now := time.Duration(0); now <= length; now += samplePeriod {
		row := []string{strconv.Itoa(int(now.Seconds()))}
		for _, node := range nodes {
			for _, n := range neighbours {
				for _, at := range n.touched {
					if at == now {
						node.Touch(n.addr)
					}
				}
			}
			row = append(row, greatest(node)...)
		}
		rows = append(rows, row)
		select {
		case <-ctx.Done():
			return rows
		case <-tick.C:
		}
	}
	return rows
}

// greatest is the greatest of the three ages of each entry, empty where there is none.
func greatest(node *lab.Host) []string {
	ages := make([]string, len(neighbours))
	for _, shown := range node.Neighbours() {
		for i, n := range neighbours {
			if shown.Addr == n.addr && !strings.Contains(shown.Line, "INCOMPLETE") {
				ages[i] = strconv.Itoa(max(shown.Used, shown.Confirmed, shown.Updated))
			}
		}
	}
	return ages
}
