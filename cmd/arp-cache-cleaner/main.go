// Command arp-cache-cleaner renews the learned neighbour (ARP and ND) entries
// of the node it runs on, so that none goes unverified for longer than an
// interval.
package main

//go:generate go test -run "^(TestDocs|TestListTable|TestListJSON|TestLogFormats)$" -update .

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/machine"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// version and commit are set by the linker in releases.
var version, commit = "dev", ""

func main() {
	machine.Runtime()
	o, err := parse(os.Args[1:], os.LookupEnv, os.Stdout)
	if err == nil && o.Command == "" && !o.Once && !o.Version {
		machine.Slack() // before signals are handled
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, o, err, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errStopped takes the place of what a signal made fail.
var errStopped = errors.New("stopped by a signal before it was done")

// run runs the command that parse has found, or prints what is wrong with the command
// line. It returns the exit code: 0, 1 for what went wrong, 2 for bad input.
func run(ctx context.Context, o *options, err error, stdout, stderr io.Writer) int {
	switch {
	case errors.Is(err, errHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "arp-cache-cleaner:", err)
		return 2
	}
	c, _ := find(o.Command) // parse has found it
	do := c.run
	if o.Version {
		do = showVersion
	}
	err = do(ctx, o, stdout, stderr)
	var said exit
	var bad badInput
	code := 1
	switch {
	case err == nil:
		return 0
	case errors.As(err, &said):
		return int(said)
	case errors.As(err, &bad):
		code = 2
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		err = errStopped
	}
	_, _ = fmt.Fprintln(stderr, "arp-cache-cleaner:", err)
	return code
}

// exit is the exit code of a command that has said all there is to say.
type exit int

func (exit) Error() string { return "the command has said why" }

// badInput is what is wrong with a file that a flag names.
type badInput struct{ error }

func (b badInput) Unwrap() error { return b.error }

// howToGrant is what to do about a missing capability.
const howToGrant = "run as root; in Kubernetes with runAsUser: 0 and capabilities.add: [NET_ADMIN, NET_RAW]"

// explain adds to a missing capability how to grant it.
func explain(err error) error {
	if errors.Is(err, neigh.ErrPermission) {
		return fmt.Errorf("%w: CAP_NET_ADMIN is missing: %s; or give --act=never to observe only", err, howToGrant)
	}
	return err
}

// logger returns the log. Both formats write a value as the same text.
func logger(o *options, w io.Writer) *slog.Logger {
	h := o.Log
	h.ReplaceAttr = asText
	if o.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, &h))
	}
	return slog.New(slog.NewTextHandler(w, &h))
}

// asText replaces values that have a String method by its text. In JSON a duration would
// be a number of nanoseconds, a state a number, and a net.Addr an object.
func asText(_ []string, a slog.Attr) slog.Attr {
	if _, is := a.Value.Any().(fmt.Stringer); is && a.Value.Kind() != slog.KindTime {
		a.Value = slog.StringValue(a.Value.String())
	}
	return a
}

// warnUnknown logs which variables look like the agent's, and are not.
func warnUnknown(environ []string, log *slog.Logger) {
	for _, v := range unknownVariables(environ) {
		args := []any{"variable", v.name}
		if v.meant != "" {
			args = append(args, "did_you_mean", v.meant)
		}
		log.Warn("an environment variable is ignored: no flag has that name", args...)
	}
}

// showVersion prints what this is.
func showVersion(_ context.Context, _ *options, stdout, _ io.Writer) error {
	_, err := fmt.Fprintln(stdout, "arp-cache-cleaner", version, revision(), runtime.Version())
	return err
}

// revision is the commit the binary was built from, as far as the build knew.
func revision() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
