package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const (
	inside  = "ARP_LAB_INSIDE"  // set in the process that Enter starts
	require = "ARP_LAB_REQUIRE" // see Start
	isAlone = "ARP_LAB_ALONE"   // see Alone
)

// Enter makes sure that the process may build a lab. Root may; anybody else is
// started once more inside a user namespace, in which case Enter does not
// return but exits with that process's code.
func Enter() error {
	if os.Geteuid() == 0 || os.Getenv(inside) != "" {
		return usable()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	}
	return fmt.Errorf("not root, and user namespaces are not allowed here: %w", err)
}

func usable() error {
	ns, err := newNamespace()
	if err != nil {
		return err
	}
	return ns.Close()
}

var errEnter error

// Main is the TestMain of packages with live tests.
func Main(m *testing.M) {
	errEnter = Enter()
	os.Exit(m.Run())
}

// Start returns an empty lab that is closed with the test. Where labs cannot
// be built it skips the test, or fails it if ARP_LAB_REQUIRE is set.
func Start(tb testing.TB) *Lab {
	tb.Helper()
	if errEnter != nil {
		if os.Getenv(require) != "" {
			tb.Fatalf("%s is set, but: %v", require, errEnter)
		}
		tb.Skipf("live test: %v", errEnter)
	}
	l := New(func(err error) {
		tb.Helper()
		tb.Fatal(err)
	})
	tb.Cleanup(l.Close)
	return l
}

// Alone is for tests that need the machine to themselves: they count every packet,
// measure time closely, or fill the neighbour table, whose limits all namespaces
// share. They are skipped with -short, where tests run side by side, unless
// ARP_LAB_ALONE is set. Without it a package runs alone (`make test-all`), and in it
// whatever is not parallel.
func Alone(tb testing.TB) {
	tb.Helper()
	if testing.Short() && os.Getenv(isAlone) == "" {
		tb.Skip("not with -short: it needs the machine to itself")
	}
}
