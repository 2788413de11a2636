package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"
	"golang.org/x/sys/unix"

	"carrel/hub"
)

// Home is what is known of a home. Numbers are -1 where they are not known.
type Home struct {
	ID         hub.UserID   `json:"id"`
	User       hub.UserName `json:"user"` // zero: no name is bound to it
	Kind       string       `json:"kind"`
	Place      string       `json:"place"` // file, volume or directory
	Size       int64        `json:"size"`  // bytes that it may hold
	Used       int64        `json:"used"`  // of them
	Inodes     int64        `json:"inodes"`
	InodesUsed int64        `json:"inodes_used"`
	Servers    []HomeServer `json:"servers"`          // that have it
	Written    time.Time    `json:"written,omitzero"` // last; zero: not known
	Work       string       `json:"work,omitempty"`   // what is being done to it, or was when that was cut off
	Former     bool         `json:"former,omitempty"` // the person has another one by now, of another kind
}

// HomeServer is a server with a home.
type HomeServer struct {
	Server string `json:"server"` // as "alice/gpu"; the container's name where its labels are not ours
	State  string `json:"state"`
}

// Homes lists every home, ordered by name and then by id.
func (d *Driver) Homes(ctx context.Context) ([]Home, error) {
	names, err := d.boundNames()
	if err != nil {
		return nil, err
	}
	list, err := d.homes.list(ctx)
	if err != nil {
		return nil, err
	}
	all, err := d.labelled(ctx)
	if err != nil {
		return nil, err
	}
	users := map[hub.UserID][]container.Summary{}
	for _, c := range all {
		if id := d.homeIn(c); id != "" {
			users[id] = append(users[id], c)
		}
	}
	for i := range list {
		h := &list[i]
		h.User = names[h.ID]
		kind, err := d.homes.kindOf(ctx, h.ID)
		if err != nil {
			return nil, err
		}
		if h.Former = h.Kind != kind; h.Former {
			h.Servers = []HomeServer{}
			continue
		}
		h.Servers = d.serversOf(users[h.ID])
		if n, err := d.homes.readNote(h.ID); err == nil {
			h.Work = n.Doing
		}
	}
	slices.SortFunc(list, func(a, b Home) int {
		return cmp.Or(strings.Compare(a.User.String(), b.User.String()), strings.Compare(string(a.ID), string(b.ID)))
	})
	return list, nil
}

// boundNames reads every binding; one that was changed by something else is nobody's.
func (d *Driver) boundNames() (map[hub.UserID]hub.UserName, error) {
	files, err := os.ReadDir(filepath.Join(d.cfg.StateDir, "bindings"))
	if err != nil && !os.IsNotExist(err) {
		return nil, hub.Wrap(hub.Unavailable, "read bindings", err)
	}
	names := map[hub.UserID]hub.UserName{}
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(d.cfg.StateDir, "bindings", f.Name()))
		var b storedBinding
		if err == nil && json.Unmarshal(raw, &b) == nil && b.Name.Label()+".json" == f.Name() && d.cfg.Keyring.CheckLabelMAC(b.MAC, bindingParts(b.Binding)...) {
			names[b.UserID] = b.Name
		}
	}
	return names, nil
}

// homeIn is whose home a container has by its labels, or its record where it was a slot; "" for none.
func (d *Driver) homeIn(c container.Summary) hub.UserID {
	if slot := c.Labels[labelSlot]; slot != "" {
		claim, err := d.readClaim(slot)
		if err != nil || claim.Home == "" {
			return ""
		}
		return claim.UserID
	}
	if c.Labels[labelHome] == "" {
		return ""
	}
	return hub.UserID(c.Labels[labelUserID])
}

func (d *Driver) serversOf(containers []container.Summary) []HomeServer {
	list := []HomeServer{}
	for _, c := range containers {
		name := strings.TrimPrefix(strings.Join(c.Names, ","), "/")
		if len(c.Names) == 1 {
			if id, ours := d.read(c.Names[0], c.Labels); ours {
				name = id.key.String()
			}
		}
		list = append(list, HomeServer{name, c.State})
	}
	slices.SortFunc(list, func(a, b HomeServer) int { return strings.Compare(a.Server, b.Server) })
	return list
}

// list finds the homes of every kind, whichever is configured.
func (h *homes) list(ctx context.Context) ([]Home, error) {
	list := []Home{}
	images, _ := filepath.Glob(h.image("*"))
	for _, img := range images {
		if id := hub.UserID(strings.TrimSuffix(filepath.Base(img), ".img")); wellFormed(id) {
			list = append(list, h.describeLoop(ctx, id))
		}
	}
	dirs, err := h.directories()
	if err != nil {
		return nil, err
	}
	for _, x := range dirs {
		list = append(list, Home{ID: x.ID, Kind: homeBind, Place: x.path(), Size: -1, Used: -1, Inodes: -1, InodesUsed: -1})
	}
	vols, err := h.api.on(ctx).VolumeList(ctx, volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelDeployment+"="+h.cfg.Deployment))})
	if err != nil {
		return nil, fail("list homes", err)
	}
	var used map[string]int64
	for _, v := range vols.Volumes {
		id := hub.UserID(v.Labels[labelUserID])
		if !wellFormed(id) || v.Name != h.volume(id) || !h.cfg.Keyring.CheckLabelMAC(v.Labels[labelMAC], "volume", string(id)) {
			continue
		}
		if used == nil {
			used = h.volumeSizes(ctx)
		}
		home := Home{ID: id, Kind: homeVolume, Place: v.Name, Size: -1, Used: -1, Inodes: -1, InodesUsed: -1}
		if n, known := used[v.Name]; known {
			home.Used = n
		}
		list = append(list, home)
	}
	return list, nil
}

// countWithin is how long Docker may take to count what is in volumes.
const countWithin = time.Minute

// volumeSizes asks Docker, which counts, how much is in volumes; none is known where it does not answer.
func (h *homes) volumeSizes(ctx context.Context) map[string]int64 {
	sizes := map[string]int64{}
	ctx, done := context.WithTimeout(ctx, countWithin)
	defer done()
	usage, err := h.api.on(ctx).DiskUsage(ctx, types.DiskUsageOptions{Types: []types.DiskUsageObject{types.VolumeObject}})
	if err != nil {
		return sizes
	}
	for _, v := range usage.Volumes {
		if v.UsageData != nil && v.UsageData.Size >= 0 {
			sizes[v.Name] = v.UsageData.Size
		}
	}
	return sizes
}

// describeLoop reads how full an image is: of the kernel where it is mounted, else in its superblock.
func (h *homes) describeLoop(ctx context.Context, id hub.UserID) Home {
	home := Home{ID: id, Kind: homeLoop, Place: h.image(id), Size: -1, Used: -1, Inodes: -1, InodesUsed: -1}
	if info, err := os.Lstat(h.image(id)); err == nil {
		home.Size, home.Written = info.Size(), info.ModTime()
	}
	var st unix.Statfs_t
	if mounted(h.mountPoint(id)) && unix.Statfs(h.mountPoint(id), &st) == nil {
		home.Used, home.Inodes, home.InodesUsed = int64(st.Blocks-st.Bfree)*st.Bsize, int64(st.Files), int64(st.Files-st.Ffree)
		return home
	}
	awaitDetached(ctx, h.image(id)) // a file system that is being left writes its numbers last
	told, err := describeImage(ctx, h.image(id))
	if err != nil {
		return home
	}
	home.Used = (told["Block count"] - told["Overhead clusters"] - told["Free blocks"]) * told["Block size"]
	home.Inodes, home.InodesUsed = told["Inode count"], told["Inode count"]-told["Free inodes"]
	return home
}

// readSuperblock reads the numbers that dumpe2fs prints.
func readSuperblock(text string) map[string]int64 {
	told := map[string]int64{}
	for line := range strings.Lines(text) {
		field, value, _ := strings.Cut(line, ":")
		if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
			told[field] = n
		}
	}
	return told
}
