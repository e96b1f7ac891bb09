package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Entries has the kernel take n learned entries of each family before it refuses
// more: gc_thresh1 to 3, which exist in the first namespace only and hold for all.
// They are put back when the lab is closed, and by a process of its own if this
// one does not live to do so. It reports false where they cannot be set.
func (l *Lab) Entries(n int) bool {
	var set, restore []string
	for _, family := range []string{"ipv4", "ipv6"} {
		for i := 1; i <= 3; i++ { // from the least to the greatest
			path := fmt.Sprintf("/proc/sys/net/%s/neigh/default/gc_thresh%d", family, i)
			was, err := os.ReadFile(path)
			if err != nil {
				return false
			}
			set = append(set, path)
			restore = append(restore, fmt.Sprintf("echo %s > %s", strings.TrimSpace(string(was)), path))
		}
	}
	undo := exec.Command("sh", "-c", "trap '' INT TERM HUP; read -r line; "+strings.Join(restore, "; "))
	alive, err := undo.StdinPipe() // closed when this process ends, however it does
	if err != nil || undo.Start() != nil {
		return false
	}
	l.closers = append(l.closers, func() {
		_ = alive.Close()
		_ = undo.Wait()
	})
	for _, path := range set {
		if os.WriteFile(path, fmt.Append(nil, n), 0) != nil {
			return false
		}
	}
	return true
}
