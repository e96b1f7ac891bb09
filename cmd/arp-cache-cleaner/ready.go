package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// ready asks the agent on this node whether it is ready. The image has no shell
// and no HTTP client of its own.
func ready(ctx context.Context, o *options, stdout, _ io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Without a host, the address is this host's.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.Health[0]+"/readyz", nil) //nolint:gosec // whoever runs the command says whom to ask
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req) //nolint:gosec // as above
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	switch {
	case err != nil:
		return fmt.Errorf("not ready: reading from %s: %w", o.Health[0], err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(body)))
	}
	_, err = stdout.Write(body)
	return err
}
