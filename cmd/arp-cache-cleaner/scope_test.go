package main

import (
	"slices"
	"strings"
	"testing"
)

// A glob that no device matches is said at the start, and is no reason to stop: the
// device may come.
func TestGlobsThatMatchNoDevice(t *testing.T) {
	t.Parallel()
	n := node(t)
	p := start(t, n, "--interface=eth*,ens192", "--exclude-interface=cali*,lo", "--interface=et?0")
	p.ready()
	var said []string
	for line := range strings.Lines(p.stderr.String()) {
		if _, what, ok := strings.Cut(line, `level=WARN msg="no device has such a name yet: is it mistyped?" `); ok {
			said = append(said, strings.TrimSpace(what))
		}
	}
	if want := []string{"flag=--interface glob=ens192", "flag=--exclude-interface glob=cali*"}; !slices.Equal(said, want) {
		t.Errorf("it says %q, want %q\n%s", said, want, p.stderr.String())
	}
}
