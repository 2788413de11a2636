package kernelimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"time"

	"carrel/hub"
)

//go:embed Dockerfile requirements.lock ca/README carrel_server/*.py carrel_slot/*.py config settings labextension smoke/smoke.ipynb smoke/smoke.py
var files embed.FS

// DefaultBase is what the image is made from where a registry answers; where none does, Debian's
// own mirror gives the same ([BaseFromMmdebstrap]).
const DefaultBase = "debian:bookworm-slim"

// EnvironmentLabel is the label that holds what is in a built image, as [Environment] in JSON.
const EnvironmentLabel = "dev.carrel.environment"

// Options say how an image is to be built. The zero value builds the default image.
type Options struct {
	Base         string            // the image to start from; empty: DefaultBase, by registry or mmdebstrap
	Tag          string            // the name of the result; empty: made from the content, see [Options.Name]
	ExtraCA      []byte            // PEM: certificates to trust while building, for sites behind a proxy that inspects TLS
	TrustExtraCA bool              // trust them in the image, too
	Args         map[string]string // for the build alone: pip's index, proxies
	Dir          string            // where a base's tar is put meanwhile (0.2 GB); empty: the system's temporary directory
	Rebuild      bool              // build although the image is present, and fetch a base made here anew
}

func (o Options) base() string {
	if o.Base == "" {
		return DefaultBase
	}
	return o.Base
}

// Name is the tag of the image that these options build. It follows the content: when anything that
// goes in changes, so does the name, and an image that is present under it is the right one.
func (o Options) Name() string {
	if o.Tag != "" {
		return o.Tag
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", o.base())
	if o.TrustExtraCA {
		fmt.Fprintf(h, "%x\n", sha256.Sum256(o.ExtraCA))
	}
	for name, content := range contextFiles() {
		fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(content))
	}
	return "carrel/kernel:" + hex.EncodeToString(h.Sum(nil))[:12]
}

// BuildArgs are the arguments of the build, without BASE_IMAGE.
func (o Options) BuildArgs() map[string]string {
	args := maps.Clone(o.Args)
	if args == nil {
		args = map[string]string{}
	}
	if o.TrustExtraCA {
		args["TRUST_EXTRA_CA"] = "yes"
	}
	return args
}

// Context is the build context as a tar. It is the same bytes for the same options.
func Context(opts Options) (io.Reader, error) {
	certificates, err := certificates(opts.ExtraCA)
	if err != nil {
		return nil, err
	}
	all := maps.Collect(contextFiles())
	for i, c := range certificates {
		all[fmt.Sprintf("ca/extra-%03d.crt", i)] = c
	}
	return tarOf(all)
}

// tarOf packs files in the order of their names.
func tarOf(contents map[string][]byte) (io.Reader, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(contents[name])), ModTime: epoch, Format: tar.FormatPAX}
		if err := errors.Join(w.WriteHeader(header), write(w, contents[name])); err != nil {
			return nil, hub.Wrap(hub.Internal, "make build context", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, hub.Wrap(hub.Internal, "make build context", err)
	}
	return &b, nil
}

func write(w io.Writer, content []byte) error {
	_, err := w.Write(content)
	return err
}

// epoch is when every file of the context was changed last: a checkout's own times say nothing.
var epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// contextFiles yields the embedded files in order of their names.
func contextFiles() iter.Seq2[string, []byte] {
	all := map[string][]byte{}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		all[name], err = files.ReadFile(name)
		return err
	})
	if err != nil {
		panic(err) // what is compiled in can be read
	}
	return func(yield func(string, []byte) bool) {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if !yield(name, all[name]) {
				return
			}
		}
	}
}

// certificates splits PEM into one text per certificate. Anything else in it, a private key above
// all, stays out of the context.
func certificates(bundle []byte) ([][]byte, error) {
	var found [][]byte
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" || block.Type == "TRUSTED CERTIFICATE" {
			found = append(found, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		}
	}
	if len(found) == 0 && len(bytes.TrimSpace(bundle)) > 0 {
		err := hub.Errorf(hub.Invalid, "read extra certificates", "there is no certificate in the file of extra certificates")
		err.Field, err.Remedy = "image.extra_ca_file", "Name a file of certificates in PEM form"
		return nil, err
	}
	return found, nil
}
