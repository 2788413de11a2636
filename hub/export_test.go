package hub

import "context"

// ContainerEnded has the Manager hear of a container's end, as its watcher does.
func (m *Manager) ContainerEnded(ctx context.Context, st Status) { m.containerEnded(ctx, st) }

// Heed has the Manager hear of a record's change, as its events do.
func (m *Manager) Heed(rec Server) { m.heed(rec) }
