package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/server"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/status"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// pages returns what makes the status page, as it is at the time.
func (a *assembly) pages(s *sweep.Sweeper, w *vip.Watcher) func() server.Page {
	node := os.Getenv("NODE_NAME") // as manifests may set it; without it the machine's own name
	if node == "" {
		node, _ = os.Hostname()
	}
	base := status.Page{
		Node: node, Version: version, Started: time.Now(),
		Acting: a.role.acting, ActingReason: a.role.reason, Interval: a.o.Interval, Health: a.o.Health,
	}
	return func() server.Page {
		p := base
		p.Now = time.Now()
		p.NotReady, p.Report, p.VIPs, p.Events = s.Ready(p.Now), s.Report(), w.Status(), a.history.Last()
		return &p
	}
}

// showStatus asks the agent on this node for its status page, as text.
func showStatus(ctx context.Context, o *options, stdout, _ io.Writer) error {
	const flag = "--web.listen-address"
	// Without a host, the address is this host's.
	code, body, err := get(ctx, "http://"+o.Web[0]+"/")
	switch {
	case err != nil:
		return fmt.Errorf("asking the agent at %s=%s: %w", flag, o.Web[0], err)
	case code == http.StatusUnauthorized, code == http.StatusBadRequest && bytes.Contains(body, []byte("HTTPS server")):
		return fmt.Errorf("the agent at %s=%s asks for TLS or a password, by its --web.config.file, and this command has neither: look at the page with a browser", flag, o.Web[0])
	case code != http.StatusOK:
		return fmt.Errorf("%d from %s: %s", code, o.Web[0], cmp.Or(strings.TrimSpace(string(body)), "no more is said"))
	}
	_, err = stdout.Write(body)
	return err
}
