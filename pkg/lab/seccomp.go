package lab

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// FilterCalls has a program decide about the system calls of this thread, and of
// what it starts (seccomp). The program begins with the number of the call in the
// accumulator, and reads struct seccomp_data. It is for Do, whose thread is thrown
// away, and the filter with it.
func FilterCalls(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(append([]bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}, program...))
	if err != nil {
		return fmt.Errorf("assembling the filter of system calls: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := errors.Join(
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
		unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0),
	); err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	return nil
}

// WithoutNetlink makes a netlink protocol (NETLINK_*) one that the kernel does not
// have, for this thread and what it starts.
func WithoutNetlink(protocol uint32) error {
	const arg0, arg2 = 16, 32 // of struct seccomp_data, the lower halves
	return FilterCalls([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 5},
		bpf.LoadAbsolute{Off: arg0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_NETLINK, SkipTrue: 3},
		bpf.LoadAbsolute{Off: arg2, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocol, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
}
