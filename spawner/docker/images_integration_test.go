//go:build integration

package docker

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"carrel/hub"
)

// TestHostileImage: what an image says of itself makes no difference (attack D/1).
func TestHostileImage(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	victim := idle(t, "bob")
	bobs := d.labels(d.containerName(victim.Key, 1), victim, "10.199.0.9", homeLoop)
	lines := []string{"USER 0", "VOLUME /data /tmp /home/jovyan/ /etc", "HEALTHCHECK --interval=1s CMD touch /tmp/probed", "STOPSIGNAL SIGCONT", "ENV CARREL_TOKEN=known HOME=/root", "WORKDIR /srv/hostile", "EXPOSE 22"}
	for k, v := range bobs {
		lines = append(lines, fmt.Sprintf("LABEL %s=%q", k, v))
	}
	// A volume over /etc hides the names of users; the image's own fault.
	img := buildImage(t, d, append(lines, "USER 0:0", `ENTRYPOINT ["/bin/false"]`, `CMD ["--help"]`)...)
	spec := idle(t, "alice")
	spec.Image = img
	h, st := start(t, d, spec)
	if st.Key != spec.Key || st.UserID != spec.UserID || st.Phase != hub.Ready {
		t.Errorf("it is %+v", st)
	}
	if out := python(t, d, h, `import os; print(os.getuid(), os.environ["CARREL_TOKEN"], os.environ["HOME"], os.path.ismount("/data"), os.path.ismount("/home/jovyan"))`); !strings.Contains(out, "1000 sesame-alice /home/jovyan True True") {
		t.Errorf("inside: %s", out)
	}
	c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), d.containerName(spec.Key, 1))
	if err != nil {
		t.Fatal(err)
	}
	if c.State.Health != nil {
		t.Errorf("the image's probe runs: %+v", c.State.Health)
	}
	for _, m := range c.Mounts {
		if m.Type == "volume" {
			t.Errorf("%s is on the disk", m.Destination)
		}
	}
	for p, b := range c.NetworkSettings.Ports {
		if len(b) > 0 {
			t.Errorf("port %s is published", p)
		}
	}
	begin := time.Now()
	stop(t, d, h)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("with a stop signal that stops nothing, it took %v", took)
	}

	// Somebody runs the image by hand, even under the name of bob's next server.
	name := d.containerName(victim.Key, 1)
	made, err := d.api.on(t.Context()).ContainerCreate(t.Context(), &container.Config{Image: img, Entrypoint: []string{"sleep", "1000"}}, &container.HostConfig{NetworkMode: "none"}, nil, nil, name)
	if err != nil {
		t.Fatal(err)
	}
	defer d.api.on(context.Background()).ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}) // seen at the end
	if err := d.api.on(t.Context()).ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	// By its name and labels it is authentic, as they were copied from an authentic one: so they were
	// written for this very name. Under any other it is nobody's.
	if err := d.api.on(t.Context()).ContainerRename(t.Context(), made.ID, name+"0"); err != nil {
		t.Fatal(err)
	}
	for st, err := range d.List(t.Context()) {
		t.Errorf("adopted: %+v, %v", st, err)
	}
	forged := d.handle(name + "0")
	if st, err := d.Inspect(t.Context(), forged); err != nil || st.Phase != hub.Absent {
		t.Errorf("inspected: %+v, %v", st, err)
	}
	stop(t, d, forged)
	if c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), made.ID); err != nil || !c.State.Running {
		t.Errorf("a container that is not ours was stopped: %v", err)
	}
	victim.Generation = 10
	other := d.containerName(victim.Key, victim.Generation)
	if err := d.api.on(t.Context()).ContainerRename(t.Context(), made.ID, other); err != nil {
		t.Fatal(err)
	}
	if h, err := d.Start(t.Context(), victim); hub.KindOf(err) != hub.Conflict {
		t.Errorf("under the name of another's container: %s, %v", h.Data, err)
	}
	t.Attr("seen-0", "its volumes, probe, user, token and labels count for nothing; a container run from it by hand is nobody's")
}

// TestDockerStacksShape: an image as Jupyter's own docker-stacks make them: user 1000 in group 100, an
// entry point of its own, jupyter on the path, and nothing of Carrel's.
func TestDockerStacksShape(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	spec.Image = buildImage(t, d, "USER 0",
		`RUN printf '#!/bin/bash\n# run hooks, then the command\nset -e\necho "Entered start.sh with args: $*"\nexec "$@"\n' > /usr/local/bin/start.sh && chmod 755 /usr/local/bin/start.sh`,
		`RUN printf '#!/bin/bash\nexec start.sh jupyter lab\n' > /usr/local/bin/start-notebook.sh && chmod 755 /usr/local/bin/start-notebook.sh`,
		"LABEL "+kernelLabel+"=", "ENV NB_USER=jovyan NB_UID=1000 NB_GID=100 JUPYTER_PORT=8888", "HEALTHCHECK CMD false", "EXPOSE 8888",
		`ENTRYPOINT ["tini", "-g", "--", "start.sh"]`, `CMD ["start-notebook.sh"]`, "USER 1000", "WORKDIR /home/jovyan")
	spec.GID = 100
	h, st := start(t, d, spec)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api", "", http.StatusOK)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api/contents", "", http.StatusForbidden)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api/contents", "wrong", http.StatusForbidden)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api/contents", spec.Token.Reveal(), http.StatusOK)
	get(t, d, h, st.Endpoint.String()+"/api", "", http.StatusNotFound)
	if out, code := run(t, d, h, "sh", "-c", "id -u; id -g; echo x > /home/jovyan/work && cat /home/jovyan/work"); out != "1000\n100\nx\n" || code != 0 {
		t.Errorf("inside: %s", out)
	}
	if lines, err := d.Logs(t.Context(), h, 100); err != nil || !strings.Contains(strings.Join(lines, "\n"), "Entered start.sh") {
		t.Errorf("the image's entry point was passed by: %q, %v", lines, err)
	}
}

// registry serves images on loopback.
func registry(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	conf := filepath.Join(dir, "config.yml")
	text := "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: " + dir + "/data}}\nhttp: {addr: " + address + "}\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", conf) // Debian's package of that name
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "the registry answers", func() bool {
		res, err := http.Get("http://" + address + "/v2/")
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == http.StatusOK
	})
	return address
}

// waiter is a program that needs no image around it.
func waiter(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nimport \"time\"\n\nfunc main() { time.Sleep(time.Hour) }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "wait"), filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "wait"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestPull: an image that is not here is fetched once for all who wait, and they are told in percent
// how far it is.
func TestPull(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	address := registry(t)
	files := map[string][]byte{"Dockerfile": []byte("FROM scratch\nCOPY wait /bin/wait\nCOPY ballast1 /\nCOPY ballast2 /\n"), "wait": waiter(t)}
	for _, name := range []string{"ballast1", "ballast2"} {
		files[name] = make([]byte, 25<<20)
		_, _ = rand.Read(files[name])
	}
	local := buildFrom(t, d, files)
	ref := address + "/" + local
	if err := d.api.on(t.Context()).ImageTag(t.Context(), local, ref); err != nil {
		t.Fatal(err)
	}
	push, err := d.api.on(t.Context()).ImagePush(t.Context(), ref, image.PushOptions{RegistryAuth: "e30="})
	if err != nil {
		t.Fatal(err)
	}
	if err := eachEvent(push, func(event) {}); err != nil {
		t.Fatal(err)
	}
	removeImage(t, d, ref)
	removeImage(t, d, local)
	t.Cleanup(func() { removeImage(t, d, ref) })

	var mu sync.Mutex
	told := map[string][]hub.Progress{}
	var wg sync.WaitGroup
	for _, user := range []string{"alice", "bob"} {
		spec := idle(t, user)
		spec.Image, spec.Command = ref, []string{"/bin/wait"}
		spec.Progress = func(p hub.Progress) { mu.Lock(); defer mu.Unlock(); told[user] = append(told[user], p) }
		wg.Go(func() {
			if h, err := d.Start(t.Context(), spec); err != nil {
				t.Errorf("%s: %v", user, err)
			} else if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Ready {
				t.Errorf("%s: %+v, %v", user, st, err)
			}
		})
	}
	wg.Wait()
	for user, steps := range told {
		last, images := 0, map[int]bool{}
		for _, p := range steps {
			if p.Percent < last {
				t.Errorf("%s was told of %d %%, then of %d", user, last, p.Percent)
			}
			last = p.Percent
			if p.Step == "image" {
				images[p.Percent] = true
				if p.Percent > 20 || !strings.HasPrefix(p.Detail, "layer ") {
					t.Errorf("%s was told %+v", user, p)
				}
			}
		}
		if len(images) < 3 {
			t.Errorf("%s was told of the image at %v", user, images)
		}
	}
}

func TestPullFaults(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	address := registry(t)
	for _, ref := range []string{address + "/no/such:1", "127.0.0.1:1/refused:1", "Not A Name", ""} {
		spec := idle(t, "alice")
		spec.Image = ref
		h, err := d.Start(t.Context(), spec)
		if hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "image" {
			t.Errorf("%q: %s, %v", ref, h.Data, err)
		}
		if m, remedy := hub.Public(err); remedy == "" || !strings.Contains(m, ref) {
			t.Errorf("%q: told %q, %q", ref, m, remedy)
		}
	}
	// A registry that never answers: whoever waits can leave.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	spec := idle(t, "alice")
	spec.Image = l.Addr().String() + "/slow:1"
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := d.Start(ctx, spec); hub.KindOf(err) != hub.Unavailable {
		t.Errorf("a wait that ran out: %v", err)
	}
	done := make(chan struct{})
	d.pulls.mu.Lock()
	p := d.pulls.now[spec.Image]
	d.pulls.mu.Unlock()
	if p == nil {
		t.Fatal("the pull ended with its caller")
	}
	go func() { <-p.done; close(done) }()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("a pull outlives the driver")
	}
}

// TestRunImage inside the walls: no network, nothing to write but memory.
func TestRunImage(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	out, err := d.RunImage(t.Context(), testImage(t), []string{"sh", "-c", "id -u; ls /sys/class/net; touch /x 2>&1 | grep -c Read-only; echo $A; echo hidden >&2"}, []string{"A=b c"})
	if err != nil || string(out) != "1000\nlo\n1\nb c\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := d.RunImage(t.Context(), testImage(t), []string{"sh", "-c", "echo why >&2; exit 4"}, nil); err == nil || !strings.Contains(err.Error(), "exit code 4: why") {
		t.Errorf("a failure: %v", err)
	}
	if _, present, err := d.ImageLabels(t.Context(), "carrel-test/none:1"); err != nil || present {
		t.Errorf("an image that is not here: %v, %v", present, err)
	}
	if l, present, err := d.ImageLabels(t.Context(), testImage(t)); err != nil || !present || l[kernelLabel] == "" {
		t.Errorf("ours: %v, %v, %v", l, present, err)
	}
	if err := d.ImportImage(t.Context(), "carrel-test/torn:1", io.LimitReader(strings.NewReader("no tar"), 6)); err == nil {
		t.Error("an image was made of no tar")
		_, _ = d.api.on(context.Background()).ImageRemove(context.Background(), "carrel-test/torn:1", image.RemoveOptions{Force: true})
	}
}
