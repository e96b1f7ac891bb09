package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// confine makes the test binary put on what the DaemonSet's pod has, and no more,
// before it becomes the agent: its value is the capabilities, as a mask.
const confine = "ARP_TEST_CONFINE"

// daemonSet are the capabilities that the manifest adds after it has dropped all.
const daemonSet = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW

// beConfined never returns: it becomes the agent, or exits with code 99.
func beConfined(mask string) {
	runtime.LockOSThread() // exec takes the state of this thread
	var caps uint64
	_, err := fmt.Sscan(mask, &caps)
	err = errors.Join(err, readOnlyRoot(), dropCapabilities(caps),
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), // allowPrivilegeEscalation: false
		restrictSystemCalls(),
	)
	if err == nil {
		// A write must fail now, whatever the user.
		if f, e := os.Create("/tmp/arp-cache-cleaner-must-not-be"); e == nil {
			_ = f.Close()
			err = errors.New("the root is writable")
		}
		// And a system call that is harmless, and not on the list.
		if e := unix.Sysinfo(new(unix.Sysinfo_t)); !errors.Is(e, unix.EPERM) {
			err = fmt.Errorf("system calls are not filtered: %w", e)
		}
	}
	if err == nil {
		env := os.Environ()
		for i := range env {
			if strings.HasPrefix(env[i], confine+"=") {
				env[i] = confine + "_DONE=1"
			}
		}
		err = syscall.Exec("/proc/self/exe", os.Args, env)
	}
	fmt.Fprintln(os.Stderr, "confining:", err)
	os.Exit(99)
}

// readOnlyRoot gives the process a view of the file system in which nothing can
// be written: readOnlyRootFilesystem.
func readOnlyRoot() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unsharing mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &attr)
	if errors.Is(err, unix.ENOSYS) { // before 5.12
		err = errors.Join(unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""), unix.Mount("none", "/tmp", "tmpfs", unix.MS_RDONLY, ""))
	}
	if err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	return nil
}

// dropCapabilities leaves exactly these, in every set that uid 0 has after an
// exec: bounding, permitted and effective.
func dropCapabilities(caps uint64) error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if caps>>c&1 == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // newer than the kernel
				return fmt.Errorf("dropping capability %d: %w", c, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	return nil
}

// systemCalls is all that the agent needs. Each is one that container runtimes
// allow by default to a container without further capabilities, so this is
// stricter than RuntimeDefault: that allows some three hundred.
var systemCalls = []uint32{
	// The runtime of Go.
	unix.SYS_BRK, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOSE, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL,
	unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_EXECVE, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FCNTL,
	unix.SYS_FSTAT, unix.SYS_FUTEX, unix.SYS_GETPID, unix.SYS_GETRANDOM, unix.SYS_GETTID, unix.SYS_LSEEK, unix.SYS_MADVISE, unix.SYS_MINCORE,
	unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_MUNMAP, unix.SYS_NANOSLEEP, unix.SYS_OPENAT, unix.SYS_PIPE2, unix.SYS_PRCTL, unix.SYS_PREAD64,
	unix.SYS_PRLIMIT64, unix.SYS_READ, unix.SYS_READLINKAT, unix.SYS_RESTART_SYSCALL, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK,
	unix.SYS_RT_SIGRETURN, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_YIELD, unix.SYS_SET_ROBUST_LIST, unix.SYS_SET_TID_ADDRESS,
	unix.SYS_SIGALTSTACK, unix.SYS_TGKILL, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_DELETE, unix.SYS_TIMER_SETTIME, unix.SYS_UNAME,
	unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_WRITE, unix.SYS_WRITEV,
	unix.SYS_RSEQ, unix.SYS_GETCPU, unix.SYS_FACCESSAT, unix.SYS_NEWFSTATAT, unix.SYS_GETDENTS64,
	// Sockets.
	unix.SYS_ACCEPT4, unix.SYS_BIND, unix.SYS_CONNECT, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKNAME, unix.SYS_GETSOCKOPT, unix.SYS_IOCTL,
	unix.SYS_LISTEN, unix.SYS_PPOLL, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_SETSOCKOPT,
	unix.SYS_SHUTDOWN, unix.SYS_SPLICE, unix.SYS_SENDFILE,
}

// namespaces are the flags of clone that make one.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// restrictSystemCalls has all others fail with EPERM, as RuntimeDefault does.
func restrictSystemCalls() error {
	const (
		number, arch, arg0 = 0, 4, 16 // struct seccomp_data, of which args are 64 bits each
		allow              = unix.SECCOMP_RET_ALLOW
		deny               = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	)
	archs := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: arch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: archs[runtime.GOARCH], SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: number, Size: 4},
	}
	for _, n := range append(systemCalls, extraSystemCalls...) {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: n, SkipTrue: 1}, bpf.RetConstant{Val: allow})
	}
	program = append(program,
		// clone3 hides its flags behind a pointer: as if the kernel did not have it.
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE3, SkipTrue: 1}, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		// A socket of any family but AF_VSOCK.
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 4},
		bpf.LoadAbsolute{Off: arg0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_VSOCK, SkipTrue: 1},
		bpf.RetConstant{Val: deny},
		bpf.RetConstant{Val: allow},
		// Threads, but no namespaces.
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE, SkipTrue: 3},
		bpf.LoadAbsolute{Off: arg0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: namespaces, SkipTrue: 1},
		bpf.RetConstant{Val: allow},
		bpf.RetConstant{Val: deny},
	)
	return lab.FilterCalls(program)
}

// confined starts an agent under everything that its pod has.
func confined(t *testing.T, h *lab.Host, caps uint64, args ...string) *process {
	t.Helper()
	p := prepare(t, h, append(args, "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")...)
	p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("%s=%d", confine, caps))
	p.launch(nil)
	t.Cleanup(p.kill)
	return p
}

// status returns a field of /proc/PID/status.
func (p *process) status(field string) string {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	p.t.Fatalf("no %s in /proc/PID/status", field)
	return ""
}

// With what the DaemonSet gives, and nothing else, the agent does everything it
// does: broadcasts, deletions, endpoints, and an end within a second.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	sw := l.Switch()
	n, peer := l.Host("node"), l.Host("peer")
	n.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
	peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "10.0.0.3/24")
	n.Touch("10.0.0.3")
	n.IP("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
	p := confined(t, n, daemonSet, "--interval=1s", "--vip=10.0.0.3")
	p.ready()
	for field, want := range map[string]string{
		"CapEff": fmt.Sprintf("%016x", daemonSet), "CapPrm": fmt.Sprintf("%016x", daemonSet), "CapBnd": fmt.Sprintf("%016x", daemonSet),
		"CapAmb": fmt.Sprintf("%016x", 0), "NoNewPrivs": "1", "Seccomp": "2",
	} {
		if got := p.status(field); got != want {
			t.Errorf("%s is %s, want %s", field, got, want)
		}
	}
	n.Touch("10.0.0.2")
	eventually(t, "deletions and broadcasts", func() bool {
		n.Touch("10.0.0.2")
		return p.metric(`renewals_total{device="eth0",method="delete",result="ok"}`) > 0 &&
			p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) > 2
	})
	eventually(t, "the VIP is watched", func() bool { return p.metric(`vip_on_link{vip="10.0.0.3"}`) == 1 })
	if p.metric("broadcast_available") != 1 || p.failures() != 0 {
		t.Errorf("broadcast_available %v, %v scans failed", p.metric("broadcast_available"), p.failures())
	}
	if code, took := p.stop(); code != 0 || took > time.Second {
		t.Errorf("after SIGTERM: exit code %d in %v", code, took)
	}
	if log := p.stderr.String(); strings.Contains(log, "level=WARN") || strings.Contains(log, "not permitted") {
		t.Errorf("the log complains:\n%s", log)
	}
}

// Without CAP_NET_RAW the kernel's unicast has to do, which is said once, and
// shown; without CAP_NET_ADMIN the agent refuses, in one line that names it,
// unless it is only to observe.
func TestLessThanLeastPrivilege(t *testing.T) {
	t.Parallel()
	t.Run("without CAP_NET_RAW", func(t *testing.T) {
		n := node(t)
		p := confined(t, n, 1<<unix.CAP_NET_ADMIN, "--interval=1s")
		p.ready()
		eventually(t, "renewals by the kernel", func() bool {
			n.Touch("10.0.0.2")
			renewed := 0.0
			for _, method := range []string{"stale", "probe"} {
				renewed += p.metric(fmt.Sprintf(`renewals_total{device="eth0",method=%q,result="ok"}`, method))
			}
			return renewed > 0 && p.metric("broadcast_available") == 0
		})
		if code, _ := p.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if n := strings.Count(p.stderr.String(), "CAP_NET_RAW is missing"); n != 1 {
			t.Errorf("said %d times that CAP_NET_RAW is missing:\n%s", n, p.stderr.String())
		}
	})
	for _, tt := range []struct {
		name string
		caps uint64
	}{{"without CAP_NET_ADMIN", 1 << unix.CAP_NET_RAW}, {"without any", 0}} {
		t.Run(tt.name, func(t *testing.T) {
			p := confined(t, node(t), tt.caps)
			if code := p.wait(); code != 1 || strings.Count(p.stderr.String(), "\n") != 1 || !strings.Contains(p.stderr.String(), "CAP_NET_ADMIN") {
				t.Errorf("exit code %d, want 1 and one line that names CAP_NET_ADMIN: %q", code, p.stderr.String())
			}
		})
	}
	t.Run("observing without any", func(t *testing.T) {
		n := node(t)
		n.IP("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
		p := confined(t, n, 0, "--act=never", "--interval=1s")
		p.ready()
		if code, body := p.get("http://127.0.0.1:10330/metrics"); code != http.StatusOK || !strings.Contains(body, `arp_cache_cleaner_entries{device="eth0",family="ipv4",state="stale"} 1`) {
			t.Errorf("metrics: %d\n%s", code, body)
		}
		if code, took := p.stop(); code != 0 || took > time.Second {
			t.Errorf("exit code %d in %v: %s", code, took, p.stderr.String())
		}
		if !strings.Contains(n.IP("neigh"), "10.0.0.50") {
			t.Error("the entry is gone")
		}
		if !strings.Contains(p.stderr.String(), `level=WARN msg="observing only, nothing is renewed" act=never machine=`) {
			t.Errorf("the log does not say so:\n%s", p.stderr.String())
		}
	})
}
