package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

// command is one thing that the program does.
type command struct {
	name    string // "" for the agent
	args    string // as usage shows them
	summary string // one line
	about   string // for its own help, what it does at length
	exits   string // for its own help, its exit codes, "" for the usual ones
	example string // a flag by which help shows the names of variables, "" where none is read
	declare func(*flags)
	// argument takes the one argument; nil: there is none.
	argument func(o *options, s string) error
	// shared are the flags that a command with an argument reads from the environment.
	// Other variables are the agent's: in a pod, ARP_CACHE_CLEANER_INTERVAL is not the
	// --interval of probe.
	shared []string
	run    func(ctx context.Context, o *options, stdout, stderr io.Writer) error // nil: parse does it
}

// commands lists all commands, in the order of the help.
func commands() []command {
	return []command{
		{
			args: "[flags]", summary: "run the agent",
			about: `Renews this node's learned neighbour (ARP and ND) entries, so that none goes
unverified for longer than --interval.`,
			example: "scan-period", declare: (*flags).addAgent, run: agent,
		},
		{
			name: "list", args: "[flags]", summary: "show the table, and what the agent would do with each entry",
			about: `Shows the neighbour table, and what the agent would do with each entry once it
is due. Changes nothing, and needs no privilege. The scope flags choose which
entries are shown; given by environment, as in the agent's pod, they are the agent's
own, and what they leave out is shown as kept. An entry that the agent on this node
watches as a VIP has the reason vip, if its /metrics can be read without TLS and
password.`,
			example: "exclude-cidr", declare: (*flags).addList, run: list,
		},
		{
			name: "probe", args: "ADDRESS [flags]", summary: "ask who holds an address, and show everybody who answers",
			about: `Asks by broadcast who holds an address, and shows every holder that answers.
An entry of this node's for the address keeps its link-layer address. Needs
CAP_NET_RAW, and CAP_NET_ADMIN where there is such an entry.`,
			exits:   "0 if one holder answers, 3 if none does, 4 if several do, 1 if nobody could be asked, 2 for bad input.",
			declare: (*flags).addProbe, argument: probeAddress, run: probe,
		},
		{
			name: "check", args: "ADDRESS[:PORT] [flags]", summary: "check the API server behind an address, as the agent would",
			about: `Checks the API server behind an address once, as the agent checks the one behind
a VIP, and shows the result in one line. For scripts such as keepalived's
vrrp_script. Needs no privilege. Without a port it is that of --vip-port. Without a
CA file the certificate is not checked.`,
			exits:   "0 if it serves, 1 if not, 2 for bad input.",
			declare: (*flags).addCheck, argument: checkAddress, shared: []string{"vip-port", "vip-ca-file"}, run: check,
		},
		{
			name: "ready", args: "[flags]", summary: "ask the agent on this node whether it is ready",
			about: `Asks the agent on this node whether it is ready, as kubelet does, and shows what
it answers.`,
			exits:   "0 if it is ready, 1 if not.",
			example: "listen-host", declare: (*flags).addHealth, run: ready,
		},
		{
			name: "status", args: "[flags]", summary: "ask the agent on this node what it knows, and has done",
			about: `Asks the agent on this node for its status page, and shows it as text. With TLS
or passwords (--web.config.file) it cannot: the page is for browsers then.`,
			exits:   "0 if it answers, 1 if not.",
			example: "listen-host", declare: (*flags).addWeb, run: showStatus,
		},
		{name: "version", summary: "print the version", about: "Prints the version.", run: showVersion},
		{name: "help", args: "[COMMAND]", summary: "show this, or what a command does", about: "Shows what the program does, or one of its commands."},
	}
}

// find returns the command of that name.
func find(name string) (command, bool) {
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		return command{}, false
	}
	return all[i], true
}

func unknownCommand(name string) error {
	var names []string
	for _, c := range commands() {
		if c.name != "" {
			names = append(names, c.name)
		}
	}
	hint := ""
	if meant := nearest(name, names); meant != "" {
		hint = fmt.Sprintf("did you mean %s? ", meant)
	}
	last := len(names) - 1
	return fmt.Errorf("unknown command %q: %swant %s or %s, or none to run the agent", name, hint, strings.Join(names[:last], ", "), names[last])
}

// synopsis is how the command is called.
func (c *command) synopsis() string {
	words := []string{"arp-cache-cleaner"}
	for _, w := range []string{c.name, c.args} {
		if w != "" {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

// help says what a command does, and what its flags are.
func (f *flags) help(w io.Writer, c *command) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n", c.about)
	if c.name != "" {
		fmt.Fprintf(&b, "  %s\n", c.synopsis())
	} else {
		tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, each := range commands() {
			_, _ = fmt.Fprintf(tw, "  %s\t%s\n", each.synopsis(), each.summary)
		}
		_ = tw.Flush()
	}
	if c.exits != "" {
		fmt.Fprintf(&b, "\nExit code: %s\n", c.exits)
	}
	switch {
	case c.example != "":
		fmt.Fprintf(&b, "\nFlags, each also read from the environment (--%s from %s):\n", c.example, variable(c.example))
	case len(c.shared) > 0:
		var names []string
		for _, flag := range c.shared {
			names = append(names, fmt.Sprintf("--%s from %s", flag, variable(flag)))
		}
		fmt.Fprintf(&b, "\nFlags (also read from the environment: %s):\n", strings.Join(names, ", "))
	case f.HasFlags():
		b.WriteString("\nFlags:\n")
	}
	f.VisitAll(func(p *pflag.Flag) {
		name := "--" + p.Name
		if p.Shorthand != "" {
			name = "-" + p.Shorthand + ", " + name
		}
		fmt.Fprintf(&b, "  %s\n        %s\n        allowed: %s; default: %s\n", name, p.Usage, allowed(p), p.DefValue)
	})
	_, _ = io.WriteString(w, b.String())
}
