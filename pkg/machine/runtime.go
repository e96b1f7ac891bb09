package machine

import (
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Runtime sets the Go runtime up for a process that sleeps nearly always. It keeps no
// profile of allocations. Unless the environment says otherwise (GOMAXPROCS, GOGC), there
// is one thread for Go code, and the heap is collected when it has grown by half: that
// saves a MiB. A second thread takes memory of its own, and has the runtime wake threads
// that find nothing to do: an agent that is left alone costs a fifth more with it.
func Runtime() {
	runtime.MemProfileRate = 0
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// TimerSlack is by how much the kernel may be late to wake a thread that waits for
// a time to come (prctl(2), PR_SET_TIMERSLACK). What arrives wakes it at once.
const TimerSlack = 2 * time.Millisecond

// Slack starts the program over, with the TimerSlack instead of the usual 50 us: as
// the same process, with the same arguments and environment. It returns where it
// need not or cannot, and the program goes on as it is. It is to be called before
// anything else: what is open is lost, and a signal that a handler was given too.
//
// It is for the monitor thread of the Go runtime. As long as anything runs, or waits for
// a CPU, that wakes up every 20 us, or 70 with the slack there is (sysmon in
// runtime/proc.go). This is a fifth of the CPU time of an agent that watches a VIP, and
// nearly half on a machine whose CPUs are busy. A thread has the slack of the one that
// started it, and the monitor is started before any code of the program runs.
func Slack() {
	runtime.LockOSThread() // the slack is this thread's, and exec keeps it
	defer runtime.UnlockOSThread()
	if slack() >= TimerSlack {
		return
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(TimerSlack), 0, 0, 0) // what became of it is read
	if slack() < TimerSlack {
		return // a thread with a real-time policy has none
	}
	if path, err := os.Executable(); err == nil {
		_ = syscall.Exec(path, os.Args, os.Environ()) //nolint:gosec // itself; it returns only where it is not permitted
	}
}

// slack returns the slack of the calling thread.
func slack() time.Duration {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}
