package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

const variablePrefix = "ARP_CACHE_CLEANER_"

// variable is the name of the environment variable for a flag.
func variable(flag string) string {
	return variablePrefix + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(flag))
}

// environment sets flags that the command line left open, as far as the command reads
// any. An empty variable counts as unset, so that manifests can leave values open.
func (f *flags) environment(env func(string) (string, bool), c *command) (err error) {
	f.VisitAll(func(p *pflag.Flag) {
		text, ok := env(variable(p.Name))
		if err != nil || p.Changed || !ok || text == "" || !c.reads(p.Name) {
			return
		}
		f.sources[p.Name] = variable(p.Name)
		if e := f.Set(p.Name, text); e != nil {
			err = f.explain(e)
		}
	})
	return err
}

// reads reports whether a command reads a flag from the environment.
func (c *command) reads(flag string) bool {
	return c.argument == nil || slices.Contains(c.shared, flag)
}

// unknownVariable is a variable that looks like one of the agent's.
type unknownVariable struct {
	name  string
	meant string // the one that is nearest, if any is near
}

// unknownVariables finds variables ("NAME=value") that no flag of the agent's reads.
// Empty ones count as unset.
func unknownVariables(environ []string) (all []unknownVariable) {
	var known []string // without the prefix, which would make anything near
	newFlags("", &options{}).VisitAll(func(p *pflag.Flag) { known = append(known, strings.TrimPrefix(variable(p.Name), variablePrefix)) })
	for _, e := range environ {
		name, text, _ := strings.Cut(e, "=")
		rest, ours := strings.CutPrefix(name, variablePrefix)
		if !ours || text == "" || slices.Contains(known, rest) || ofService(name, text) {
			continue
		}
		u := unknownVariable{name: name, meant: nearest(rest, known)}
		if u.meant != "" {
			u.meant = variablePrefix + u.meant
		}
		all = append(all, u)
	}
	return all
}

// serviceVariable matches what kubelet sets for each port of a Service
// (envvars.FromServices of Kubernetes).
var serviceVariable = regexp.MustCompile(`_SERVICE_(HOST|PORT|PORT_[A-Z0-9_]+)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

// ofService reports whether kubelet has set a variable, for a Service whose name
// begins like the agent's.
func ofService(name, text string) bool {
	return serviceVariable.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(text, "://")
}

// nearest returns the name that a mistyped word was probably meant to be, "" if there is
// none: one letter in three, and two at most, may be wrong, missing, one too many, or
// swapped with its neighbour.
func nearest(word string, names []string) string {
	for edits := range min(2, max(1, len(word)/3)) + 1 {
		for _, n := range names {
			if near(edits, word, n) {
				return n
			}
		}
	}
	return ""
}

// near reports whether so many edits make a the same as b.
func near(edits int, a, b string) bool {
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	switch {
	case a == "" || b == "":
		return len(a)+len(b) <= edits
	case edits == 0:
		return false
	}
	swapped := len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0]
	return near(edits-1, a[1:], b[1:]) || near(edits-1, a[1:], b) || near(edits-1, a, b[1:]) ||
		swapped && near(edits-1, a[2:], b[2:])
}
