package docker

import (
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/go-units"

	"carrel/hub"
)

// A run's container is a server's, with narrower walls: no network at all, not even a log, and one place to write,
// in memory. Its first process only sleeps, as a user that the program is not, for as long as the run may take and
// a little longer: so the container outlives the program, which lets its use be measured, and ends by itself when
// no hub is there any more to end it. The program comes in by an exec.

const (
	runPlace   = "/tmp"        // the working directory, and the only place to write
	runProgram = "/tmp/run.py" // the code
	holderUser = 65534         // that the first process is; "nobody" in most images
	// holderPIDs are processes and threads of a run's container that are not the program's: the init, what sleeps,
	// and those of Docker's that bring a command in, before it begins. Then the program has the room of these.
	holderPIDs = 16
	// runOverrun is how long a container sleeps beyond the run's wall time: its program begins a moment later.
	runOverrun = 60 * time.Second
	// runInodes is how many files a run may have at most, and runBytesPerInode from how many bytes on each.
	runInodes        = 65536
	runBytesPerInode = 4096
	runShm           = 16 << 20 // bytes, at most
)

// runUID is the user that a program runs as: apart from people's, the proxy's and most other programs', as the
// kernel counts some of what a user has over all containers.
func runUID(id hub.RunID) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return 20000 + int(h.Sum32()%40000)
}

// runWalls makes the whole of a run's container. It is pure.
func runWalls(job hub.RunJob, img imageFacts, labels map[string]string, seccomp string) (*container.Config, *container.HostConfig) {
	l := job.Limits
	sleeps := int64(math.Ceil((l.Wall + runOverrun).Seconds()))
	cfg, host, _ := walls(wants{
		spec: hub.Spec{
			UID: holderUser, GID: holderUser, Command: []string{"sleep", strconv.FormatInt(sleeps, 10)},
			Limits: hub.Limits{CPUs: job.CPUs, Memory: l.Memory, PIDs: l.Processes + holderPIDs, Files: l.OpenFiles},
		},
		image: img, labels: labels, network: "none", seccomp: seccomp,
	})
	cfg.Env = runEnvironment()
	cfg.WorkingDir = "/"
	host.LogConfig = container.LogConfig{Type: "none"}
	host.OomScoreAdj = 1000
	// A tmpfs of root's, too small for anything, shadows every other place that could be written to.
	uid := runUID(job.ID)
	for place := range host.Tmpfs {
		host.Tmpfs[place] = "rw,nosuid,nodev,noexec,size=4096,nr_inodes=4,mode=0555"
	}
	host.Tmpfs[runPlace] = fmt.Sprintf("rw,nosuid,nodev,exec,size=%d,nr_inodes=%d,uid=%d,gid=%d,mode=0700", l.Disk, min(max(l.Disk/runBytesPerInode, 64), runInodes), uid, uid)
	shm := min(l.Disk, runShm)
	host.ShmSize = shm
	host.Tmpfs["/dev/shm"] = fmt.Sprintf("rw,nosuid,nodev,noexec,size=%d,nr_inodes=256,uid=%d,gid=%d,mode=0700", shm, uid, uid)
	cpu := int64(math.Ceil(l.CPU.Seconds()))
	host.Ulimits = append(host.Ulimits,
		// Of each process, for where no hub is there any more: what all use together is measured. The kernel reckons
		// this one by whole ticks, more than is used where others want the processor too.
		&units.Ulimit{Name: "cpu", Soft: 2*cpu + 1, Hard: 2*cpu + 2},
		&units.Ulimit{Name: "fsize", Soft: l.FileSize, Hard: l.FileSize},
		&units.Ulimit{Name: "stack", Soft: l.Stack, Hard: l.Stack},
		&units.Ulimit{Name: "msgqueue", Soft: 0, Hard: 0},
		&units.Ulimit{Name: "memlock", Soft: 64 << 10, Hard: 64 << 10},
	)
	return cfg, host
}

// runEnvironment is all that a program is told, beside what the image says. What it prints comes out at once, or
// what a limit ends would have printed nothing.
func runEnvironment() []string {
	return []string{"HOME=" + runPlace, "TMPDIR=" + runPlace, "USER=run", "LOGNAME=run", "LANG=C.UTF-8", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"}
}

// runExec is the exec of a command as the program's user.
func runExec(job hub.RunJob, command ...string) container.ExecOptions {
	uid := strconv.Itoa(runUID(job.ID))
	return container.ExecOptions{
		User: uid + ":" + uid, Cmd: strslice.StrSlice(command), WorkingDir: runPlace,
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
	}
}
