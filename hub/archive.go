package hub

import (
	"context"
	"io"
)

// Archiver is implemented by clients of servers that can give all of one's files.
type Archiver interface {
	// Archive writes the files that a person sees as a ZIP archive, of at most limit bytes before they are
	// packed; TooMany beyond that. What was written by then is no whole archive.
	Archive(ctx context.Context, t Target, w io.Writer, limit int64) error
}

// archiveLimit is for a home without a size.
const archiveLimit = 1 << 30

// Archive writes a running server's files as a ZIP archive; a paused one is woken. Conflict when it does
// not run.
func (m *Manager) Archive(ctx context.Context, key ServerKey, w io.Writer) error {
	const op = "archive files"
	from, ok := m.cfg.Notebook.(Archiver)
	rec, err := m.Server(ctx, key)
	if err == nil && rec.Phase == Paused {
		rec, err = m.Wake(ctx, key)
	}
	switch {
	case err != nil:
		return err
	case !ok || rec.Phase != Ready:
		return &Error{Kind: Conflict, Op: op, Message: "this server is not running", Remedy: "open it, then try again"}
	}
	limit := int64(archiveLimit)
	for _, p := range m.cfg.Policy().Profiles {
		if p.Name == rec.Profile && p.Limits.Disk > 0 {
			limit = 2 * p.Limits.Disk // sparse files and the like
		}
	}
	return from.Archive(ctx, m.target(rec, rec.Endpoint), w, limit)
}
