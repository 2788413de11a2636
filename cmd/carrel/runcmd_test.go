package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carrel/hub"
)

// script is what `carrel run` does with answers of a hub's, and of what poses as one.
func script(t *testing.T, o runFlags, stdin string, args []string, answer http.HandlerFunc) (out, errOut string, code int, err error) {
	t.Helper()
	server := httptest.NewServer(answer)
	defer server.Close()
	t.Setenv("CARREL_TOKEN", "sesame")
	o.url = server.URL + "/base/"
	var stdout, stderr bytes.Buffer
	code, err = runScript(t.Context(), &flags{}, o, args, strings.NewReader(stdin), &stdout, &stderr)
	return stdout.String(), stderr.String(), code, err
}

func TestRunAsks(t *testing.T) {
	var asked map[string]any
	calls := ""
	o := runFlags{memory: "64MiB", wallTime: "1m", cpuTime: "2s", limits: []string{"processes=8"}, stdin: true}
	file := filepath.Join(t.TempDir(), "script.py")
	if err := os.WriteFile(file, []byte("print(1)"), 0o600); err != nil {
		t.Fatal(err)
	}
	const id = "abcdefghijklmnopqrstuvwxyz"
	out, errOut, code, err := script(t, o, "\xff", []string{file, "-x", "y"}, func(w http.ResponseWriter, r *http.Request) {
		calls += r.Method + " " + r.URL.Path + "\n"
		if r.Header.Get("Authorization") != "token sesame" {
			t.Errorf("the token is %q", r.Header.Get("Authorization"))
		}
		if r.Method == http.MethodPost {
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
				t.Error(err)
			}
			w.WriteHeader(http.StatusAccepted)
			w.Write([]byte(`{"id":"` + id + `","status":"queued"}`))
			return
		}
		w.Write([]byte(`{"id":"` + id + `","status":"finished","exit_code":7,"stdout":"/w==","stdout_encoding":"base64","stderr":"aside","stderr_encoding":"utf-8"}`))
	})
	if err != nil || code != 7 || out != "\xff" || errOut != "aside" {
		t.Errorf("%q, %q, %d, %v", out, errOut, code, err)
	}
	if calls != "POST /base/hub/api/runs\nGET /base/hub/api/runs/"+id+"\n" {
		t.Errorf("it called\n%s", calls)
	}
	raw, err := json.Marshal(asked)
	if want := `{"argv":["-x","y"],"code":"print(1)","limits":{"cpu_seconds":2,"memory":67108864,"processes":8,"wall_seconds":60},"stdin":"/w==","stdin_encoding":"base64","wait_seconds":50}`; err != nil || string(raw) != want {
		t.Errorf("it asked for %s, %v", raw, err)
	}
}

// Whatever answers, a program that was not run to its end is not taken for one that was.
func TestRunOfFalseAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		code   int // 0: an error
	}{
		"a limit":              {201, `{"status":"memory","stdout":"so far"}`, limitCode},
		"no exit code":         {201, `{"status":"finished"}`, 0},
		"an odd exit code":     {201, `{"status":"finished","exit_code":256}`, 0},
		"failed":               {201, `{"status":"failed","message":"x\u001b[2J"}`, 0},
		"ended by somebody":    {201, `{"status":"canceled"}`, 0},
		"an unknown status":    {201, `{"status":"improved"}`, 0},
		"no base64":            {201, `{"status":"finished","exit_code":3,"stdout":"#","stdout_encoding":"base64"}`, 0},
		"an id that leads off": {202, `{"id":"../../users","status":"running"}`, 0},
		"no JSON":              {201, `<html>`, 0},
		"a page":               {200, `<html>`, 0},
		"a redirect":           {307, ``, 0},
		"refused":              {422, `{"message":"this limit is out of range","field":"limits.memory","remedy":"give less"}`, 0},
	} {
		calls := 0
		_, _, code, err := script(t, runFlags{}, "print(1)", []string{"-"}, func(w http.ResponseWriter, r *http.Request) {
			calls++
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			w.Write([]byte(c.body))
		})
		if code != c.code || (err != nil) != (c.code == 0) || calls != 1 {
			t.Errorf("%s: exit code %d, %v, after %d calls", name, code, err, calls)
		}
		if message, _ := hub.Public(err); strings.ContainsRune(message, '\x1b') || name == "refused" && hub.FieldOf(err) != "limits.memory" {
			t.Errorf("%s: %q, %v", name, message, err)
		}
	}
}

// What can't be asked for is told without a call.
func TestRunAsksForNothingFalse(t *testing.T) {
	for field, c := range map[string]struct {
		o     runFlags
		stdin string
		args  []string
	}{
		"script":     {runFlags{}, "", []string{"/nonexistent.py"}},
		"--stdin":    {runFlags{stdin: true}, "print(1)", []string{"-"}},
		"--limit":    {runFlags{limits: []string{"memory=NaN"}}, "print(1)", []string{"-"}},
		"--memory":   {runFlags{memory: "-1"}, "print(1)", []string{"-"}},
		"--time":     {runFlags{wallTime: "soon"}, "print(1)", []string{"-"}},
		"--cpu-time": {runFlags{cpuTime: "-1s"}, "print(1)", []string{"-"}},
	} {
		_, _, _, err := script(t, c.o, c.stdin, c.args, func(http.ResponseWriter, *http.Request) { t.Errorf("%s: it called", field) })
		if hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	for name, code := range map[string]string{"no UTF-8": "\xff", "too long": strings.Repeat("x", hub.MaxRunCode+1)} {
		if _, _, _, err := script(t, runFlags{}, code, []string{"-"}, func(http.ResponseWriter, *http.Request) { t.Errorf("%s: it called", name) }); hub.FieldOf(err) != "script" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
