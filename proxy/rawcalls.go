package proxy

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls of a loop never wait, and so Go's scheduler need not be told of them, as it is of others: that
// would cost a message as much again as all else that Go does for it.

// receive reads what there is.
func receive(fd int, p []byte) (n int, err error) {
	return called(unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)) //nolint:gosec // G103: as package unix does it
}

// send writes as much as there is room for.
func send(fd int, p []byte) (n int, err error) {
	return called(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)) //nolint:gosec // G103: likewise
}

// epollNow tells what has come.
func epollNow(epoll int, events []unix.EpollEvent) (n int, err error) {
	return called(unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)) //nolint:gosec // G103: likewise
}

func called(n, _ uintptr, e unix.Errno) (int, error) {
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
