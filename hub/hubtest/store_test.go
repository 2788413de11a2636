package hubtest_test

import (
	"testing"

	"carrel/hub/hubtest"
)

func TestMemoryStoreKeepsTheContracts(t *testing.T) {
	hubtest.Stores(t, func(testing.TB) (hubtest.FullStore, func()) {
		s := hubtest.NewStore()
		return s, func() { s.Away(true); s.Away(false) }
	})
}
