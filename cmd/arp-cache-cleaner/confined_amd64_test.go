package main

import "golang.org/x/sys/unix"

// extraSystemCalls exist on this architecture only.
var extraSystemCalls = []uint32{unix.SYS_ARCH_PRCTL, unix.SYS_POLL, unix.SYS_READLINK, unix.SYS_OPEN, unix.SYS_STAT, unix.SYS_EPOLL_WAIT}
