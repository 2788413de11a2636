package archtest

import "testing"

// The rules of this package are only as good as what they are made of.

func TestSentences(t *testing.T) {
	for text, want := range map[string]int{
		"":                                   0,
		"Package x does one thing.":          1,
		"Package x does one thing. No more.": 2,
		"Package x owns a\nb c. It refuses to own d,\nwhich is e's. So there.": 3,
	} {
		if got := sentences(text); got != want {
			t.Errorf("%q has %d sentences, counted %d", text, want, got)
		}
	}
}

func TestAdapterOf(t *testing.T) {
	for path, want := range map[string]string{
		"hub":                    "",
		"hub/web":                "hub/web",
		"hub/web/internal/forms": "hub/web",
		"hub/webhook":            "",
		"hub/hubtest":            "",
		"spawner":                "",
		"spawner/docker/seccomp": "spawner/docker",
		"spawner/local":          "spawner/local",
		"cmd/carrel":             "",
		".":                      "",
	} {
		if got := adapterOf(path); got != want {
			t.Errorf("%s belongs to adapter %q, got %q", path, want, got)
		}
	}
}

func TestFencesCoverSubpackages(t *testing.T) {
	docker := fence{library: "github.com/docker/docker"}
	for imported, want := range map[string]bool{
		"github.com/docker/docker":             true,
		"github.com/docker/docker/client":      true,
		"github.com/docker/docker-credentials": false,
		"github.com/docker/go-units":           false,
	} {
		if docker.covers(imported) != want {
			t.Errorf("%s: covered %v", imported, !want)
		}
	}
	if (fence{library: "log"}).covers("log/slog") {
		t.Error("log/slog is not log")
	}
}
