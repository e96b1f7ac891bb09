package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/markdown"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// marked reports whether a block is one that has to run.
func marked(b markdown.Block) bool {
	words := strings.Fields(b.Info)
	return len(words) > 1 && words[0] == "sh" && slices.Contains(words[1:], "run")
}

// patience is how long a block may take.
const patience = 20 * time.Second

// runBlocks runs every marked block on a host of a lab, and returns how many.
func runBlocks(d *documents) (ran int, err error) {
	dir, err := os.MkdirTemp("", "check-docs")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	root, err := filepath.Abs(d.root)
	if err != nil {
		return 0, err
	}
	l := lab.New(func(err error) {
		fmt.Fprintln(os.Stderr, "check-docs:", err)
		os.Exit(1)
	})
	defer l.Close()
	m, err := newMachine(l, root, dir)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, name := range d.names {
		for _, b := range d.pages[name].Blocks {
			if !marked(b) {
				continue
			}
			ran++
			if err := m.run(b.Text); err != nil {
				errs = append(errs, fmt.Errorf("%s:%d: %w", name, b.Line, err))
			}
		}
	}
	return ran, errors.Join(append(errs, m.stop())...)
}

// machine is where blocks run: a node on which the agent runs.
type machine struct {
	node  *lab.Host
	agent *exec.Cmd
	root  string // of the repository, in which blocks run
	path  string // PATH
}

// newMachine makes the machine, with a directory for its files. The agent is that of
// bin/ below root.
func newMachine(l *lab.Lab, root, dir string) (*machine, error) {
	sw := l.Switch()
	m := &machine{node: l.Host("node"), root: root}
	m.node.Plug(sw, "eth0", "02:00:00:00:00:10", "192.0.2.10/24")
	l.Host("gateway").Plug(sw, "eth0", "02:00:00:00:00:01", "192.0.2.1/24")
	api := l.Host("control-plane")
	api.Plug(sw, "eth0", "02:00:00:00:01:01", "192.0.2.100/24")
	api.ServeAPI(l.CA(), "192.0.2.100:6443", []string{"192.0.2.100"})
	m.node.IP("route add default via 192.0.2.1")
	for _, addr := range []string{"192.0.2.1", "192.0.2.100"} {
		m.node.Touch(addr)
	}
	// On the machine a block is root already.
	if err := os.WriteFile(filepath.Join(dir, "sudo"), []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755); err != nil {
		return nil, err
	}
	m.path = strings.Join([]string{dir, filepath.Join(root, "bin"), os.Getenv("PATH")}, ":")
	m.agent = exec.Command(filepath.Join(root, "bin", "arp-cache-cleaner"), "--vip=192.0.2.100", "--log-level=warn")
	m.agent.Stderr = os.Stderr
	if err := m.node.Start(m.agent); err != nil {
		return nil, fmt.Errorf("starting the agent (make build makes it): %w", err)
	}
	return m, m.ready()
}

// ready waits until the agent is ready.
func (m *machine) ready() (err error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		if err = m.run("arp-cache-cleaner ready"); err == nil {
			return nil
		}
		<-tick.C
	}
	return err
}

// run runs a block, as a shell would in which it is typed, and fails at the first command
// that does.
func (m *machine) run(block string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", `set -Eeuo pipefail; trap 'echo "failed: $BASH_COMMAND" >&2' ERR`+"\n"+block)
	cmd.Dir = m.root
	cmd.Env = append(os.Environ(), "PATH="+m.path, "TERM=dumb")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := m.node.Start(cmd); err != nil {
		return err
	}
	err := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("not done after %v:\n%s%s", patience, block, said.String())
	case err != nil:
		return fmt.Errorf("%w:\n%s%s", err, block, said.String())
	}
	return nil
}

// stop stops the agent.
func (m *machine) stop() error {
	return errors.Join(m.agent.Process.Signal(syscall.SIGTERM), m.agent.Wait())
}
