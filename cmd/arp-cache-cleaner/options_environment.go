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
func nearest(word string, names []string) (best string) {
	limit := min(2, max(1, len(word)/3))
	for _, n := range names {
		if d := distance(word, n); d <= limit {
			best, limit = n, d-1
		}
	}
	return best
}

// distance is the optimal string alignment distance.
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
		for j := 1; j <= len(b); j++ {
			if i == 0 {
				d[i][j] = j
				continue
			}
			wrong := 1
			if a[i-1] == b[j-1] {
				wrong = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+wrong)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
