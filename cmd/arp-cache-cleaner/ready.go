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
	// Without a host, the address is this host's.
	status, body, err := get(ctx, "http://"+o.Health[0]+"/readyz")
	switch {
	case err != nil:
		return fmt.Errorf("not ready: asking at --health.listen-address=%s: %w", o.Health[0], err)
	case status != http.StatusOK:
		return fmt.Errorf("not ready: %d from %s: %s", status, o.Health[0], strings.TrimSpace(string(body)))
	}
	_, err = stdout.Write(body)
	return err
}

// maxAnswer bounds what is read of an answer: metrics of 10,000 entries are 5 MB.
const maxAnswer = 16 << 20

func get(ctx context.Context, url string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil) //nolint:gosec // whoever runs the command says whom to ask
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", "text/plain")
	client := http.Client{Transport: &http.Transport{}} // by no proxy: it is this node that is asked
	resp, err := client.Do(req)                         //nolint:gosec // as above
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, body, err
}
