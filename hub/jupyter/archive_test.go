package jupyter

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"carrel/hub"
)

// shelf is a server's files, by path; a name that ends with a slash is a directory.
func shelf(t *testing.T, files map[string]string) hub.Target {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/user/x/api/contents/", func(w http.ResponseWriter, r *http.Request) {
		dir := strings.TrimPrefix(r.URL.Path, "/user/x/api/contents/")
		var list []string
		for name := range files {
			rest, ok := strings.CutPrefix(name, dir+"/")
			if dir == "" {
				rest, ok = name, true
			}
			if kind := "file"; ok && rest != "" {
				if strings.HasSuffix(rest, "/") {
					kind = "directory"
				}
				if rest = strings.TrimSuffix(rest, "/"); !strings.Contains(rest, "/") || strings.HasPrefix(rest, "..") {
					list = append(list, fmt.Sprintf(`{"name":%q,"type":%q,"last_modified":"2026-01-02T03:04:05Z"}`, rest, kind))
				}
			}
		}
		fmt.Fprintf(w, `{"content":[%s]}`, strings.Join(list, ","))
	})
	mux.HandleFunc("/user/x/files/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "token t" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(w, files[strings.TrimPrefix(r.URL.Path, "/user/x/files/")])
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	e, err := hub.ParseEndpoint(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return hub.Target{Endpoint: e, BasePath: "/user/x/", Token: hub.NewSecret("t")}
}

func TestArchive(t *testing.T) {
	target := shelf(t, map[string]string{
		"a b.ipynb": "{}", "data/": "", "data/d #1.csv": "1,2", "empty.txt": "",
		"../evil": "x", "c:evil": "x", "back\\slash": "x", "new\nline": "x",
	})
	var out bytes.Buffer
	if err := (Client{}).Archive(t.Context(), target, &out, 1<<20); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a b.ipynb": "{}", "data/d #1.csv": "1,2", "empty.txt": ""}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if text, ok := want[f.Name]; err != nil || !ok || string(b) != text {
			t.Errorf("%q holds %q, %v", f.Name, b, err)
		}
		delete(want, f.Name)
	}
	if len(want) > 0 {
		t.Errorf("not in it: %v", want)
	}
}

// TestArchiveEnds whatever a guest says.
func TestArchiveEnds(t *testing.T) {
	endless := map[string]string{"big": strings.Repeat("x", 2000)}
	if err := (Client{}).Archive(t.Context(), shelf(t, endless), io.Discard, 1000); hub.KindOf(err) != hub.TooMany {
		t.Errorf("beyond its limit: %v", err)
	}
	deep := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"content":[{"name":"d","type":"directory"}]}`)
	}))
	t.Cleanup(deep.Close)
	e, err := hub.ParseEndpoint(deep.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := (Client{}).Archive(t.Context(), hub.Target{Endpoint: e, BasePath: "/"}, io.Discard, 1000); hub.KindOf(err) != hub.TooMany {
		t.Errorf("directories without end: %v", err)
	}
	var out bytes.Buffer
	if err := (Client{}).Archive(t.Context(), hub.Target{Endpoint: e, BasePath: "/"}, &out, 1000); err == nil {
		t.Error("half an archive passes for a whole one")
	}
}
