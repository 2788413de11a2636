package hubtest_test

import (
	"strings"
	"testing"

	"carrel/hub"
	"carrel/hub/hubtest"
)

func TestFakeSpawnerKeepsTheContract(t *testing.T) {
	hubtest.Spawner(t, hubtest.SpawnerSetup{
		Open: func(*testing.T) hub.Spawner {
			f := hubtest.NewSpawner()
			f.Plan(func(spec hub.Spec) hubtest.Plan {
				return hubtest.Plan{Dies: len(spec.Command) > 0, Reason: "exit code 3", Log: []string{"one", "two", strings.Repeat("x", 400), "farewell"}}
			})
			return f
		},
		Reopen: func(t *testing.T, d hub.Spawner) hub.Spawner {
			f, ok := d.(*hubtest.FakeSpawner)
			if !ok {
				t.Fatalf("reopen %T", d)
			}
			return f.Reopen()
		},
		Spec: func(t *testing.T, user string, does hubtest.Behaviour) hub.Spec {
			key, err := hub.ParseServerKey(user, "")
			if err != nil {
				t.Fatal(err)
			}
			spec := hub.Spec{Key: key, UserID: hub.UserID("u" + user), Profile: "small", Image: "image", BasePath: key.Path(), Token: hub.NewSecret("sesame-" + user)}
			if does == hubtest.Ends {
				spec.Command = []string{"fail"}
			}
			return spec
		},
	})
}
