// Command bench-loss counts the packets that are lost while a node's neighbour
// entry for a peer is renewed about once a second, side by side: by the agent,
// and by the usual commands. It runs in network namespaces and needs no root
// where user namespaces are allowed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func main() {
	agent := flag.String("agent", "bin/arp-cache-cleaner", "path of the agent")
	length := flag.Duration("for", 6*time.Second, "length of each measurement")
	flag.Parse()
	if err := errors.Join(lab.Enter(), bench(*agent, *length)); err != nil {
		fmt.Fprintln(os.Stderr, "bench-loss:", err)
		os.Exit(1)
	}
}

// method is one way to renew an entry.
type method struct {
	name  string
	renew func(node *lab.Host, peer string) (stop func() error, err error)
}

func bench(agent string, length time.Duration) error {
	methods := []method{
		{"nothing", func(*lab.Host, string) (func() error, error) { return func() error { return nil }, nil }},
		{"arp-cache-cleaner --interval=1s", runAgent(agent)},
		{"ip neigh del", everySecond("neigh del PEER dev eth0")},
		{"ip neigh flush all", everySecond("neigh flush all")},
		{"del, add use (NTF_USE)", everySecond("neigh del PEER dev eth0", "neigh add PEER dev eth0 use")},
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Printf("Linux %s, UDP at %d packets/s and TCP for %v each, the entry renewed about once a second.\n"+
		"lost: UDP packets sent and not received. discards: packets the kernel dropped unresolved.\n"+
		"stall: longest round trip of a message on the TCP connection.\n\n",
		strings.TrimSpace(string(kernel)), lab.LossRate, length)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "renewed by\tcase\tsent\tlost\tdiscards\tstall\tbroadcasts")
	for _, m := range methods {
		for _, c := range lab.LossCases {
			if err := measure(w, m, c, length); err != nil {
				return fmt.Errorf("%s, %s: %w", m.name, c.Name, err)
			}
			fmt.Fprint(os.Stderr, ".")
		}
	}
	fmt.Fprintln(os.Stderr)
	return w.Flush()
}

func measure(w *tabwriter.Writer, m method, c lab.LossCase, length time.Duration) error {
	l := lab.New(func(err error) {
		fmt.Fprintln(os.Stderr, "bench-loss:", err)
		os.Exit(1)
	})
	defer l.Close()
	before, readable := lab.Discards()
	res, err := lab.Loss(l, c, length, m.renew)
	if err != nil {
		return err
	}
	discards := "n/a"
	if after, ok := lab.Discards(); ok && readable {
		discards = fmt.Sprint(after - before)
	}
	fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%v\t%d\n", m.name, c.Name, res.Sent, res.Lost, discards,
		res.Stall.Round(100*time.Microsecond), res.Broadcasts)
	return nil
}

func runAgent(path string) func(*lab.Host, string) (func() error, error) {
	return func(node *lab.Host, _ string) (func() error, error) {
		cmd := exec.Command(path, "--interval=1s", "--log-level=warn",
			"--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")
		cmd.Stderr = os.Stderr
		if err := node.Start(cmd); err != nil {
			return nil, fmt.Errorf("starting the agent (make build makes it): %w", err)
		}
		return func() error {
			return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
		}, nil
	}
}

// everySecond runs ip commands once a second.
func everySecond(commands ...string) func(*lab.Host, string) (func() error, error) {
	return func(node *lab.Host, peer string) (func() error, error) {
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			t := time.NewTicker(time.Second)
			defer t.Stop()
			for {
				select {
				case <-stop:
					return
				case <-t.C:
				}
				for _, c := range commands {
					// The entry may have been made again by traffic, or not yet.
					_, _ = node.Try("ip", strings.Fields(strings.ReplaceAll(c, "PEER", peer))...)
				}
			}
		}()
		return func() error {
			close(stop)
			<-done
			return nil
		}, nil
	}
}
