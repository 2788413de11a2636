//go:build integration

package docker

import "testing"

// TestSlotStock: what is ready is counted with the memory that it takes, and what is claimed no more.
func TestSlotStock(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	keep(t, d, spec, 2)
	stock, err := d.SlotStock(t.Context())
	if err != nil || stock.Ready != 2 || stock.Memory < 2*30<<20 || stock.Memory > 2*spec.Limits.Memory {
		t.Errorf("%d slots use %d MiB, %v", stock.Ready, stock.Memory>>20, err)
	}
	claimOne(t, d, spec)
	if stock, err := d.SlotStock(t.Context()); err != nil || stock.Ready != 1 {
		t.Errorf("after a claim %d are ready, %v", stock.Ready, err)
	}
}
