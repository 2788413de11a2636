package docker

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/go-units"
	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"carrel/hub"
)

// offline is a driver that no daemon stands behind.
func offline(t *testing.T, deployment string) *Driver {
	t.Helper()
	keys, err := hub.NewKeyring(deployment, []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Host: "unix:///nonexistent/docker.sock", Deployment: deployment, Keyring: keys, StateDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func key(t *testing.T, user, server string) hub.ServerKey {
	t.Helper()
	k, err := hub.ParseServerKey(user, server)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// wanted is a start with every limit set and an image with a volume.
func wanted(t *testing.T) wants {
	t.Helper()
	return wants{
		spec: hub.Spec{
			Key: key(t, "alice", ""), Generation: 3, UserID: "ualice", Profile: "small", Image: "tag",
			Limits: hub.Limits{CPUs: 0.5, Memory: 300 << 20, Shm: 32 << 20, Tmp: 16 << 20, PIDs: 99, Files: 777},
			UID:    1000, GID: 100, Home: "/home/jovyan", BasePath: "/user/alice/", Token: hub.NewSecret("sesame"), DefaultURL: "/lab",
			Env: map[string]string{"LANG": "C.UTF-8"}, Mounts: []hub.Mount{{Source: "/srv/data", Target: "/data"}},
		},
		image:  imageFacts{id: "sha256:abc", kernel: true, volumes: []string{"/var/cache/thing"}},
		labels: map[string]string{labelUser: "alice"}, network: "net", address: netip.MustParseAddr("10.201.0.5"), resolver: "127.0.0.1",
		resolvConf: "/state/resolv-none.conf", home: mount.Mount{Type: mount.TypeBind, Source: "/state/mnt/ualice", Target: "/home/jovyan"}, seccomp: `{"p":1}`,
	}
}

// TestWalls holds every field that walls sets against what it stops. A field that is not in the
// table must be left at its zero value: whatever is added has to say here what for.
func TestWalls(t *testing.T) {
	cfg, host, ends := walls(wanted(t))
	tmp := "rw,nosuid,nodev,size=16777216,nr_inodes=65536,uid=1000,gid=100,mode="
	private := &mount.BindOptions{Propagation: mount.PropagationRPrivate}
	pids, no := int64(99), false
	table := map[string]held{
		"Config.Image":              {"sha256:abc", "a tag that moves between the look at it and the start"},
		"Config.User":               {"1000:100", "root, whatever the image says"},
		"Config.Hostname":           {"carrel", "the container's id, which means something on the host, from being told"},
		"Config.Cmd":                {strslice.StrSlice(nil), "(our image's own command is used)"},
		"Config.Labels":             {map[string]string{labelUser: "alice"}, "labels without a MAC"},
		"Config.Healthcheck":        {&container.HealthConfig{Test: []string{"NONE"}}, "an image's own probe, run for ever"},
		"Host.NetworkMode":          {container.NetworkMode("net"), "the default bridge, where containers reach one another and the host"},
		"Host.DNS":                  {[]string{"127.0.0.1"}, "Docker's resolver asking the host's, around the filter"},
		"Host.CapDrop":              {strslice.StrSlice{"ALL"}, "raw sockets, chown, setuid, mknod and the rest"},
		"Host.SecurityOpt":          {[]string{"no-new-privileges", `seccomp={"p":1}`}, "setuid programs; system calls that no notebook needs (the profile's content, as Docker's host may not have our files)"},
		"Host.ReadonlyRootfs":       {true, "writing the image's layer: a disk without a cap"},
		"Host.IpcMode":              {container.IPCModePrivate, "others' shared memory"},
		"Host.CgroupnsMode":         {container.CgroupnsModePrivate, "the host's tree of control groups from being seen"},
		"Host.OomScoreAdj":          {500, "the kernel choosing the hub when memory is out"},
		"Host.Init":                 {&no, "(ours has tini)"},
		"Host.RestartPolicy":        {container.RestartPolicy{Name: container.RestartPolicyDisabled}, "a server that nobody wants any more coming back"},
		"Host.ShmSize":              {int64(32 << 20), "filling /dev/shm"},
		"Host.LogConfig":            {container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m", "max-file": "2"}}, "filling the disk by printing"},
		"Host.Tmpfs":                {map[string]string{"/tmp": tmp + "1777,exec", "/run": tmp + "0755", "/var/cache/thing": tmp + "0755"}, "an image's volume being a disk without a cap; filling /tmp by bytes or by files"},
		"Host.Resources.Memory":     {int64(300 << 20), "memory bombs"},
		"Host.Resources.MemorySwap": {int64(300 << 20), "the same by swapping, which would slow everybody down"},
		"Host.Resources.NanoCPUs":   {int64(5e8), "taking the neighbours' share"},
		"Host.Resources.PidsLimit":  {&pids, "fork bombs"},
		"Host.Resources.Ulimits":    {[]*units.Ulimit{{Name: "nofile", Soft: 777, Hard: 777}, {Name: "core"}}, "using up the kernel's files; memory of a crash on the disk"},
		"Ends.EndpointsConfig":      {map[string]*network.EndpointSettings{"net": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: "10.201.0.5"}}}, "an address that rests being given out by Docker"},
		"Config.Env":                {[]string{"CARREL_BASE_URL=/user/alice/", "CARREL_DEFAULT_URL=/lab", "CARREL_HUB_URL=", "CARREL_ORIGIN=", "CARREL_PORT=8888", "CARREL_SAFE_START=0", "CARREL_TOKEN=sesame", "HOME=/home/jovyan", "JUPYTERHUB_SERVICE_PREFIX=/user/alice/", "JUPYTERHUB_USER=alice", "LANG=C.UTF-8"}, "anything of the hub's own environment from being told"},
		"Host.Mounts": {[]mount.Mount{
			{Type: mount.TypeBind, Source: "/state/resolv-none.conf", Target: "/etc/resolv.conf", ReadOnly: true, BindOptions: private},
			{Type: mount.TypeBind, Source: "/state/mnt/ualice", Target: "/home/jovyan"},
			{Type: mount.TypeBind, Source: "/srv/data", Target: "/data", ReadOnly: true, BindOptions: private},
		}, "binds of anything but the home, the operator's paths (read-only unless said) and the resolver's file"},
	}
	hold(t, table, map[string]any{"Config": *cfg, "Host": *host, "Ends": *ends})
}

// held is what a field has to be, and what that stops.
type held struct {
	want  any
	stops string
}

// hold checks every field of the parts against a table: one that is not listed has to be zero.
func hold(t *testing.T, table map[string]held, parts map[string]any) {
	t.Helper()
	seen := map[string]bool{}
	for name, part := range parts {
		fields(name, reflect.ValueOf(part), func(field string, value reflect.Value) {
			row, listed := table[field]
			seen[field] = true
			switch {
			case !listed && !value.IsZero():
				t.Errorf("%s is %#v, and nobody says what it stops", field, value.Interface())
			case listed && !reflect.DeepEqual(value.Interface(), row.want):
				t.Errorf("%s is %#v, want %#v: it stops %s", field, value.Interface(), row.want, row.stops)
			}
		})
	}
	for field := range table {
		if !seen[field] {
			t.Errorf("there is no field %s", field)
		}
	}
}

// fields visits the fields of a struct; Resources is embedded.
func fields(name string, v reflect.Value, visit func(string, reflect.Value)) {
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.Name == "Resources" {
			fields(name+".Resources", v.Field(i), visit)
		} else {
			visit(name+"."+f.Name, v.Field(i))
		}
	}
}

// TestDefaults: a limit that nobody set is no missing limit. Docker takes zero for "none".
func TestDefaults(t *testing.T) {
	for _, cpus := range []float64{0, -1, math.NaN()} {
		w := wanted(t)
		w.spec.Limits = hub.Limits{CPUs: cpus, Memory: -1, PIDs: -1, Files: 1 << 40}
		_, host, _ := walls(w)
		for what, is := range map[string][2]int64{
			"CPUs": {host.NanoCPUs, 1e9}, "memory": {host.Memory, 1 << 30}, "swap": {host.MemorySwap, 1 << 30}, "shm": {host.ShmSize, 64 << 20},
			"processes": {*host.PidsLimit, 256}, "files": {host.Ulimits[0].Hard, 20000},
		} {
			if is[0] != is[1] {
				t.Errorf("with %v CPUs, %s: %d, want %d", cpus, what, is[0], is[1])
			}
		}
		if !strings.Contains(host.Tmpfs["/tmp"], "size=268435456,") {
			t.Errorf("/tmp: %s", host.Tmpfs["/tmp"])
		}
		t.Attr("seen-28", fmt.Sprintf("%v CPUs, -1 of the rest: the defaults", cpus))
	}
}

func TestVolumesAreShadowed(t *testing.T) {
	for _, c := range []struct {
		name    string
		volumes []string
		home    string
		want    []string
	}{
		{"none", nil, "/home/jovyan", []string{"/run", "/tmp"}},
		{"plain", []string{"/a", "/b/c"}, "/home/jovyan", []string{"/a", "/b/c", "/run", "/tmp"}},
		{"the home is no tmpfs", []string{"/home/jovyan/"}, "/home/jovyan", []string{"/run", "/tmp"}},
		{"/tmp stays ours", []string{"/tmp", "/run/"}, "/home/jovyan", []string{"/run", "/tmp"}},
		{"an operator's path goes before", []string{"/data/."}, "/home/jovyan", []string{"/run", "/tmp"}},
		{"written oddly", []string{"/x/../y//z/"}, "/home/jovyan", []string{"/run", "/tmp", "/y/z"}},
		{"the resolver's file stays ours", []string{"/etc/resolv.conf"}, "/home/jovyan", []string{"/run", "/tmp"}},
		{"no home", nil, "", []string{"/run", "/tmp"}},
	} {
		w := wanted(t)
		w.image.volumes, w.spec.Home = c.volumes, c.home
		_, host, _ := walls(w)
		var got []string
		for p, opts := range host.Tmpfs {
			got = append(got, p)
			if !strings.HasPrefix(opts, "rw,nosuid,nodev,size=") || !strings.Contains(opts, "nr_inodes=") {
				t.Errorf("%s: %s is mounted with %s", c.name, p, opts)
			}
			if (p == "/tmp") != strings.HasSuffix(opts, "mode=1777,exec") {
				t.Errorf("%s: %s is mounted with %s", c.name, p, opts)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	w := wanted(t)
	w.home = mount.Mount{} // the profile has a home, and no place for it on the disk
	if _, host, _ := walls(w); host.Tmpfs["/home/jovyan"] == "" {
		t.Error("a home without an image is not in memory")
	}
}

// TestEnvironment: a profile can't take our variables' place, and the token is nowhere else.
func TestEnvironment(t *testing.T) {
	for _, kernel := range []bool{true, false} {
		for _, command := range [][]string{nil, {"sleep", "1"}} {
			w := wanted(t)
			w.image.kernel, w.spec.Command, w.spec.SafeStart = kernel, command, true
			w.spec.Env = map[string]string{"CARREL_TOKEN": "mine", "CARREL_PORT": "1", "HOME": "/root", "JUPYTERHUB_USER": "bob", "CARREL_SAFE_START": "0", "A": "1"}
			cfg, host, _ := walls(w)
			env := map[string]string{}
			for _, line := range cfg.Env {
				k, v, _ := strings.Cut(line, "=")
				if _, twice := env[k]; twice {
					t.Errorf("%s is there twice", k)
				}
				env[k] = v
			}
			for k, v := range map[string]string{"CARREL_TOKEN": "sesame", "CARREL_PORT": "8888", "HOME": "/home/jovyan", "JUPYTERHUB_USER": "alice", "CARREL_SAFE_START": "1", "A": "1"} {
				if env[k] != v {
					t.Errorf("%s is %q, want %q", k, env[k], v)
				}
			}
			if (env["JUPYTER_TOKEN"] == "sesame") == kernel || (env["JUPYTER_NO_CONFIG"] == "1") == kernel {
				t.Errorf("with our image %v: %v", kernel, cfg.Env)
			}
			cfg.Env = nil
			for what, part := range map[string]any{"configuration": cfg, "host's configuration": host} {
				if raw, err := json.Marshal(part); err != nil || strings.Contains(string(raw), "sesame") {
					t.Errorf("the token is in the %s: %s, %v", what, raw, err)
				}
			}
			if *host.Init != (!kernel || command != nil) {
				t.Errorf("with our image %v and command %v, init is %v", kernel, command, *host.Init)
			}
			if (cfg.Entrypoint != nil) != (command != nil) {
				t.Errorf("with command %v, the entry point is %#v", command, cfg.Entrypoint)
			}
		}
	}
	w := wanted(t)
	w.spec.Home = ""
	if cfg, _, _ := walls(w); !slices.Contains(cfg.Env, "HOME=/tmp") {
		t.Errorf("without a home: %v", cfg.Env)
	}
}

func TestOtherImagesServeJupyter(t *testing.T) {
	w := wanted(t)
	w.image.kernel = false
	cfg, _, _ := walls(w)
	for _, arg := range []string{"--ServerApp.base_url=/user/alice/", "--ServerApp.port=8888", "--ServerApp.ip=0.0.0.0", "--ServerApp.default_url=/lab"} {
		if !slices.Contains(cfg.Cmd, arg) {
			t.Errorf("%s is missing: %v", arg, cfg.Cmd)
		}
	}
}

// TestSeccomp reads the profile as the kernel's filter would be made of it.
func TestSeccomp(t *testing.T) {
	text, err := seccompProfile()
	if err != nil {
		t.Fatal(err)
	}
	var p seccomp.Seccomp
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	if p.DefaultAction != specs.ActErrno {
		t.Errorf("what is not listed gets %s", p.DefaultAction)
	}
	for _, a := range p.ArchMap {
		if len(a.SubArches) > 0 {
			t.Errorf("%s lets %v in, where the numbers mean other calls", a.Arch, a.SubArches)
		}
	}
	allowed := map[string][]*seccomp.Syscall{}
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			// Rules for capabilities are not in force: walls drops them all.
			if s.Action == specs.ActAllow && (s.Includes == nil || len(s.Includes.Caps) == 0) {
				allowed[n] = append(allowed[n], s)
			}
		}
	}
	for _, n := range append([]string{
		"acct", "bpf", "chroot", "clock_settime", "delete_module", "fanotify_init", "init_module", "finit_module", "iopl", "ioperm", "kcmp", "lookup_dcookie",
		"open_by_handle_at", "pidfd_getfd", "quotactl", "reboot", "setdomainname", "sethostname", "settimeofday", "swapon", "swapoff", "syslog", "vhangup",
	}, refused...) {
		if allowed[n] != nil {
			t.Errorf("%s is allowed", n)
		}
	}
	for _, n := range []string{"read", "write", "mmap", "execve", "clone", "fork", "futex", "epoll_wait", "socketpair", "bind", "connect", "memfd_create", "rseq", "getrandom"} {
		if allowed[n] == nil {
			t.Errorf("%s is not allowed", n)
		}
	}
	for _, s := range allowed["clone"] {
		if len(s.Args) == 0 {
			t.Error("clone makes name spaces")
		}
	}
	allow := func(family, protocol uint64) bool {
		return slices.ContainsFunc(allowed["socket"], func(s *seccomp.Syscall) bool {
			for _, a := range s.Args {
				if a.Op != specs.OpEqualTo || a.Value != map[uint]uint64{0: family, 2: protocol}[a.Index] {
					return false
				}
			}
			return len(s.Args) > 0
		})
	}
	for _, c := range []struct {
		name             string
		family, protocol uint64
		want             bool
	}{
		{"unix", 1, 0, true}, {"tcp", 2, 0, true}, {"tcp by number", 2, 6, true}, {"udp", 2, 17, true}, {"ping", 2, 1, true}, {"tcp 6", 10, 6, true}, {"ping 6", 10, 58, true},
		{"interfaces", 16, 0, true}, {"sctp", 2, 132, false}, {"dccp", 2, 33, false}, {"l2tp", 2, 115, false}, {"mptcp", 2, 262, false}, {"AF_ALG", 38, 0, false},
		{"AF_VSOCK", 40, 0, false}, {"AF_PACKET", 17, 768, false}, {"netfilter", 16, 12, false}, {"audit", 16, 9, false}, {"bluetooth", 31, 0, false}, {"CAN", 29, 1, false},
	} {
		if got := allow(c.family, c.protocol); got != c.want {
			t.Errorf("socket %s: allowed is %v", c.name, got)
		}
	}
}

func TestCommandLineHoldsNoSecret(t *testing.T) {
	w := wanted(t)
	w.image.kernel = false
	cfg, _, _ := walls(w)
	if strings.Contains(fmt.Sprint(cfg.Cmd, cfg.Entrypoint), "sesame") {
		t.Errorf("every process of the host can read the token: %v", cfg.Cmd)
	}
}
