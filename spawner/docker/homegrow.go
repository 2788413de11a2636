package docker

import (
	"context"
	"os"

	"github.com/docker/go-units"

	"carrel/hub"
)

// maxHome is the largest file that ext4 holds, which an image may have to be on.
const maxHome = 16 << 40

// GrowHome makes a home hold so many bytes. Under servers that run the kernel may refuse it, as without the
// capability SYS_RESOURCE; now is false then, and it grows when the next server starts. Invalid for a kind
// of home that has no size of its own and for one that is larger already; NotFound where there is none.
func (d *Driver) GrowHome(ctx context.Context, id hub.UserID, size int64) (now bool, err error) {
	return d.homes.grow(ctx, id, size)
}

func (h *homes) grow(ctx context.Context, id hub.UserID, size int64) (now bool, err error) {
	const op = "docker: grow home"
	release, err := h.take(ctx, id, "")
	if err != nil {
		return false, err
	}
	defer release()
	kind, exists, err := h.exists(ctx, id)
	switch {
	case err != nil:
		return false, err
	case kind != homeLoop:
		return false, &hub.Error{
			Kind: hub.Invalid, Op: op, Message: "homes of the kind " + kind + " have no size of their own", Remedy: "only the kind loop can grow; a home here is as large as what it is on",
		}
	case !exists:
		return false, orNoHome(nil)
	}
	info, err := os.Stat(h.image(id))
	switch {
	case err != nil:
		return false, homeFault("find home", err)
	case size < info.Size():
		return false, &hub.Error{Kind: hub.Invalid, Op: op, Field: "size", Message: "this home is larger already: " + units.BytesSize(float64(info.Size())), Remedy: "homes do not shrink; export it, and import it into a new one"}
	case size > maxHome:
		return false, &hub.Error{Kind: hub.Invalid, Op: op, Field: "size", Message: "a home holds 16TiB at most", Remedy: "give something like 10GiB"}
	}
	if !hasRoom(h.image(id)) {
		return false, errDiskFull
	}
	if mounted(h.mountPoint(id)) {
		return h.growUnderServers(ctx, id, size)
	}
	if loop := awaitDetached(ctx, h.image(id)); loop != "" {
		return false, &hub.Error{Kind: hub.Conflict, Op: op, Message: "the home is attached at " + loop + ", and not mounted where this process sees it", Remedy: "stop its servers first, or run this where the hub runs"}
	}
	if err := checkFileSystem(ctx, h.image(id)); err != nil {
		return false, err
	}
	return true, growFileSystem(ctx, h.image(id), size)
}

// growUnderServers grows a home that is mounted. What the kernel refuses is done before the next mount: the
// mark tells of it.
func (h *homes) growUnderServers(ctx context.Context, id hub.UserID, size int64) (now bool, err error) {
	if err := enlarge(h.image(id), size); err != nil {
		return false, homeFault("grow home", err)
	}
	if err := growMounted(ctx, h.image(id)); err != nil {
		h.cfg.Logger.WarnContext(ctx, "home not grown under its servers; it grows at the next start", "user_id", id, "error", err)
		return false, nil
	}
	return true, nil
}
