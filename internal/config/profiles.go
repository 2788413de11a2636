package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"carrel/hub"
)

const (
	maxUID  = 1<<31 - 1
	maxPIDs = 1 << 22  // of the kernel (proc(5), pid_max)
	maxDisk = 16 << 40 // of ext4 with 4 KiB blocks

)

var (
	// imageForm is an image's reference (the grammar of the distribution project), or an image's id.
	imageForm = regexp.MustCompile(`^(([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?/)?` + imagePath + `(/` + imagePath + `)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?|sha256:[0-9a-f]{64})$`)
	envForm   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

const imagePath = `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`

func image(k *checks, field, name string) {
	k.that(name == "" || len(name) <= 255 && imageForm.MatchString(name), field, "this is no name of an image", "write quay.io/jupyter/scipy-notebook:2026-01-05")
}

func (c *Config) validateImages(k *checks) {
	image(k, "image.name", c.Image.Name)
	image(k, "image.base", c.Image.Base)
}

func (c *Config) validateProfiles(k *checks, m Machine) {
	k.that(len(c.Profiles) > 0, "profiles", "there is none", "give one at least, or leave the field out")
	names, chosen := map[string]bool{}, false
	for i, p := range c.Profiles {
		at := fmt.Sprintf("profiles[%d].", i)
		k.that(nameForm.MatchString(p.Name) && len(p.Name) <= maxName, at+"name", "this is no name of a profile", "use at most 32 of a-z, 0-9 and single hyphens")
		k.that(!names[p.Name], at+"name", "two profiles have this name", "give each its own")
		k.that(!p.Default || !chosen, at+"default", "another profile is the default already", "keep one of them")
		names[p.Name], chosen = true, chosen || p.Default
		k.that(p.UID != c.Proxy.UID, at+"uid", "this is the proxy's user id", "use 1000, or change proxy.uid")
		image(k, at+"image", p.Image)
		p.validateLimits(k, at, m)
		p.validateShape(k, at)
		people(k, at+"users", p.Users)
		p.Cull.validate(k, at+"cull.")
		for j, mount := range p.Mounts {
			mount.validate(k, fmt.Sprintf("%smounts[%d]", at, j), c.StateDir, p)
		}
	}
}

func (p Profile) validateLimits(k *checks, at string, m Machine) {
	k.that(p.CPU >= 0.01, at+"cpu", "a server needs some", "give something like 1 or 0.5")
	k.that(m.CPUs == 0 || p.CPU <= float64(m.CPUs), at+"cpu", fmt.Sprintf("this machine has %d only", m.CPUs), "give less")
	k.that(p.Memory >= 64<<20, at+"memory", "a server needs 64MiB at least", "give something like 1GiB")
	k.that(m.Memory == 0 || int64(p.Memory) <= m.Memory, at+"memory", fmt.Sprintf("this machine has %s only", Size(m.Memory>>20<<20)), "give less")
	k.that(p.Disk == 0 || p.Disk >= 16<<20, at+"disk", "a home needs 16MiB at least", "give something like 2GiB")
	k.that(p.Disk <= maxDisk, at+"disk", "a home holds 16TiB at most", "give something like 2GiB")
	k.that(p.Inodes == 0 || p.Inodes >= 64, at+"inodes", "a home needs 64 at least", "leave it out, or give something like 100000")
	k.that(Size(p.Inodes) <= max(p.Disk, 1<<30)>>10, at+"inodes", "this is more than one for each KiB of the home", "leave it out, or give less")
	k.that(p.Shm == 0 || p.Shm >= 1<<20, at+"shm", "1MiB is the least", "give something like 64MiB")
	k.that(p.Tmp == 0 || p.Tmp >= 1<<20, at+"tmp", "1MiB is the least", "give something like 256MiB")
	k.that(p.PIDs == 0 || p.PIDs >= 32, at+"pids", "a server needs 32 at least", "give something like 256")
	k.that(p.PIDs <= maxPIDs, at+"pids", "the kernel knows 4194304 at most", "give something like 256")
	k.that(p.Files == 0 || p.Files >= 256 && p.Files <= 20000, at+"files", "out of range", "give 256 to 20000")
}

func (p Profile) validateShape(k *checks, at string) {
	k.oneOf(p.Network, at+"network", "network", "none", "open")
	k.that(p.Home == "none" || plainPath(p.Home) && p.Home != "/" && !under(p.Home, "/proc", "/sys", "/dev"), at+"home", "this is no path for a home", "use /home/jovyan, or none")
	k.that(p.HomeKind == "" || p.HomeKind == string(hub.HomeTmpfs), at+"home_kind", "there is no such kind of home for a profile", "use tmpfs, or leave it out")
	k.that(p.HomeKind == "" || p.Home != "none", at+"home_kind", "there is no home", "leave this out, or give home a path")
	k.that(p.HomeKind == "" || p.Disk < p.Memory, at+"disk", "a home in memory would take all of it", "give less than memory")
	k.that(hub.LocalPath(p.DefaultURL, "/", "") != "", at+"default_url", "this is no path", "use /lab or /tree")
	k.that(p.UID > 0 && p.UID <= maxUID, at+"uid", "servers do not run as root", "use 1000")
	k.that(p.GID > 0 && p.GID <= maxUID, at+"gid", "servers do not run with root's group", "use 1000")
	p.validateSpares(k, at)
	for name := range p.Env {
		k.that(envForm.MatchString(name), at+"env."+name, "this is no name of a variable", "use letters, digits and _, the first no digit")
	}
}

func (c Cull) validate(k *checks, at string) {
	k.that(c.Pause == 0 || c.Pause >= Duration(10*time.Second), at+"pause_after", "this is too short", "give something like 30m")
	k.that(c.Pause == 0 || c.Idle == 0 || c.Pause < c.Idle, at+"pause_after", "it would be stopped before it is paused", "give less than idle")
	for _, limit := range []struct {
		length Duration
		name   string
	}{{c.Idle, "idle"}, {c.MaxAge, "max_age"}} {
		k.that(limit.length == 0 || limit.length > c.Warning, at+"warning", "the warning would come before "+limit.name+" has begun", "give less than "+limit.name)
	}
}

// plainPath tells whether a path is absolute and has one reading.
func plainPath(p string) bool { return filepath.IsAbs(p) && filepath.Clean(p) == p }

// under tells whether a path is one of dirs or in it.
func under(path string, dirs ...string) bool {
	for _, d := range dirs {
		if path == d || strings.HasPrefix(path, strings.TrimSuffix(d, "/")+"/") {
			return true
		}
	}
	return false
}

// hostOnly are the host's own: whoever sees them, or what they are in, may take the machine over.
var hostOnly = []string{"/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/root", "/var/lib/docker", "/var/lib/containerd"}

// private tells whether a path is, is in, or holds what a server must not see.
func private(path, stateDir string) bool {
	for _, d := range append([]string{stateDir}, hostOnly...) {
		if under(path, d) || under(d, path) {
			return true
		}
	}
	return under("/etc", path)
}

// validate checks one mount; nothing that a server must not see is in it or around it.
func (m Mount) validate(k *checks, at, stateDir string, p Profile) {
	k.that(plainPath(m.Source), at+".source", "the path must be absolute and plain", "write /data/shared")
	k.that(plainPath(m.Target) && m.Target != "/", at+".target", "the path must be absolute and plain", "write /data/shared")
	bad := private(m.Source, stateDir) || strings.HasSuffix(m.Source, ".sock")
	k.that(!bad, at+".source", "this would give the whole machine away", "mount a directory with data only")
	k.that(!under(m.Target, "/proc", "/sys", "/dev", "/etc/resolv.conf"), at+".target", "a server needs this place for itself", "choose another, such as /data")
	k.that(p.Home == "none" || !under(p.Home, m.Target), at+".target", "the home is here", "choose another place, such as /data, or one in the home")
	for _, other := range p.Mounts {
		if other.Target == m.Target && other != m {
			k.that(false, at+".target", "two mounts have this place", "give each its own")
			return
		}
	}
}
