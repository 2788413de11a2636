package kernelimage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"carrel/hub"
)

const (
	suite        = "bookworm"
	keyring      = "/usr/share/keyrings/debian-archive-keyring.gpg"
	publicMirror = "deb http://deb.debian.org/debian bookworm main\n" +
		"deb http://deb.debian.org/debian bookworm-updates main\n" +
		"deb http://deb.debian.org/debian-security bookworm-security main\n"
)

// mmdebstrapArgs is the recipe of a base: the smallest Debian with Python, without manuals and
// translations. What the host's apt is told (proxies, mirrors) is used while it runs, and taken out
// again: the hooks are the only shell here, and are constants.
var mmdebstrapArgs = []string{
	"--variant=minbase", "--format=tar",
	"--include=ca-certificates,python3,python3-venv,tini",
	`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Languages "none"`,
	"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/info/*",
	"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
	"--dpkgopt=path-include=/usr/share/doc/*/copyright",
	`--customize-hook=printf 'deb http://deb.debian.org/debian bookworm main\ndeb http://deb.debian.org/debian bookworm-updates main\ndeb http://deb.debian.org/debian-security bookworm-security main\n' > "$1"/etc/apt/sources.list`,
	`--customize-hook=rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/resolv.conf "$1"/etc/hostname`,
}

// bootstrapTag names the image that the recipe makes, so that a changed recipe is run.
func bootstrapTag() string {
	sum := sha256.Sum256([]byte(strings.Join(mmdebstrapArgs, "\n")))
	return "carrel/base:" + suite + "-" + hex.EncodeToString(sum[:])[:12]
}

// BaseFromMmdebstrap makes a tar of a Debian root file system in dir, from the mirror that the host's
// apt uses. It takes half a minute, needs no registry, and is ended with ctx.
func BaseFromMmdebstrap(ctx context.Context, dir string, progress func(percent int, message string)) (tarPath string, err error) {
	const op = "make a base image"
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		e := hub.Errorf(hub.Unavailable, op, "no registry gave the base image, and mmdebstrap is not installed")
		e.Remedy = "Install mmdebstrap and debian-archive-keyring, or make a registry reachable"
		return "", e
	}
	work, err := os.MkdirTemp(dir, "carrel-base-")
	if err != nil {
		return "", hub.Wrap(hub.Unavailable, op, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(work))
		}
	}()
	config, err := hostAptConfig(ctx)
	if err != nil {
		return "", err
	}
	// By a file, because a proxy's password may be in it, and everybody can read arguments.
	apt := filepath.Join(work, "apt.conf")
	if err := os.WriteFile(apt, config, 0o600); err != nil {
		return "", hub.Wrap(hub.Internal, op, err)
	}
	sources, err := hostSources(ctx)
	if err != nil {
		return "", err
	}
	tarPath = filepath.Join(work, "base.tar")
	args := slices.Concat(mmdebstrapArgs, []string{"--aptopt=" + apt, suite, tarPath, "-"})
	return tarPath, runMmdebstrap(ctx, program, args, sources, progress)
}

func runMmdebstrap(ctx context.Context, program string, args []string, sources string, progress func(int, string)) error {
	const op = "make a base image"
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(sources)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	// It cleans up after itself when it is asked to end, and not when it is killed. A session of its
	// own keeps Ctrl-C from reaching its children before it does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return hub.Wrap(hub.Internal, op, err)
	}
	if err := cmd.Start(); err != nil {
		return hub.Wrap(hub.Unavailable, op, err)
	}
	last := followMmdebstrap(stderr, progress)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return hub.Wrap(hub.Canceled, op, context.Cause(ctx))
		}
		e := hub.Errorf(hub.Unavailable, op, "mmdebstrap failed: %s: %w", strings.Join(last, "; "), err)
		e.Remedy = "See that this machine's apt reaches a Debian mirror: apt-get update"
		return e
	}
	return nil
}

// mmdebstrapSteps are the words by which its messages are known, and how far it is then.
var mmdebstrapSteps = []struct {
	words, message string
	percent        int
}{
	{"apt-get update", "Reading the list of Debian's packages", 5},
	{"downloading packages", "Fetching Debian's packages", 15},
	{"extracting archives", "Unpacking Debian's packages", 40},
	{"installing essential", "Setting up the essential packages", 50},
	{"installing remaining", "Setting up Python", 65},
	{"cleaning package lists", "Tidying up", 90},
	{"creating tarball", "Packing the file system", 95},
}

// followMmdebstrap tells of the steps, and gives the last lines for an error.
func followMmdebstrap(stderr io.Reader, progress func(int, string)) (last []string) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		for _, s := range mmdebstrapSteps {
			if strings.HasPrefix(line, "I:") && strings.Contains(line, s.words) {
				progress(s.percent, s.message)
			}
		}
		if line != "" {
			if last = append(last, line); len(last) > 4 {
				last = last[1:]
			}
		}
	}
	_, _ = io.Copy(io.Discard, stderr) // a line too long must not block it
	return last
}

// hostAptConfig is what the host's apt is told of the way to its mirrors.
func hostAptConfig(ctx context.Context) ([]byte, error) {
	out, err := run(ctx, "apt-config", "dump", "--format", `%f "%v";%n`)
	if err != nil {
		return nil, err
	}
	return aptConfig(out), nil
}

func aptConfig(dump string) []byte {
	wanted := []string{"Acquire::http::", "Acquire::https::", "Acquire::Retries", "Acquire::ForceIPv4", "Acquire::Check-Valid-Until", "Acquire::Check-Date"}
	var b bytes.Buffer
	for line := range strings.Lines(dump) {
		if slices.ContainsFunc(wanted, func(w string) bool { return len(line) >= len(w) && strings.EqualFold(line[:len(w)], w) }) {
			b.WriteString(line)
		}
	}
	return b.Bytes()
}

// hostSources are the mirrors of the suite that the host's apt uses, or the public ones.
func hostSources(ctx context.Context) (string, error) {
	out, err := run(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Identifier: Packages")
	if err != nil {
		return "", err
	}
	return aptSources(out), nil
}

func aptSources(targets string) string {
	var mirrors strings.Builder
	main := false
	seen := map[string]bool{}
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "main" || seen[line] {
			continue
		}
		seen[line] = true
		uri, err := url.Parse(f[0])
		if err != nil || uri.Scheme != "http" && uri.Scheme != "https" {
			continue
		}
		switch f[1] {
		case suite:
			main = true
		case suite + "-updates", suite + "-security":
		default:
			continue
		}
		mirrors.WriteString("deb " + strings.Join(f, " ") + "\n")
	}
	sources := mirrors.String()
	if !main {
		sources = publicMirror // the host is another Debian, or an Ubuntu
	}
	if _, err := os.Stat(keyring); err == nil {
		sources = strings.ReplaceAll(sources, "deb http", "deb [signed-by="+keyring+"] http")
	}
	return sources
}

// run gives what one of apt's programs says; a host without it has nothing to say.
func run(ctx context.Context, name string, args ...string) (string, error) {
	program, err := exec.LookPath(name)
	if err != nil {
		return "", nil
	}
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "", hub.Wrap(hub.Unavailable, name, err)
	}
	return string(out), nil
}
