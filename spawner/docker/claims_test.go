package docker

import (
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/mount"

	"carrel/hub"
)

// A slot has the walls of the server that it may become, and nothing of a person's: no token, no
// address, no home yet, and of the host a directory more, which it can't write.
func TestSlotWalls(t *testing.T) {
	cold := wanted(t)
	_, wall, _ := walls(cold)
	w := cold
	w.control, w.network, w.address, w.resolver, w.resolvConf = "/state/slots/1/control", "none", netip.Addr{}, "", ""
	w.home = slotHomeMount(w.spec, "/state/slots/1/home")
	cfg, host, ends := walls(w)
	if !slices.Equal(cfg.Env, []string{"HOME=/home/jovyan"}) || !slices.Equal(cfg.Cmd, []string{"carrel-slot"}) || ends != nil {
		t.Errorf("a slot is made with %q, %q, %v", cfg.Env, cfg.Cmd, ends)
	}
	want := []mount.Mount{
		{Type: mount.TypeBind, Source: "/state/slots/1/control", Target: "/run/carrel", ReadOnly: true, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}},
		{Type: mount.TypeBind, Source: "/state/slots/1/home", Target: "/home/jovyan", BindOptions: &mount.BindOptions{Propagation: mount.PropagationRSlave}},
		{Type: mount.TypeBind, Source: "/srv/data", Target: "/data", ReadOnly: true, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}},
	}
	if !reflect.DeepEqual(host.Mounts, want) {
		t.Errorf("its mounts are %+v", host.Mounts)
	}
	host.Mounts, host.NetworkMode, host.DNS = wall.Mounts, wall.NetworkMode, wall.DNS
	if !reflect.DeepEqual(host, wall) {
		t.Errorf("its other walls are %+v, a server's %+v", host, wall)
	}
}

// The record of a claim counts only with our MAC, for its own slot and under its own name.
func TestClaimRecords(t *testing.T) {
	d := offline(t, "main")
	const id, name = "0123456789abcdef", "carrel-main-abc-g7"
	l := d.slotLabels(id, "shape", "")
	if _, ok := d.read(d.slotName(id), l); ok {
		t.Error("a slot that nobody claimed is a server")
	}
	c := claim{Name: name, User: "alice", Generation: 7, UserID: "ualice", Profile: "small", Home: homeLoop}
	if err := d.writeClaim(id, c); err != nil {
		t.Fatal(err)
	}
	got, ok := d.read("/"+name, l)
	if want := (identity{key: key(t, "alice", ""), gen: 7, userID: "ualice", profile: "small", home: homeLoop, slot: id}); !ok || got != want {
		t.Errorf("read: %+v, %v", got, ok)
	}
	if !d.slotHasHome(id, "ualice") || d.slotHasHome(id, "ubob") {
		t.Error("whose home it has is told wrongly")
	}
	for what, try := range map[string]func() (string, map[string]string){
		"another name":         func() (string, map[string]string) { return "carrel-main-abc-g8", l },
		"the name of before":   func() (string, map[string]string) { return d.slotName(id), l },
		"another slot's":       func() (string, map[string]string) { return name, d.slotLabels("fedcba9876543210", "shape", "") },
		"labels without MAC":   func() (string, map[string]string) { return name, changed(l, labelMAC, "") },
		"another shape":        func() (string, map[string]string) { return name, changed(l, labelShape, "other") },
		"a path for an id":     func() (string, map[string]string) { return name, changed(l, labelSlot, "../../etc") },
		"another deployment":   func() (string, map[string]string) { return name, changed(l, labelDeployment, "other") },
		"labels of an image's": func() (string, map[string]string) { return name, changed(l, labelAddress, "10.0.0.1") },
	} {
		n, labels := try()
		if got, ok := d.read(n, labels); ok {
			t.Errorf("%s: read as %+v", what, got)
		}
	}
	if err := writeFile(d.slotFile(id, slotRecord), []byte(`{"name":"`+name+`","user":"bob","generation":7,"user_id":"ubob","mac":"x"}`)); err != nil {
		t.Fatal(err)
	}
	if got, ok := d.read(name, l); ok {
		t.Errorf("a record without our MAC: %+v", got)
	}
	if !d.slotHasHome(id, hub.UserID("anybody")) {
		t.Error("a record that can't be trusted frees a home")
	}
}

func changed(l map[string]string, k, v string) map[string]string {
	c := maps.Clone(l)
	c[k] = v
	return c
}

// The directory of a slot goes name by name: what is not ours in it stays, and is told.
func TestClearSlotSparesWhatIsNotOurs(t *testing.T) {
	d := offline(t, "main")
	const id = "0123456789abcdef"
	if err := writeFile(d.slotFile(id, slotHome)+"/mine.txt", []byte("of alice")); err != nil {
		t.Fatal(err)
	}
	if err := d.clearSlot(id); err == nil || !strings.Contains(err.Error(), "home") {
		t.Errorf("clearing gives %v", err)
	}
	if raw, err := os.ReadFile(d.slotFile(id, slotHome) + "/mine.txt"); err != nil || string(raw) != "of alice" {
		t.Errorf("the file is %q, %v", raw, err)
	}
}
