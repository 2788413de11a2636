// Package deployed looks at a deployment of the binary from outside, for benchmarks and long tests: what
// its processes hold, what it has on this machine, and what its own Redis keeps.
//
// It owns where such things are found, and what counts as flat. It refuses to start or stop anything, and
// to be part of the binary.
package deployed

import (
	"context"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"carrel/hub"
)

// Deployment is one whose state is in the directory state below Dir, with a Redis of its own.
type Deployment struct {
	Name string
	Dir  string
	Own  func(path string) bool // files of Dir that the caller made, and that are not counted
}

// Keyring opens the deployment's secret.
func (d Deployment) Keyring() (*hub.Keyring, error) {
	raw, err := os.ReadFile(filepath.Join(d.Dir, "state", "secrets", "deployment.key"))
	if err != nil {
		return nil, err
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, err
	}
	return hub.NewKeyring(d.Name, secret)
}

// RedisSocket is where its Redis listens.
func (d Deployment) RedisSocket() string {
	return filepath.Join(d.Dir, "state", "run", "redis", "redis.sock")
}

// RedisPassword is the hub's.
func (d Deployment) RedisPassword() (string, error) {
	keys, err := d.Keyring()
	if err != nil {
		return "", err
	}
	return keys.Password("redis-hub").Reveal(), nil
}

// Redis asks the deployment's Redis something on the command line, with the hub's rights.
func (d Deployment) Redis(ctx context.Context, args ...string) (string, error) {
	password, err := d.RedisPassword()
	if err != nil {
		return "", err
	}
	ctx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	cmd := exec.CommandContext(ctx, "redis-cli", append([]string{"-s", d.RedisSocket(), "--user", "hub", "--no-auth-warning"}, args...)...)
	cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+password)
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// RedisPID is the process of its Redis; 0 if there is none.
func (d Deployment) RedisPID() int {
	raw, err := os.ReadFile(filepath.Join(d.Dir, "state", "redis", "redis.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || Comm(pid) != "redis-server" {
		return 0
	}
	return pid
}
