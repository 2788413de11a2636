package docker

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/go-units"

	"carrel/hub"
)

func testJob(id string) hub.RunJob {
	return hub.RunJob{
		ID: hub.RunID(strings.Repeat(id, 26)), Image: "tag", CPUs: 0.5, Began: func() {},
		RunSpec: hub.RunSpec{Code: []byte("sesame"), Argv: []string{"sesame"}, Stdin: []byte("sesame"), Limits: hub.RunLimits{
			CPU: 1500 * time.Millisecond, Wall: 3 * time.Second, Memory: 100 << 20, Processes: 8, FileSize: 1 << 20, Disk: 4 << 20, Output: 1 << 10, OpenFiles: 64, Stack: 1 << 20,
		}},
	}
}

// TestRunWalls holds every field of a run's container against what it stops, as TestWalls does for a server's.
func TestRunWalls(t *testing.T) {
	job := testJob("a")
	cfg, host := runWalls(job, imageFacts{id: "sha256:abc", kernel: true, volumes: []string{"/var/cache/thing", "/tmp/"}}, map[string]string{labelRun: "x"}, `{"p":1}`)
	uid := runUID(job.ID)
	if uid < 20000 || uid >= 60000 {
		t.Errorf("it runs as %d", uid)
	}
	own := func(size, inodes, exec string) string {
		return "rw,nosuid,nodev," + exec + ",size=" + size + ",nr_inodes=" + inodes + ",uid=" + strconv.Itoa(uid) + ",gid=" + strconv.Itoa(uid) + ",mode=0700"
	}
	const shut = "rw,nosuid,nodev,noexec,size=4096,nr_inodes=4,mode=0555"
	pids, yes := int64(8+holderPIDs), true
	table := map[string]held{
		"Config.Image":        {"sha256:abc", "a tag that moves"},
		"Config.User":         {"65534:65534", "the program from killing or posing as what holds its container"},
		"Config.Hostname":     {"carrel", "the container's id from being told"},
		"Config.Cmd":          {strslice.StrSlice{"sleep", "63"}, "a container that no hub is there to end from staying"},
		"Config.Entrypoint":   {strslice.StrSlice{}, "an image's own"},
		"Config.Labels":       {map[string]string{labelRun: "x"}, "labels without a MAC"},
		"Config.Healthcheck":  {&container.HealthConfig{Test: []string{"NONE"}}, "an image's own probe"},
		"Config.Env":          {runEnvironment(), "anything of the hub's or of a person's from being told"},
		"Config.WorkingDir":   {"/", "(what sleeps has nothing to do in the program's place)"},
		"Host.NetworkMode":    {container.NetworkMode("none"), "every network"},
		"Host.CapDrop":        {strslice.StrSlice{"ALL"}, "raw sockets, chown, setuid, mknod and the rest"},
		"Host.SecurityOpt":    {[]string{"no-new-privileges", `seccomp={"p":1}`}, "setuid programs, and calls that no program needs"},
		"Host.ReadonlyRootfs": {true, "a disk without a cap"},
		"Host.IpcMode":        {container.IPCModePrivate, "others' shared memory"},
		"Host.CgroupnsMode":   {container.CgroupnsModePrivate, "the host's control groups from being seen"},
		"Host.OomScoreAdj":    {1000, "anything else being killed before it when the machine's memory is out"},
		"Host.Init":           {&yes, "processes that ended filling the cap on processes"},
		"Host.RestartPolicy":  {container.RestartPolicy{Name: container.RestartPolicyDisabled}, "a run that comes back"},
		"Host.ShmSize":        {int64(4 << 20), "filling /dev/shm"},
		"Host.LogConfig":      {container.LogConfig{Type: "none"}, "filling the disk by printing"},
		"Host.Tmpfs": {map[string]string{
			"/tmp": own("4194304", "1024", "exec"), "/dev/shm": own("4194304", "256", "noexec"), "/run": shut, "/var/cache/thing": shut,
		}, "more files or bytes than were given, and a second place for them"},
		"Host.Resources.Memory":     {int64(100 << 20), "memory bombs"},
		"Host.Resources.MemorySwap": {int64(100 << 20), "the same by swapping"},
		"Host.Resources.NanoCPUs":   {int64(5e8), "taking others' share"},
		"Host.Resources.PidsLimit":  {&pids, "fork bombs"},
		"Host.Resources.Ulimits": {[]*units.Ulimit{
			{Name: "nofile", Soft: 64, Hard: 64}, {Name: "core"}, {Name: "cpu", Soft: 5, Hard: 6}, {Name: "fsize", Soft: 1 << 20, Hard: 1 << 20}, {Name: "stack", Soft: 1 << 20, Hard: 1 << 20},
			{Name: "msgqueue"}, {Name: "memlock", Soft: 64 << 10, Hard: 64 << 10},
		}, "what one process may use up"},
	}
	hold(t, table, map[string]any{"Config": *cfg, "Host": *host})
	if x := runExec(job, "a", "b c"); x.User != strconv.Itoa(uid)+":"+strconv.Itoa(uid) || x.Privileged || !slices.Equal(x.Cmd, []string{"a", "b c"}) {
		t.Errorf("the program is begun by %+v", x)
	}
}

// A run is no server, another's run none of ours, and a label alone nothing.
func TestRunsAreNoServers(t *testing.T) {
	d, other := offline(t, "main"), offline(t, "other")
	id := hub.RunID(strings.Repeat("a", 26))
	labels, name := d.runLabels(id), "/"+d.runName(id)
	if got, own := d.runOf(name, labels); !own || got != id {
		t.Errorf("our own is %q, %v", got, own)
	}
	if _, server := d.read(name, labels); server {
		t.Error("it passes for a server")
	}
	if d.isSlot(labels) {
		t.Error("it passes for a slot")
	}
	if _, own := other.runOf(name, labels); own {
		t.Error("it passes for another deployment's")
	}
	if _, own := d.runOf("/"+d.runName(hub.RunID(strings.Repeat("b", 26))), labels); own {
		t.Error("its labels pass for those of another run")
	}
	for k := range labels {
		forged := map[string]string{}
		for l, v := range labels {
			if l != k {
				forged[l] = v
			}
		}
		if k != labelDeployment { // which is asked of Docker
			if _, own := d.runOf(name, forged); own {
				t.Errorf("it counts without %s", k)
			}
		}
	}
	key := key(t, "alice", "")
	server := d.labels(d.containerName(key, 1), hub.Spec{Key: key, Generation: 1}, "", "")
	server[labelRun] = string(id)
	if _, own := d.runOf(d.containerName(key, 1), server); own {
		t.Error("a server passes for a run")
	}
}
