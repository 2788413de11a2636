package docker

import (
	"encoding/json"
	"slices"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"carrel/hub"
)

// refused are calls that the module's profile lets through, or lets through with a capability, and
// that no notebook needs: each has been a way into the kernel.
var refused = []string{
	"add_key", "bpf", "io_uring_enter", "io_uring_register", "io_uring_setup", "keyctl", "kexec_file_load", "kexec_load",
	"mount", "mount_setattr", "move_mount", "fsmount", "fsopen", "fsconfig", "fspick", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root",
	"process_vm_readv", "process_vm_writev", "ptrace", "request_key", "setns", "umount", "umount2", "unshare", "userfaultfd", "vmsplice",
}

// sockets are the families and protocols that a notebook may open. AF_ALG, AF_VSOCK, AF_PACKET, the
// netlink families of firewalls and devices, and the long tail of transports that the kernel would
// load a module for are not among them.
var sockets = []struct {
	family    uint64
	protocols []uint64 // none: all
}{
	{unix.AF_UNIX, nil},
	{unix.AF_INET, []uint64{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP}},
	{unix.AF_INET6, []uint64{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMPV6}},
	{unix.AF_NETLINK, []uint64{unix.NETLINK_ROUTE}}, // which lists the interfaces
}

// seccompProfile is moby's, tightened: native system calls only (no 32-bit or x32 ones), without
// those refused, and with few kinds of sockets.
var seccompProfile = sync.OnceValues(func() (string, error) {
	p := seccomp.DefaultProfile()
	for i := range p.ArchMap {
		p.ArchMap[i].SubArches = nil
	}
	var kept []*seccomp.Syscall
	for _, s := range p.Syscalls {
		c := *s
		c.Names = slices.DeleteFunc(slices.Clone(s.Names), func(n string) bool { return n == "socket" || slices.Contains(refused, n) })
		if len(c.Names) > 0 && c.Action == specs.ActAllow || c.Action != specs.ActAllow {
			kept = append(kept, &c)
		}
	}
	allow := func(args ...specs.LinuxSeccompArg) {
		kept = append(kept, &seccomp.Syscall{LinuxSyscall: specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow, Args: args}})
	}
	for _, s := range sockets {
		family := specs.LinuxSeccompArg{Index: 0, Value: s.family, Op: specs.OpEqualTo}
		if s.protocols == nil {
			allow(family)
		}
		for _, p := range s.protocols {
			allow(family, specs.LinuxSeccompArg{Index: 2, Value: p, Op: specs.OpEqualTo})
		}
	}
	p.Syscalls = kept
	b, err := json.Marshal(p)
	if err != nil {
		return "", hub.Wrap(hub.Internal, "encode seccomp profile", err)
	}
	return string(b), nil
})
