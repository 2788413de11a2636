package kernelimage

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func pemOf(kind, content string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(content)})
}

// unpack reads a tar whole.
func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(b)
	}
}

func TestContext(t *testing.T) {
	bundle := bytes.Join([][]byte{pemOf("CERTIFICATE", "one"), pemOf("PRIVATE KEY", "secret"), pemOf("CERTIFICATE", "two")}, []byte("# a comment\n"))
	one, err := Context(Options{ExtraCA: bundle})
	if err != nil {
		t.Fatal(err)
	}
	first, err := io.ReadAll(one)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Context(Options{ExtraCA: bundle})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := io.ReadAll(again); err != nil || !bytes.Equal(first, second) {
		t.Error("the context is not the same for the same options")
	}
	files := unpack(t, bytes.NewReader(first))
	for _, name := range []string{"Dockerfile", "requirements.lock", "carrel_server/launch.py", "labextension/static/remoteEntry.js", "smoke/smoke.ipynb", "ca/README"} {
		if files[name] == "" {
			t.Errorf("the context lacks %s", name)
		}
	}
	if files["ca/extra-000.crt"] != string(pemOf("CERTIFICATE", "one")) || files["ca/extra-001.crt"] != string(pemOf("CERTIFICATE", "two")) {
		t.Error("the certificates are not there, each in its file")
	}
	for name, content := range files {
		if strings.Contains(content, "PRIVATE KEY") && strings.HasPrefix(name, "ca/") {
			t.Errorf("%s holds a private key", name)
		}
	}
	if _, err := Context(Options{ExtraCA: []byte("no certificate")}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a file without certificates: %v", err)
	}
}

// The name follows what goes into the image, and nothing that only helps to build it.
func TestName(t *testing.T) {
	plain := Options{}.Name()
	ca := pemOf("CERTIFICATE", "x")
	for what, c := range map[string]struct {
		opts Options
		same bool
	}{
		"an index":                    {Options{Args: map[string]string{"PIP_INDEX_URL": "https://pip.example"}}, true},
		"certificates for the build":  {Options{ExtraCA: ca}, true},
		"certificates for the image":  {Options{ExtraCA: ca, TrustExtraCA: true}, false},
		"another base":                {Options{Base: "debian:trixie"}, false},
		"the default base, by name":   {Options{Base: DefaultBase}, true},
		"a directory for temporaries": {Options{Dir: "/var/tmp", Rebuild: true}, true},
	} {
		if got := c.opts.Name(); (got == plain) != c.same {
			t.Errorf("%s: %s beside %s", what, got, plain)
		}
	}
	if got := (Options{Tag: "my/own:1"}).Name(); got != "my/own:1" {
		t.Errorf("a tag of the operator's became %s", got)
	}
}

func TestHostOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pemOf("CERTIFICATE", "x"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"PIP_INDEX_URL": "https://pip.example", "https_proxy": "http://proxy:3128", "NO_PROXY": "a\nb", "HOME": "/root", "REQUESTS_CA_BUNDLE": file, "PIP_CERT": "/nonexistent"}
	opts := HostOptions(func(name string) string { return env[name] })
	if got := slices.Sorted(maps.Keys(opts.Args)); !slices.Equal(got, []string{"PIP_INDEX_URL", "https_proxy"}) {
		t.Errorf("the build is given %q", got)
	}
	if !bytes.Equal(opts.ExtraCA, pemOf("CERTIFICATE", "x")) {
		t.Error("the host's certificates are not given to the build")
	}
}

// What the host's apt says is used where it is about Debian bookworm, and nothing else of it.
func TestAptSources(t *testing.T) {
	own := aptSources("http://mirror.example/debian bookworm main\nhttp://mirror.example/debian bookworm main\n" +
		"http://mirror.example/debian bookworm contrib\nhttps://mirror.example/sec bookworm-security main\n" +
		"file:/srv/debian bookworm main\nhttp://mirror.example/other jammy main\n")
	for _, want := range []string{"http://mirror.example/debian bookworm main\n", "https://mirror.example/sec bookworm-security main\n"} {
		if strings.Count(own, want) != 1 {
			t.Errorf("%q is not once in\n%s", want, own)
		}
	}
	for _, bad := range []string{"contrib", "file:", "jammy"} {
		if strings.Contains(own, bad) {
			t.Errorf("%q is in\n%s", bad, own)
		}
	}
	if foreign := aptSources("http://archive.example/ubuntu jammy main\n"); strings.Contains(foreign, "example") || !strings.Contains(foreign, suite) {
		t.Errorf("on another release: %s", foreign)
	}
}

func TestAptConfig(t *testing.T) {
	got := string(aptConfig("APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy:3142\";\nacquire::retries \"3\";\nDPkg::Post-Invoke:: \"rm -rf /\";\nAcquire::Changelogs::AlwaysOnline \"true\";\n"))
	if want := "Acquire::http::Proxy \"http://proxy:3142\";\nacquire::retries \"3\";\n"; got != want {
		t.Errorf("apt's configuration became\n%s", got)
	}
}
