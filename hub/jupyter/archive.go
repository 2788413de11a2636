package jupyter

import (
	"archive/zip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"carrel/hub"
)

const (
	maxFiles      = 5000 // of an archive, with directories
	maxDepth      = 20   // of directories in it
	archiveWithin = 10 * time.Minute
)

var _ hub.Archiver = Client{}

// entry is one of a directory's, as the server tells it (Jupyter's Contents API).
type entry struct {
	Name     string    `json:"name"`
	Type     string    `json:"type"` // directory, notebook or file
	Modified time.Time `json:"last_modified"`
}

// Archive implements [hub.Archiver]: what the file browser shows, as a ZIP. Names are the guest's, so that
// each is checked to be one below the archive's root; what ends before its end leaves the archive without
// its directory, which every reader tells.
func (Client) Archive(ctx context.Context, t hub.Target, w io.Writer, limit int64) error {
	ctx, done := context.WithTimeout(ctx, archiveWithin)
	defer done()
	a := archive{t: t, zip: zip.NewWriter(w), left: limit, files: maxFiles}
	if err := a.directory(ctx, "", 0); err != nil {
		return err
	}
	return hub.Wrap(hub.Canceled, "archive files", a.zip.Close())
}

type archive struct {
	t     hub.Target
	zip   *zip.Writer
	left  int64 // bytes
	files int
}

var errTooMuch = &hub.Error{Kind: hub.TooMany, Op: "archive files", Message: "there are too many files for one archive", Remedy: "download them one by one"}

func (a *archive) directory(ctx context.Context, dir string, depth int) error {
	if depth > maxDepth {
		return errTooMuch
	}
	status, body, err := call(ctx, a.t, http.MethodGet, "api/contents/"+escaped(dir)+"?type=directory&content=1")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return hub.Errorf(hub.Unavailable, "archive files", "the server answered with status %d", status)
	}
	var listed struct {
		Content []entry `json:"content"`
	}
	if err := json.Unmarshal(body, &listed); err != nil {
		return hub.Errorf(hub.Unavailable, "archive files", "the server gave a malformed list")
	}
	slices.SortFunc(listed.Content, func(x, y entry) int { return strings.Compare(x.Name, y.Name) })
	for _, e := range listed.Content {
		if !plainName(e.Name) {
			continue // nothing that a file browser shows
		}
		if a.files--; a.files < 0 {
			return errTooMuch
		}
		at := path.Join(dir, e.Name)
		if e.Type == "directory" {
			err = a.directory(ctx, at, depth+1)
		} else {
			err = a.file(ctx, at, e.Modified)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file adds one file. One that went meanwhile, or can't be read, is left out.
func (a *archive) file(ctx context.Context, at string, modified time.Time) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host(a.t.Endpoint)+a.t.BasePath+"files/"+escaped(at), nil)
	if err != nil {
		return hub.Wrap(hub.Internal, "archive files", err)
	}
	req.Header.Set("Authorization", "token "+a.t.Token.Reveal())
	tr := transport(a.t.Endpoint)
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		return hub.Wrap(hub.Unavailable, "archive files", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil
	}
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: at, Method: zip.Deflate, Modified: modified})
	if err != nil {
		return hub.Wrap(hub.Internal, "archive files", err)
	}
	n, err := io.Copy(w, io.LimitReader(res.Body, a.left+1))
	if err != nil {
		return hub.Wrap(hub.Unavailable, "archive files", err)
	}
	if a.left -= n; a.left < 0 {
		return errTooMuch
	}
	return nil
}

// plainName tells whether a name is one step of a path, on every system.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\\:") && !strings.ContainsFunc(name, unicode.IsControl)
}

func escaped(p string) string { return (&url.URL{Path: p}).EscapedPath() }
