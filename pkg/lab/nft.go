package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Firewall loads nftables rules on the host. Where the nft command or the kernel
// cannot, it skips the test, or fails it as Start does.
func (h *Host) Firewall(tb testing.TB, rules string) {
	tb.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := h.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		return
	}
	err = fmt.Errorf("loading nftables rules on host %s: %w: %s", h.Name, err, strings.TrimSpace(out.String()))
	if os.Getenv(require) != "" {
		tb.Fatalf("%s is set, but: %v", require, err)
	}
	tb.Skipf("live test: %v", err)
}
