package main

import (
	"log/slog"
	"path"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// warnUnmatched logs which globs match no device when the agent starts. Devices come
// and go, so that this is no error; but a glob that is mistyped leaves everything out,
// or nothing. Where the devices cannot be read, the first scan says so.
func warnUnmatched(scope *policy.Scope, table *kernel.Table, log *slog.Logger) {
	if len(scope.Interfaces)+len(scope.ExcludeInterfaces) == 0 {
		return
	}
	topology, err := table.Topology()
	if err != nil {
		return
	}
	for _, f := range []struct {
		flag  string
		globs []string
	}{{"--interface", scope.Interfaces}, {"--exclude-interface", scope.ExcludeInterfaces}} {
		for _, glob := range f.globs {
			if !matchesAny(glob, &topology) {
				log.Warn("no device has such a name yet: is it mistyped?", "flag", f.flag, "glob", glob)
			}
		}
	}
}

func matchesAny(glob string, topology *neigh.Topology) bool {
	for _, link := range topology.Links {
		if ok, _ := path.Match(glob, link.Name); ok {
			return true
		}
	}
	return false
}
