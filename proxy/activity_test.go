package proxy

import "testing"

// What an open tab sends by itself is no use: JupyterLab saves its layout every ten seconds, and
// polls kernels, sessions and terminals.
func TestIsUse(t *testing.T) {
	for _, c := range []struct {
		method, rest string
		want         bool
	}{
		{"GET", "api/kernels", false},
		{"HEAD", "lab", false},
		{"OPTIONS", "api/contents", false},
		{"PUT", "lab/api/workspaces/default", false},
		{"PUT", "lab/api/workspaces/auto-x", false},
		{"PUT", "lab/api/settings/@jupyterlab/apputils-extension:themes", true},
		{"PUT", "api/contents/lab/api/workspaces/default", true},
		{"PUT", "api/contents/Untitled.ipynb", true},
		{"POST", "api/kernels", true},
		{"DELETE", "api/sessions/x", true},
	} {
		if got := isUse(c.method, c.rest); got != c.want {
			t.Errorf("%s %s counts as use: %v, want %v", c.method, c.rest, got, c.want)
		}
	}
}
