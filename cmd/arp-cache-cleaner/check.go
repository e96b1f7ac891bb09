package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/apicheck"
)

// check checks the API server behind an address.
func check(ctx context.Context, o *options, stdout, _ io.Writer) error {
	c := apicheck.Checker{CAFile: o.VIP.CAFile, Plain: o.VIP.Health == "tcp", Timeout: o.Check.Timeout}
	if c.CAFile != "" && !c.Plain {
		if err := apicheck.CheckCAFile(c.CAFile); err != nil {
			return badInput{fmt.Errorf("--vip-ca-file: %w", err)}
		}
	}
	r := c.Check(ctx, apicheck.Server{Addr: o.Check.Server, Name: o.Check.Name})
	if _, err := fmt.Fprintln(stdout, checkLine(o, &r)); err != nil {
		return err
	}
	if r.Outcome != apicheck.Served {
		return exit(1)
	}
	return nil
}

// checkLine is the result of a check in one line.
func checkLine(o *options, r *apicheck.Result) string {
	status := "none"
	if r.Status != 0 {
		status = fmt.Sprint(r.Status)
	}
	line := fmt.Sprintf("%s %s status=%s verified=%t took=%s", o.Check.Server, r.Outcome, status, r.Verified, r.Took.Round(100*time.Microsecond))
	switch {
	case r.Err != nil:
		line += fmt.Sprintf(" error=%q", r.Err)
	case r.Unproven != nil:
		line += fmt.Sprintf(" unproven=%q", r.Unproven)
	}
	return line
}
