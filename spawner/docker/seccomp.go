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
	"mount", "mount_setattr", "move_mount", "fsmount", "fsopen", "fsconfig", "fspick", "open_tree", "perf_event_open", "pivot_root",
	"process_vm_readv", "process_vm_writev", "ptrace", "request_key", "setns", "umount", "umount2", "unshare", "userfaultfd", "vmsplice",
}

// families are the socket families that a notebook may open; AF_ALG, AF_VSOCK, AF_PACKET and the
// long tail of protocols are not among them.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// seccompProfile is moby's, tightened: native system calls only (no 32-bit or x32 ones), without
// those refused, and with few socket families.
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
	for _, f := range families {
		kept = append(kept, &seccomp.Syscall{LinuxSyscall: specs.LinuxSyscall{
			Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: f, Op: specs.OpEqualTo}},
		}})
	}
	p.Syscalls = kept
	b, err := json.Marshal(p)
	if err != nil {
		return "", hub.Wrap(hub.Internal, "encode seccomp profile", err)
	}
	return string(b), nil
})
