package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carrel/hub"
)

// big is a machine that any sound test configuration fits.
var big = Machine{Memory: 64 << 30, CPUs: 16}

// write makes a file and gives its path.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads a text with the environment given.
func load(t testing.TB, text string, env ...string) (*Config, []Fault) {
	t.Helper()
	path := write(t, "carrel.yaml", text)
	cfg, faults := Load(path, env, big)
	for i := range faults {
		faults[i].File = strings.Replace(faults[i].File, path, "carrel.yaml", 1)
	}
	return cfg, faults
}

// sound reads a text that must have no fault.
func sound(t testing.TB, text string, env ...string) *Config {
	t.Helper()
	cfg, faults := load(t, text, env...)
	for _, f := range faults {
		t.Error(f)
	}
	if len(faults) > 0 {
		t.FailNow()
	}
	return cfg
}

// has tells whether a fault is among others, as "line: field: the message's beginning". Without the
// line, any part of a fault counts.
func has(faults []Fault, want string) bool {
	return slices.ContainsFunc(faults, func(f Fault) bool {
		text := fmt.Sprintf("%d: %s: %s (%s)", f.Line, f.Field, f.Message, f.Remedy)
		if want[0] >= '0' && want[0] <= '9' {
			return strings.HasPrefix(text, want)
		}
		return strings.Contains(text, want)
	})
}

const provider = "oidc:\n  providers:\n    - name: uni\n      issuer: https://login.example.org\n      client_id: carrel\n      everyone: true\n"

func TestAllFaultsOfAFileAtOnce(t *testing.T) {
	_, faults := load(t, "deployment: X!\nlistn: []\nredis: 5\nlog:\n  level: loud\n  format: a\n  format: b\nprofiles:\n  - name: A\n    cpu: x\n    env: {1A: b}\n  - nam: b\n")
	for _, want := range []string{"1: deployment", "2: listn", "3: redis", "5: log.level", "7: log.format", "9: profiles[0].name", "10: profiles[0].cpu", "11: profiles[0].env.1A", "12: profiles[1].nam", "12: profiles[1].name"} {
		if !has(faults, want) {
			t.Errorf("no fault at %s", want)
		}
	}
	if len(faults) != 10 {
		t.Errorf("%d faults: %v", len(faults), faults)
	}
	if !slices.IsSortedFunc(faults, func(a, b Fault) int { return a.Line - b.Line }) {
		t.Errorf("not in the file's order: %v", faults)
	}
	if s := faults[1].String(); s != "carrel.yaml:2: listn: there is no such field (did you mean listen?)" {
		t.Errorf("the first reads %q", s)
	}
}

func TestNoFaultShowsAValue(t *testing.T) {
	const secret = "hunter2"
	for _, text := range []string{
		"redis:\n  url: hunter2\n", "redis:\n  url: [hunter2]\n", provider + "      client_secret: \"hunter2\n", provider + "      client_secret: hunter2\n\tx: y\n",
		provider + "      client_secret: {hunter2: 1}\n", provider + "      client_secret: &a hunter2\n", provider + "      client_secret: hunter2: x\n", "sessions:\n  idle: hunter2\n",
	} {
		_, faults := load(t, text)
		if len(faults) == 0 {
			t.Errorf("%q has no fault", text)
		}
		for _, f := range faults {
			if strings.Contains(f.String(), secret) && f.Message != "there is no such field" {
				t.Errorf("%q: %s", text, f)
			}
		}
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	large := write(t, "large.yaml", strings.Repeat("# much ado\n", maxFile/10))
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "there is no such file (carrel config example > ", dir: "the file can't be read: ", large: "the file is larger than 64KiB", "/dev/zero": "the file is larger than 64KiB",
	} {
		_, faults := Load(path, nil, big)
		if len(faults) != 1 || !strings.Contains(faults[0].String(), path+": "+want) {
			t.Errorf("%s: %v", path, faults)
		}
	}
}

func TestNothingLeavesTheDefault(t *testing.T) {
	want := string(Default().Show())
	for _, text := range []string{"", "\n", "# a comment\n", "---\n", "---\n# a comment\n...\n", "listen:\nprofiles: ~\nredis: null\nlog:\n"} {
		if got := string(sound(t, text).Show()); got != want {
			t.Errorf("%q gives\n%s", text, got)
		}
	}
	if cfg, faults := Load("", nil, Machine{}); len(faults) > 0 || string(cfg.Show()) != want {
		t.Errorf("no file: %v", faults)
	}
}

// TestTheDefaultsFitASmallMachine: no configuration at all must work there too (seen: 4GiB of the
// profile large were a fault on a machine with 2GiB).
func TestTheDefaultsFitASmallMachine(t *testing.T) {
	small := Machine{Memory: 1<<30 + 12345, CPUs: 1}
	cfg, faults := Load("", nil, small)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for _, p := range cfg.Profiles {
		if p.Memory > 1<<30 || p.CPU > 1 {
			t.Errorf("%s: %v, %v cores", p.Name, p.Memory, p.CPU)
		}
	}
	if _, faults := Load(write(t, "c.yaml", "profiles:\n  - name: large\n    memory: 4GiB\n    cpu: 2\n"), nil, small); len(faults) != 2 {
		t.Errorf("what an operator wrote was changed: %v", faults)
	}
}

func TestItemsTakeTheirDefaults(t *testing.T) {
	cfg := sound(t, "profiles:\n  - name: gpu\n    cpu: 2\n    cull:\n      idle: 1h\ncull_groups:\n  - group: staff\n    cull: {idle: 8h}\n")
	want := profile("gpu", "", "", 2, 1<<30, 2<<30, false)
	want.Cull.Idle = Duration(3600e9)
	if got := cfg.Profiles[0]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("profile\n%v, want\n%v", got, want)
	}
	rule := cfg.Policy("kernel:1", 0).GroupCulls[0].Rule
	if rule.Warning != defaultCull().rule().Warning || rule.Extend == 0 || rule.BusyMax == 0 {
		t.Errorf("a group's rule culls without a warning: %+v", rule)
	}
}

func TestSoundConfigurations(t *testing.T) {
	for name, text := range map[string]string{
		"JSON":             `{"deployment": "a", "listen": ["127.0.0.1:1"], "profiles": [{"name": "x", "env": {"A": "b"}}]}`,
		"quoted numbers":   "proxy:\n  uid: \"1234\"\n",
		"literal text":     "profiles:\n  - name: a\n    description: |\n      Two\n      lines.\n",
		"CRLF":             "deployment: a\r\nlog:\r\n  level: warn\r\n",
		"production":       provider + "public_url: https://hub.example.org/carrel/\nlisten: [\":443\", \"[::]:8443\"]\ntls:\n  cert_file: /a\n  key_file: /b\nnotebook_host: notebooks.example.net\nadmin_access: true\n",
		"paths":            provider + "origins: paths\npublic_url: https://hub.example.org/\nnotebook_host: hub.example.org:8443\nlisten: [\":443\"]\n",
		"one origin":       "origins: one-origin\npublic_url: http://127.0.0.1:8000/\n",
		"issuer on here":   strings.Replace(provider, "https://login.example.org", "http://localhost:8080/realms/a", 1),
		"admins alone":     strings.Replace(provider, "everyone: true", "admin_users: [root-of-all]", 1),
		"Redis by TLS":     "redis:\n  url: rediss://u:p@redis.example.org:6380/1\n  ca_file: /ca.pem\n",
		"Redis by a file":  "redis:\n  url: unix:///run/redis/redis.sock\n",
		"Sentinel":         "redis:\n  url: redis+sentinel://:p@a:26379,b:26379/0?master=m\n",
		"image by digest":  "image:\n  name: registry.example.org:5000/a/b_c@sha256:" + strings.Repeat("0a", 32) + "\n",
		"image by id":      "image:\n  name: sha256:" + strings.Repeat("0a", 32) + "\n",
		"mounts":           "profiles:\n  - name: a\n    mounts:\n      - {source: /srv/data, target: /data}\n      - {source: /etc/ssl/certs, target: /certs}\n      - {source: /srv/shared, target: /home/jovyan/shared, writable: true}\n",
		"no home":          "profiles:\n  - name: a\n    home: none\n    cull: {idle: 0s, warning: 0s}\n",
		"a set-up of IPv6": "listen: [\"[::1]:8000\"]\n",
	} {
		t.Run(name, func(t *testing.T) { sound(t, text) })
	}
}

// TestCaptchaIsTheStarts: the policy has it also while visitors are not let in, as a reload may let them in.
func TestCaptchaIsTheStarts(t *testing.T) {
	for _, enabled := range []string{"false", "true"} {
		cfg, faults := Load(write(t, "c.yaml", "public_url: https://hub.example.org/\norigins: paths\ntmp:\n  enabled: "+enabled+"\n  captcha: {kind: work, bits: 19}\n"), nil, big)
		if p := cfg.Policy("kernel:1", 0).Visits; p.Captcha.Kind != hub.CaptchaWork || p.Captcha.Bits != 19 || !p.Captcha.Exempt {
			t.Errorf("enabled: %s: %+v, %v", enabled, p, faults)
		}
	}
}

// TestCaptchaOrigins are no wider than the service needs.
func TestCaptchaOrigins(t *testing.T) {
	for service, want := range map[string]string{
		"recaptcha": "https://www.google.com/recaptcha/ https://www.gstatic.com/recaptcha/",
		"turnstile": "https://challenges.cloudflare.com",
		"hcaptcha":  "https://js.hcaptcha.com https://hcaptcha.com https://*.hcaptcha.com",
	} {
		if got := strings.Join((Captcha{Service: service}).Resolved().Origins, " "); got != want {
			t.Errorf("%s: %s", service, got)
		}
	}
}
