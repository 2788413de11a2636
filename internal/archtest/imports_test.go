package archtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// adapters are the packages that stand between the hub and one part of the world. Each is here with
// the reason why the others must not know it.
var adapters = map[string]string{
	"hub/web":              "pages change with taste; nothing may come to rely on how they are made",
	"hub/api":              "its shape is JupyterHub's, not ours: it must not leak inwards",
	"hub/oidc":             "sign-in must be replaceable by another protocol",
	"hub/devidp":           "a provider for demos must never be reachable from code that guards a real one",
	"hub/redisstore":       "who holds the state is the operator's choice",
	"hub/metrics":          "what is measured must not come to decide anything",
	"hub/captcha":          "which service tells people from machines is the operator's choice",
	"hub/siblings":         "whom visitors are sent to is the operator's choice, and an answer from elsewhere is believed nowhere else",
	"hub/jupyter":          "it speaks to hostile servers; its types stay with it",
	"proxy":                "it runs as a process of fewer rights, and may carry nothing that it does not use",
	"proxy/chp":            "it carries other people's JupyterHub, by that one's rules and not by ours",
	"spawner/docker":       "drivers are chosen by the configuration, one beside another",
	"internal/redisserver": "the private Redis is one way of many to have one",
	"kernelimage":          "building an image is no part of running one",
}

// adapterOf gives the adapter that a package belongs to, or "". A directory below one belongs to it.
func adapterOf(path string) string {
	for a := path; a != "." && a != "/"; a = filepath.Dir(a) {
		if adapters[a] != "" {
			return a
		}
	}
	// A driver that nobody has named yet is an adapter all the same.
	if driver, ok := strings.CutPrefix(path, "spawner/"); ok {
		return "spawner/" + strings.SplitN(driver, "/", 2)[0]
	}
	return ""
}

func TestTheHubImportsTheStandardLibraryOnly(t *testing.T) {
	for _, p := range packages(t) {
		if p.path() != "hub" {
			continue
		}
		for _, imported := range p.Imports {
			if first, _, _ := strings.Cut(imported, "/"); ours(imported) || strings.Contains(first, ".") {
				t.Errorf("hub imports %s: the centre holds nouns and contracts, and must build and be tested with nothing else", imported)
			}
		}
		return
	}
	t.Fatal("there is no package hub")
}

func TestAdaptersDoNotKnowEachOther(t *testing.T) {
	for _, p := range packages(t) {
		self := adapterOf(p.path())
		if self == "" {
			continue
		}
		for _, imported := range p.Imports {
			if other := adapterOf(local(imported)); ours(imported) && other != "" && other != self {
				t.Errorf("%s imports %s: adapters meet in cmd/carrel/wire.go only. %s: %s", p.path(), local(imported), other, adapters[other])
			}
			if imported == module+"/internal/config" {
				t.Errorf("%s imports internal/config: an adapter is given a value, and does not know that there is a file", p.path())
			}
		}
	}
}

func TestOnlyTheBinaryWiresAdapters(t *testing.T) {
	for _, p := range packages(t) {
		if p.path() == "cmd/carrel" || adapterOf(p.path()) != "" {
			continue
		}
		several := map[string]bool{}
		for _, imported := range p.Imports {
			if a := adapterOf(local(imported)); ours(imported) && a != "" {
				several[a] = true
			}
		}
		if len(several) > 1 {
			t.Errorf("%s imports %d adapters: concrete types meet in cmd/carrel only", p.path(), len(several))
		}
	}
}

// A fence says which packages alone may import a library.
type fence struct {
	library string
	allowed []string
	reason  string
}

var fences = []fence{
	{"github.com/docker/docker", []string{"spawner/docker"}, "so that its successor module can replace it in one place"},
	{"github.com/goccy/go-yaml", []string{"internal/config"}, "there is one reader of YAML, and it is strict"},
	{"gopkg.in/yaml.v3", nil, "there is one reader of YAML, and it is strict"},
	{"github.com/redis/go-redis/v9", []string{"hub/redisstore", "internal/redisserver", "proxy/chp"}, "the store's contract, not Redis, is what the rest knows; chp has a Redis and a contract of its own"},
	{"github.com/coreos/go-oidc/v3", []string{"hub/oidc"}, "tokens are verified in one place"},
	{"github.com/zitadel/oidc/v3", []string{"hub/devidp"}, "only the demo provider issues tokens"},
	{"github.com/caddyserver/certmagic", []string{"internal/acme"}, "the account and the keys are in one place"},
	{"github.com/mholt/acmez/v3", []string{"internal/acme"}, "the account and the keys are in one place"},
	{"github.com/pires/go-proxyproto", []string{"internal/front"}, "clients' addresses come from one place"},
	{"github.com/google/nftables", []string{"spawner/docker"}, "the walls are the driver's"},
	{"github.com/spf13/cobra", []string{"cmd/carrel"}, "packages know no command line"},
	{"github.com/chromedp/chromedp", []string{"internal/chromiumtest"}, "the browser is for tests"},
	{"github.com/alicebob/miniredis/v2", nil, "a stand-in for Redis is for unit tests"},
	{"net/http/cgi", nil, "nobody should"},
	{"log", []string{"cmd/carrel"}, "loggers are injected *slog.Logger values"},
}

// covers tells whether an import is of the library or of a package in it.
func (f fence) covers(imported string) bool {
	return imported == f.library || strings.Contains(f.library, ".") && strings.HasPrefix(imported, f.library+"/")
}

func TestLibrariesStayBehindTheirFences(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			for _, f := range fences {
				if f.covers(imported) && !slices.ContainsFunc(f.allowed, func(a string) bool { return within(p.path(), a) }) {
					t.Errorf("%s imports %s, which only %q may: %s", p.path(), imported, f.allowed, f.reason)
				}
			}
		}
	}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// TestDockerIsFencedInTestsToo: a test elsewhere that imports the client would have to be moved with
// it, and go through the driver's contract it can.
func TestDockerIsFencedInTestsToo(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			if fences[0].covers(imported) && !within(p.path(), "spawner/docker") {
				t.Errorf("a test of %s imports %s: %s", p.path(), imported, fences[0].reason)
			}
		}
	}
}

func TestRequiredLibrariesAreLinkedIn(t *testing.T) {
	deps, err := list("-deps", module+"/cmd/carrel")
	if err != nil {
		t.Fatal(err)
	}
	for library, does := range map[string]string{
		"github.com/docker/docker/client": "starts the containers",
		"github.com/gorilla/websocket":    "talks to kernels",
		"github.com/coreos/go-oidc/v3":    "verifies who signs in",
		"github.com/redis/go-redis/v9":    "keeps the sessions",
	} {
		direct := slices.ContainsFunc(deps, func(p pkg) bool {
			return ours(p.ImportPath) && slices.ContainsFunc(p.Imports, func(i string) bool { return i == library || strings.HasPrefix(i, library+"/") })
		})
		if !direct {
			t.Errorf("no package that the binary is made of imports %s, which %s", library, does)
		}
	}
}

func TestBlankImportsHaveNoHiddenWork(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.file.Imports {
			data := i.Path.Value == `"embed"` || i.Path.Value == `"time/tzdata"`
			if i.Name != nil && i.Name.Name == "_" && !data {
				t.Errorf("%s imports %s for its effects: call what is meant", s.name, i.Path.Value)
			}
		}
	}
}

func TestTheToolsStayOutOfTheMainModule(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"golangci", "golang.org/x/vuln"} {
		if strings.Contains(string(b), tool) {
			t.Errorf("go.mod requires %s: tools are pinned in internal/tools/go.mod, so that users of the binary need not vet them", tool)
		}
	}
}
