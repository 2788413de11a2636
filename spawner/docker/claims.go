package docker

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"carrel/hub"
)

// A claimed slot carries the labels that it was made with: Docker can't change them. Whose it is says
// a record in a directory that no container sees, made before the container is renamed to the
// server's name; the name stays the lock. A record without its mark tells that the claim never came
// to its end: such a container is nobody's server, and goes.

// claim is the record of a claimed slot.
type claim struct {
	Name       string         `json:"name"` // the container's, once it is the server's
	User       string         `json:"user"`
	Server     string         `json:"server"`
	Generation hub.Generation `json:"generation"`
	UserID     hub.UserID     `json:"user_id"`
	Profile    string         `json:"profile"`
	Home       string         `json:"home"` // its kind
}

type storedClaim struct {
	claim

	MAC string `json:"mac"`
}

// slotID is random; it is part of paths and names.
var slotForm = regexp.MustCompile(`^[0-9a-f]{16}$`)

func (d *Driver) slotsDir() string { return filepath.Join(d.cfg.StateDir, "slots") }

// slotDir is a slot's own directory. What is in it is this driver's: the mount point of the home, the
// directory of the control socket, which the container sees and can't write, the server's socket, the
// claim's record and its mark.
func (d *Driver) slotDir(id string) string { return filepath.Join(d.slotsDir(), id) }

func (d *Driver) slotFile(id, name string) string { return filepath.Join(d.slotDir(id), name) }

// The names in a slot's directory.
const (
	slotControlDir = "control"
	slotControl    = "control/control.sock"
	slotHome       = "home"
	slotServer     = "server.sock"
	slotRecord     = "claim.json"
	slotClaimed    = "claimed"
)

func claimParts(id string, c claim) []string {
	raw, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and a number
	}
	return []string{"claim", id, string(raw)}
}

func (d *Driver) writeClaim(id string, c claim) error {
	raw, err := json.Marshal(storedClaim{c, d.cfg.Keyring.LabelMAC(claimParts(id, c)...)})
	if err == nil {
		err = writeFile(d.slotFile(id, slotRecord), raw)
	}
	return hub.Wrap(hub.Unavailable, "docker: record claim", err)
}

// readClaim gives a slot's record; fs.ErrNotExist when it was never claimed.
func (d *Driver) readClaim(id string) (claim, error) {
	if !slotForm.MatchString(id) {
		return claim{}, fs.ErrNotExist
	}
	raw, err := os.ReadFile(d.slotFile(id, slotRecord))
	if err != nil {
		return claim{}, err
	}
	var c storedClaim
	if err := json.Unmarshal(raw, &c); err != nil || !d.cfg.Keyring.CheckLabelMAC(c.MAC, claimParts(id, c.claim)...) {
		return claim{}, errors.New("the record of a claim was changed by something else than Carrel")
	}
	return c.claim, nil
}

// claimed tells whether a claim came to its end: the slot has said that it is the server.
func (d *Driver) claimed(id string) bool {
	_, err := os.Lstat(d.slotFile(id, slotClaimed))
	return err == nil
}

// slotLabels are what a slot is made with: enough to find it again, and what it was made for.
func (d *Driver) slotLabels(id, shape, address string) map[string]string {
	return map[string]string{
		labelDeployment: d.cfg.Deployment, labelSlot: id, labelShape: shape, labelAddress: address,
		labelMAC: d.cfg.Keyring.LabelMAC(slotParts(id, shape, address)...),
	}
}

func slotParts(id, shape, address string) []string { return []string{"slot", id, shape, address} }

// isSlot checks the labels of a container that was made as a slot, claimed or not.
func (d *Driver) isSlot(l map[string]string) bool {
	return l[labelDeployment] == d.cfg.Deployment && slotForm.MatchString(l[labelSlot]) &&
		d.cfg.Keyring.CheckLabelMAC(l[labelMAC], slotParts(l[labelSlot], l[labelShape], l[labelAddress])...)
}

// readSlot tells whose server a slot became; ok is false for one that nobody claimed.
func (d *Driver) readSlot(name string, l map[string]string) (identity, bool) {
	if !d.isSlot(l) {
		return identity{}, false
	}
	c, err := d.readClaim(l[labelSlot])
	if err != nil || c.Name != name {
		return identity{}, false
	}
	key, err := hub.ParseServerKey(c.User, c.Server)
	if err != nil {
		return identity{}, false
	}
	return identity{key: key, gen: c.Generation, userID: c.UserID, profile: c.Profile, address: l[labelAddress], home: c.Home, slot: l[labelSlot]}, true
}
