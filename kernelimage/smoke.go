package kernelimage

import (
	"encoding/json"
	"maps"
	"slices"

	"carrel/hub"
)

// SmokeCommand executes a notebook inside the image and prints what came out.
func SmokeCommand() []string {
	return []string{"python3", "/usr/local/share/carrel/smoke/smoke.py"}
}

// SmokeResult is what SmokeCommand prints.
type SmokeResult struct {
	Printed         map[string]string   `json:"printed"` // by cell
	Kinds           map[string][]string `json:"kinds"`   // MIME types of what was shown, by cell
	UID             int                 `json:"uid"`
	Capabilities    uint64              `json:"capabilities"`
	NoNewPrivileges bool                `json:"no_new_privileges"`
	RootWritable    bool                `json:"root_writable"`
	Interfaces      []string            `json:"interfaces"`
}

// smokePrints is what the cells of smoke/smoke.ipynb must print.
var smokePrints = map[string]string{"product": "42", "numbers": "6", "table": "6", "science": "1.414214", "picture": "", "file": "kept"}

// CheckSmoke reads what SmokeCommand printed, and tells what is wrong with the image.
func CheckSmoke(output []byte) (SmokeResult, error) {
	bad := func(format string, args ...any) error {
		err := hub.Errorf(hub.Invalid, "test the image", format, args...)
		err.Remedy = "The image can't run notebooks: look at what you changed in its Dockerfile or lock file"
		return err
	}
	var r SmokeResult
	if err := json.Unmarshal(output, &r); err != nil {
		return r, bad("the test notebook gave no result: %w", err)
	}
	for _, cell := range slices.Sorted(maps.Keys(smokePrints)) {
		if got, ran := r.Printed[cell]; !ran || got != smokePrints[cell] {
			return r, bad("the test notebook's cell %q printed %q, not %q", cell, got, smokePrints[cell])
		}
	}
	if !slices.Contains(r.Kinds["picture"], "image/png") {
		return r, bad("the test notebook showed no picture")
	}
	if r.UID != 1000 {
		return r, bad("the image runs as user %d, not 1000", r.UID)
	}
	return r, nil
}
