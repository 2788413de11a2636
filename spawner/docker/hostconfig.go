package docker

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/go-units"

	"carrel/hub"
)

// port is where a server listens in its container.
const port = 8888

// The caps where a profile names none.
const (
	defaultCPUs   = 1.0
	defaultMemory = 1 << 30
	defaultShm    = 64 << 20
	defaultTmp    = 256 << 20
	defaultPIDs   = 256
	defaultFiles  = 4096
	maxFiles      = 20000
	tmpInodes     = 65536
)

// wants is what [walls] turns into a container: the spec, and what the driver prepared for it.
type wants struct {
	spec       hub.Spec
	image      imageFacts
	labels     map[string]string
	network    string     // name
	address    netip.Addr // on it
	resolver   string     // what name lookups are sent to, Docker's own resolver's too
	resolvConf string     // host-only file
	home       mount.Mount
	seccomp    string // profile, as JSON
	control    string // host-only directory of a slot's control socket; "" for a server that is nobody's slot
}

// walls makes the whole of a container's configuration. It is pure, and the only place where walls
// are made: each field below stops something, and TestWalls says what.
func walls(w wants) (*container.Config, *container.HostConfig, *network.NetworkingConfig) {
	s := w.spec
	cfg := &container.Config{
		Image:       w.image.id,
		User:        strconv.Itoa(s.UID) + ":" + strconv.Itoa(s.GID),
		Env:         w.environment(),
		Cmd:         command(w),
		Labels:      w.labels,
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
		Hostname:    "carrel",
	}
	if len(s.Command) > 0 {
		cfg.Entrypoint = strslice.StrSlice{}
	}
	cpus := s.Limits.CPUs
	if !(cpus > 0) { // NaN is not, either; Docker takes 0 for "all there are"
		cpus = defaultCPUs
	}
	memory := orElse(s.Limits.Memory, defaultMemory)
	pids := orElse(s.Limits.PIDs, defaultPIDs)
	files := min(orElse(s.Limits.Files, defaultFiles), maxFiles)
	initProcess := !w.image.kernel || len(s.Command) > 0 // our image's own command begins with tini
	host := &container.HostConfig{
		NetworkMode:    container.NetworkMode(w.network),
		DNS:            resolvers(w),
		CapDrop:        strslice.StrSlice{"ALL"},
		SecurityOpt:    []string{"no-new-privileges", "seccomp=" + w.seccomp},
		ReadonlyRootfs: true,
		Tmpfs:          tmpfs(w),
		Mounts:         mounts(w),
		ShmSize:        orElse(s.Limits.Shm, defaultShm),
		IpcMode:        container.IPCModePrivate,
		CgroupnsMode:   container.CgroupnsModePrivate,
		OomScoreAdj:    500,
		Init:           &initProcess,
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		LogConfig:      container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m", "max-file": "2"}},
		Resources: container.Resources{
			Memory:     memory,
			MemorySwap: memory,
			NanoCPUs:   int64(cpus * 1e9),
			PidsLimit:  &pids,
			Ulimits: []*units.Ulimit{
				{Name: "nofile", Soft: files, Hard: files},
				{Name: "core", Soft: 0, Hard: 0},
			},
		},
	}
	if !w.address.IsValid() {
		return cfg, host, nil
	}
	ends := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
		w.network: {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: w.address.String()}},
	}}
	return cfg, host, ends
}

// resolvers are none where there is no network.
func resolvers(w wants) []string {
	if w.resolver == "" {
		return nil
	}
	return []string{w.resolver}
}

func orElse(v, otherwise int64) int64 {
	if v > 0 {
		return v
	}
	return otherwise
}

// tmpfs is every place outside the home where a server may write: /tmp, /run, and the volumes that
// the image declares, which Docker would else make on disk and without a cap. Programs may be run
// from /tmp only, where compilers and R's packages put theirs.
func tmpfs(w wants) map[string]string {
	size := orElse(w.spec.Limits.Tmp, defaultTmp)
	opts := fmt.Sprintf("rw,nosuid,nodev,size=%d,nr_inodes=%d,uid=%d,gid=%d,mode=", size, tmpInodes, w.spec.UID, w.spec.GID)
	t := map[string]string{"/tmp": opts + "1777,exec", "/run": opts + "0755"}
	if w.spec.Home != "" && w.home.Target == "" {
		t[w.spec.Home] = homeTmpfs(w.spec)
	}
	for _, v := range w.image.volumes {
		v = path.Clean(v)
		mounted := slices.ContainsFunc(mounts(w), func(m mount.Mount) bool { return path.Clean(m.Target) == v })
		if _, have := t[v]; !have && !mounted {
			t[v] = opts + "0755"
		}
	}
	return t
}

// homeTmpfs is a home in memory, with caps on bytes and files of its own.
func homeTmpfs(s hub.Spec) string {
	size := orElse(s.Limits.Disk, defaultTmp)
	inodes := orElse(s.Limits.Inodes, max(size/bytesPerInode, 1024))
	return fmt.Sprintf("rw,nosuid,nodev,size=%d,nr_inodes=%d,uid=%d,gid=%d,mode=0755,exec", size, inodes, s.UID, s.GID)
}

// mounts are the home, the operator's paths and the resolver's file; nothing else of the host.
func mounts(w wants) []mount.Mount {
	var ms []mount.Mount
	if w.resolvConf != "" {
		ms = append(ms, readOnly(w.resolvConf, "/etc/resolv.conf"))
	}
	if w.control != "" {
		ms = append(ms, readOnly(w.control, guestControl))
	}
	if w.home.Target != "" {
		ms = append(ms, w.home)
	}
	for _, m := range w.spec.Mounts {
		ms = append(ms, mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: !m.Writable, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}})
	}
	return ms
}

func readOnly(source, target string) mount.Mount {
	return mount.Mount{Type: mount.TypeBind, Source: source, Target: target, ReadOnly: true, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}}
}

// spareKernelMemory is from how many bytes of a server's memory on a slot has a kernel wait too, which
// takes some 60 MiB.
const spareKernelMemory = 512 << 20

// guestControl is where a slot finds the control socket; its package carrel_slot knows.
const guestControl = "/run/carrel"

// environment is the container's own: a slot's is that of nobody, and the rest comes with the claim.
func (w wants) environment() []string {
	if w.control != "" {
		env := []string{"HOME=" + homeOf(w.spec)}
		if orElse(w.spec.Limits.Memory, defaultMemory) >= spareKernelMemory {
			env = append(env, "CARREL_SPARE_KERNEL=1")
		}
		return env
	}
	env := environment(w)
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

func homeOf(s hub.Spec) string {
	if s.Home == "" {
		return "/tmp"
	}
	return s.Home
}

// environment is the profile's, then ours, which it can't override. The token is here and never in
// the command line, which every process on the host can read.
func environment(w wants) map[string]string {
	s := w.spec
	env := maps.Clone(s.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, map[string]string{
		"HOME": homeOf(s), "CARREL_TOKEN": s.Token.Reveal(), "CARREL_BASE_URL": s.BasePath, "CARREL_PORT": strconv.Itoa(port),
		"CARREL_DEFAULT_URL": s.DefaultURL, "CARREL_HUB_URL": s.HubURL, "CARREL_ORIGIN": s.Origin, "CARREL_SAFE_START": "0",
		"JUPYTERHUB_USER": s.Key.User.String(), "JUPYTERHUB_SERVICE_PREFIX": s.BasePath,
	})
	if s.SafeStart {
		env["CARREL_SAFE_START"] = "1"
	}
	if !w.image.kernel {
		env["JUPYTER_TOKEN"] = s.Token.Reveal()
		if s.SafeStart {
			env["JUPYTER_NO_CONFIG"], env["PYTHONNOUSERSITE"] = "1", "1"
		}
	}
	return env
}

// command is the profile's; else the image's own for Carrel's kernel image, and for any other that
// serves Jupyter (docker-stacks' shape) the server with our arguments.
func command(w wants) strslice.StrSlice {
	switch {
	case len(w.spec.Command) > 0:
		return w.spec.Command
	case w.control != "":
		return strslice.StrSlice{"carrel-slot"}
	case w.image.kernel:
		return nil
	}
	args := strslice.StrSlice{
		"jupyter", "lab", "--ServerApp.ip=0.0.0.0", "--ServerApp.port=" + strconv.Itoa(port), "--ServerApp.port_retries=0",
		"--ServerApp.open_browser=False", "--ServerApp.allow_remote_access=True", "--ServerApp.trust_xheaders=True",
		"--ServerApp.base_url=" + w.spec.BasePath, "--ServerApp.default_url=" + w.spec.DefaultURL,
		"--LabApp.extension_manager=readonly", "--LabApp.news_url=None",
	}
	if w.spec.Home != "" {
		args = append(args, "--ServerApp.root_dir="+w.spec.Home) // whatever the image's working directory is
	}
	return args
}
