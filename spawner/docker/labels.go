package docker

import (
	"strconv"
	"strings"

	"carrel/hub"
)

// The labels of a container. Images can carry labels of their own, these among them, so none counts
// without labelMAC over all of them and the container's name.
const (
	labelDeployment = "dev.carrel.deployment"
	labelUser       = "dev.carrel.user"
	labelServer     = "dev.carrel.server"
	labelGeneration = "dev.carrel.generation"
	labelUserID     = "dev.carrel.user-id"
	labelProfile    = "dev.carrel.profile"
	labelAddress    = "dev.carrel.address"
	labelHome       = "dev.carrel.home"
	labelSlot       = "dev.carrel.slot-id" // of a slot, claimed or not; see claims.go
	labelShape      = "dev.carrel.shape"   // likewise
	labelRun        = "dev.carrel.run"     // of a run; see runs.go
	labelMAC        = "dev.carrel.mac"
)

var macedLabels = []string{labelDeployment, labelUser, labelServer, labelGeneration, labelUserID, labelProfile, labelAddress, labelHome}

// containerName is the lock on a generation of a server: Docker refuses a duplicate. Docker's own
// resolver, which no container can be kept from asking, tells each the names of those on its network;
// so the name says nothing about a person. `docker ps` shows that with the labels.
func (d *Driver) containerName(key hub.ServerKey, g hub.Generation) string {
	generation := strconv.FormatUint(uint64(g), 10)
	sum := d.cfg.Keyring.LabelMAC("container name", key.Label(), generation)
	return d.namePrefix() + sum[:nameDigits] + "-g" + generation
}

func (d *Driver) namePrefix() string { return "carrel-" + d.cfg.Deployment + "-" }

// nameDigits make 96 bits: no two servers of a deployment ever share a name.
const nameDigits = 24

func (d *Driver) labels(name string, spec hub.Spec, address, home string) map[string]string {
	l := map[string]string{
		labelDeployment: d.cfg.Deployment, labelUser: spec.Key.User.String(), labelServer: spec.Key.Server.String(),
		labelGeneration: strconv.FormatUint(uint64(spec.Generation), 10), labelUserID: string(spec.UserID),
		labelProfile: spec.Profile, labelAddress: address, labelHome: home,
	}
	l[labelMAC] = d.cfg.Keyring.LabelMAC(macParts(name, l)...)
	return l
}

func macParts(name string, l map[string]string) []string {
	parts := []string{"container", name}
	for _, k := range macedLabels {
		parts = append(parts, l[k])
	}
	return parts
}

// identity is what authentic labels say of a container.
type identity struct {
	key     hub.ServerKey
	gen     hub.Generation
	userID  hub.UserID
	profile string
	address string
	home    string
	slot    string // id of the slot that it was; "" for one that was started cold
}

// read checks a container's labels; ok is false for what is not this deployment's own.
func (d *Driver) read(name string, l map[string]string) (identity, bool) {
	name = strings.TrimPrefix(name, "/")
	if l[labelSlot] != "" {
		return d.readSlot(name, l)
	}
	if l[labelDeployment] != d.cfg.Deployment || !d.cfg.Keyring.CheckLabelMAC(l[labelMAC], macParts(name, l)...) {
		return identity{}, false
	}
	key, err := hub.ParseServerKey(l[labelUser], l[labelServer])
	if err != nil {
		return identity{}, false
	}
	g, err := strconv.ParseUint(l[labelGeneration], 10, 64)
	if err != nil {
		return identity{}, false
	}
	return identity{key: key, gen: hub.Generation(g), userID: hub.UserID(l[labelUserID]), profile: l[labelProfile], address: l[labelAddress], home: l[labelHome]}, true
}
