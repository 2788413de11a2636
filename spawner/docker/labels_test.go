package docker

import (
	"encoding/json"
	"maps"
	"regexp"
	"strings"
	"testing"

	"carrel/hub"
)

func labelled(t *testing.T, d *Driver) (string, hub.Spec, map[string]string) {
	t.Helper()
	spec := hub.Spec{Key: key(t, "alice", "gpu"), Generation: 7, UserID: "uabc", Profile: "small", Home: "/home/jovyan"}
	name := d.containerName(spec.Key, spec.Generation)
	return name, spec, d.labels(name, spec, "10.201.0.5", homeLoop)
}

func TestLabelsTellWhoseAContainerIs(t *testing.T) {
	d := offline(t, "main")
	name, spec, l := labelled(t, d)
	for _, n := range []string{name, "/" + name} {
		id, ok := d.read(n, l)
		if want := (identity{key: spec.Key, gen: 7, userID: "uabc", profile: "small", address: "10.201.0.5", home: homeLoop}); !ok || id != want {
			t.Errorf("read %s: %+v, %v", n, id, ok)
		}
	}
	l["unrelated"] = "an image's own"
	if _, ok := d.read(name, l); !ok {
		t.Error("an image's own label makes ours worthless")
	}
}

// TestForgedLabels is attack D/1: whatever an image says of itself counts for nothing, and no
// authentic label counts anywhere but where it was written.
func TestForgedLabels(t *testing.T) {
	d := offline(t, "main")
	name, spec, good := labelled(t, d)
	other := spec
	other.Key = key(t, "bob", "")
	otherName := d.containerName(other.Key, other.Generation)
	bobs := d.labels(otherName, other, "10.201.0.6", homeLoop)
	change := func(k, v string) map[string]string { l := maps.Clone(good); l[k] = v; return l }
	cases := map[string]struct {
		name   string
		labels map[string]string
	}{
		"nothing":                   {name, nil},
		"no MAC":                    {name, change(labelMAC, "")},
		"garbage for a MAC":         {name, change(labelMAC, "zz")},
		"a cut MAC":                 {name, change(labelMAC, good[labelMAC][:32])},
		"upper case":                {name, change(labelMAC, strings.ToUpper(good[labelMAC]))},
		"another's MAC":             {name, change(labelMAC, bobs[labelMAC])},
		"another container's name":  {name + "0", good},
		"another's labels":          {name, bobs},
		"another's name":            {otherName, good},
		"of a network":              {name, change(labelMAC, d.cfg.Keyring.LabelMAC("network", name))},
		"of a volume":               {name, change(labelMAC, d.cfg.Keyring.LabelMAC("volume", "uabc"))},
		"another deployment's":      {name, offline(t, "other").labels(name, spec, "10.201.0.5", homeLoop)},
		"a part moved to the next":  {name, func() map[string]string { l := change(labelUser, "alicegpu"); l[labelServer] = ""; return l }()},
		"another generation's":      {name, change(labelGeneration, "8")},
		"with a sign":               {name, change(labelGeneration, "+7")},
		"an address of the gateway": {name, change(labelAddress, "10.201.0.1")},
	}
	for _, k := range macedLabels {
		cases["changed "+k] = struct {
			name   string
			labels map[string]string
		}{name, change(k, "x")}
		l := maps.Clone(good)
		delete(l, k)
		cases["without "+k] = struct {
			name   string
			labels map[string]string
		}{name, l}
	}
	for what, c := range cases {
		if id, ok := d.read(c.name, c.labels); ok {
			t.Errorf("%s: taken for %+v", what, id)
		}
	}
}

var dockerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

func FuzzContainerName(f *testing.F) {
	f.Add("alice", "", uint64(1), "alice", "g1", uint64(1))
	f.Add("a", "b", uint64(11), "a", "b", uint64(1))
	f.Add("a-b", "", uint64(1), "a", "b", uint64(1))
	f.Add(strings.Repeat("x", 200), "", uint64(1), strings.Repeat("x", 201), "", uint64(1))
	keys, err := hub.NewKeyring("main", []byte(strings.Repeat("k", 32)))
	if err != nil {
		f.Fatal(err)
	}
	d := &Driver{cfg: Config{Deployment: "main", Keyring: keys}}
	f.Fuzz(func(t *testing.T, u1, s1 string, g1 uint64, u2, s2 string, g2 uint64) {
		k1, err1 := hub.ParseServerKey(u1, s1)
		k2, err2 := hub.ParseServerKey(u2, s2)
		if err1 != nil || err2 != nil {
			return
		}
		a, b := d.containerName(k1, hub.Generation(g1)), d.containerName(k2, hub.Generation(g2))
		if (a == b) != (k1 == k2 && g1 == g2) {
			t.Errorf("%v %d is %s, and %v %d is %s", k1, g1, a, k2, g2, b)
		}
		if !dockerName.MatchString(a) || len(a) > 128 {
			t.Errorf("Docker takes no %q for a name", a)
		}
		if len(u1) > 5 && !strings.Contains("carrel-main", u1) && strings.Contains(a, u1) {
			t.Errorf("%s tells of %s", a, u1)
		}
	})
}

func FuzzHandle(f *testing.F) {
	d := &Driver{cfg: Config{Deployment: "main"}}
	good, err := json.Marshal(d.handle("carrel-main-abc-g1"))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(good), "{}", `{"driver":"docker","version":1,"data":{"name":""}}`, `{"driver":"docker","version":2,"data":{"name":"x"}}`, `{"driver":"docker","version":1,"data":{"name":"../containers/json"}}`, `{"driver":"docker","version":1,"data":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var h hub.Handle
		if json.Unmarshal(raw, &h) != nil {
			return
		}
		name, err := d.open(h)
		if err != nil {
			if hub.KindOf(err) != hub.Invalid || name != "" {
				t.Errorf("%s: %q, %v", raw, name, err)
			}
			return
		}
		// The name is part of a path of Docker's interface.
		if !dockerName.MatchString(name) {
			t.Errorf("%s gives the name %q", raw, name)
		}
		if again, err := d.open(d.handle(name)); err != nil || again != name {
			t.Errorf("%q comes back as %q, %v", name, again, err)
		}
	})
}
