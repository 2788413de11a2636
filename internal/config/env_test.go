package config

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTheEnvironmentGoesOverTheFile(t *testing.T) {
	cfg := sound(t, "deployment: file\nlog:\n  level: debug\nlisten: [\"127.0.0.1:1\"]\n",
		"CARREL_DEPLOYMENT=env", "CARREL_LISTEN=127.0.0.1:2,127.0.0.1:3 [::1]:4", "CARREL_SPAWNER_DOCKER_ADDRESS_QUARANTINE=1h",
		"CARREL_SPAWNER_KERNEL_CHECK=false", "CARREL_PROXY_UID=77", "CARREL_REDIS_URL=redis://a=b@c/0", "PATH=/bin", "CARREL_CONFIG=/x", "DEPLOYMENT=other")
	if cfg.Deployment != "env" || cfg.Log.Level != "debug" || cfg.Proxy.UID != 77 || cfg.Spawner.KernelCheck || cfg.Redis.URL != "redis://a=b@c/0" {
		t.Errorf("%+v", cfg)
	}
	if want := []string{"127.0.0.1:2", "127.0.0.1:3", "[::1]:4"}; !slices.Equal(cfg.Listen, want) {
		t.Errorf("listen %q", cfg.Listen)
	}
	if cfg.Spawner.Docker.Quarantine != Duration(time.Hour) {
		t.Errorf("quarantine %v", cfg.Spawner.Docker.Quarantine)
	}
}

// TestFaultsOfTheEnvironmentNameTheVariable: also those that only the check of the whole finds.
func TestFaultsOfTheEnvironmentNameTheVariable(t *testing.T) {
	for _, c := range []struct{ variable, want string }{
		{"CARREL_PROXY_UID=root", "environment: CARREL_PROXY_UID: a whole number from 0 on is wanted here"},
		{"CARREL_SPAWNER_START_TIMEOUT=x", "environment: CARREL_SPAWNER_START_TIMEOUT: this is no duration: write 90s, 30m, 2h or 14d"},
		{"CARREL_SPAWNER_START_TIMEOUT=0s", "environment: CARREL_SPAWNER_START_TIMEOUT: no server starts in no time (give something like 2m)"},
		{"CARREL_LISTEN=oops", "environment: CARREL_LISTEN: this is no host:port (write 127.0.0.1:8000 or :8000)"},
		{"CARREL_LISTEN=", "environment: CARREL_LISTEN: the proxy listens nowhere (give an address such as 127.0.0.1:8000)"},
		{"CARREL_DEPLOYMENT=", "environment: CARREL_DEPLOYMENT: this is no name of a deployment (use 1 to 32 of a-z, 0-9 and hyphens)"},
		{"CARREL_LOG_LEVEL=x", "environment: CARREL_LOG_LEVEL: there is no such level (use debug, info, warn or error)"},
		{"CARREL_PROFILES=x", "environment: CARREL_PROFILES: this field can't be set by the environment (set profiles in the file)"},
		{"CARREL_REDIS_URL_FILE=/nonexistent", "environment: CARREL_REDIS_URL_FILE: the file can't be read (check that /nonexistent is there and readable by carrel)"},
		{"CARREL_REDIS_ULR=redis://x", "environment: CARREL_REDIS_ULR: there is no such setting (did you mean CARREL_REDIS_URL?)"},
	} {
		_, faults := load(t, "# the first\n\nlisten: [\"127.0.0.1:1\"]\n", c.variable)
		if len(faults) != 1 || faults[0].String() != c.want {
			t.Errorf("%s gives %v, want %s", c.variable, faults, c.want)
		}
	}
}

func TestOtherProgramsMayUseThePrefix(t *testing.T) {
	sound(t, "", "CARREL_CONFIG=x", "CARREL_KILL_ROUNDS=2", "CARREL_LOG_DIR=/x", "CARREL_SCREENSHOTS=y", "CARREL_TOKEN=z", "CARREL_=", "CARREL")
}

// TestEveryVariableIsItsOwn: two fields of one variable's name could not both be set.
func TestEveryVariableIsItsOwn(t *testing.T) {
	seen := map[string]string{}
	eachField(reflect.ValueOf(Default()).Elem(), "", func(field string, v reflect.Value, _ reflect.StructField) {
		name := envName(field)
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s are both %s", field, other, name)
		}
		seen[name] = field
	})
	if len(seen) < 30 || seen["CARREL_SPAWNER_DOCKER_HOME_KIND"] != "spawner.docker.home_kind" {
		t.Errorf("%d variables", len(seen))
	}
}

func TestSecretsComeFromFiles(t *testing.T) {
	secret := write(t, "secret", "  s3cret with spaces\r\n")
	cfg := sound(t, provider+"      client_secret_file: "+secret+"\nredis:\n  url_file: "+write(t, "url", "redis://u:p@h/0\n")+"\n")
	if got := cfg.OIDC.Providers[0].ClientSecret; got != "s3cret with spaces" {
		t.Errorf("client secret %q", got)
	}
	if cfg.Redis.URL != "redis://u:p@h/0" {
		t.Errorf("redis.url %q", cfg.Redis.URL)
	}
	if got := sound(t, "", "CARREL_REDIS_URL_FILE="+write(t, "url", "redis://h/1")).Redis.URL; got != "redis://h/1" {
		t.Errorf("by the environment: %q", got)
	}
}

func TestFaultsOfSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, lines, want string }{
		{"both", "      client_secret: a\n      client_secret_file: " + write(t, "s", "b") + "\n", "8: oidc.providers[0].client_secret_file: the secret is given twice (keep client_secret or client_secret_file)"},
		{"none there", "      client_secret_file: " + filepath.Join(dir, "none") + "\n", "7: oidc.providers[0].client_secret_file: the file can't be read"},
		{"a directory", "      client_secret_file: " + dir + "\n", "7: oidc.providers[0].client_secret_file: the file can't be read"},
		{"without end", "      client_secret_file: /dev/zero\n", "7: oidc.providers[0].client_secret_file: the file can't be read"},
		{"empty", "      client_secret_file: " + write(t, "s", " \n\n") + "\n", "7: oidc.providers[0].client_secret_file: the file is empty (write the secret into"},
		{"two lines", "      client_secret_file: " + write(t, "s", "a\nb\n") + "\n", "7: oidc.providers[0].client_secret_file: the file holds more than one line"},
		{"url given twice", "redis:\n  url: redis://a\n  url_file: " + write(t, "s", "redis://b") + "\n", "9: redis.url_file: the secret is given twice (keep url or url_file)"},
		{"what the file holds", "redis:\n  url_file: " + write(t, "s", "hunter2") + "\n", "redis.url: this is no address of a Redis"},
		{"beside other faults", "      client_secret_file: /nonexistent\nlistn: 1\n", "7: oidc.providers[0].client_secret_file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, faults := load(t, provider+c.lines)
			if !has(faults, c.want) {
				t.Errorf("%v, want %s", faults, c.want)
			}
			for _, f := range faults {
				if strings.Contains(f.String(), "hunter2") {
					t.Errorf("shown: %s", f)
				}
			}
		})
	}
}
