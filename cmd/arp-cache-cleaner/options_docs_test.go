package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

func flagTable() string {
	var b strings.Builder
	b.WriteString("| flag | default | what it does | allowed |\n|---|---|---|---|\n")
	for _, p := range declared(newFlags("", &options{})) {
		b.WriteString(flagRow(p))
	}
	return b.String()
}

func flagRow(p *pflag.Flag) string {
	short := ""
	if p.Shorthand != "" {
		short = "`-" + p.Shorthand + "`, "
	}
	return fmt.Sprintf("| %s`--%s` | %s | %s | %s |\n", short, p.Name, p.DefValue, p.Usage, strings.ReplaceAll(allowed(p), "*", `\*`))
}

func commandTable() string {
	var b strings.Builder
	b.WriteString("| command | what it does | exit code |\n|---|---|---|\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.synopsis(), c.summary, cmp.Or(strings.TrimSuffix(c.exits, "."), "0, 1 or 2: see below"))
	}
	return b.String()
}

// commandFlagTable has the flags of commands that the agent does not have.
func commandFlagTable() string {
	var b strings.Builder
	b.WriteString("| command | flag | default | what it does | allowed |\n|---|---|---|---|---|\n")
	agent := newFlags("", &options{})
	for _, c := range commands() {
		for _, p := range declared(newFlags(c.name, &options{})) {
			if same := agent.Lookup(p.Name); same == nil || same.Usage != p.Usage {
				fmt.Fprintf(&b, "| `%s` %s", c.name, flagRow(p))
			}
		}
	}
	return b.String()
}
