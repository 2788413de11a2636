package main

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"carrel/internal/deployed"
)

func TestJudge(t *testing.T) {
	honest, wrong, breach := errors.New("cut"), wrongf("a byte"), breachf("a byte of bob's")
	for _, c := range []struct {
		name    string
		err     error
		begins  time.Duration // after the disturbance of proxy 0, which lasts a minute
		takes   time.Duration
		needs   []string
		excused bool
		ends    bool // the run
	}{
		{"while it was disturbed", honest, 30 * time.Second, time.Second, []string{"backends", "proxy 0"}, true, false},
		{"begun before it", honest, -time.Second, 2 * time.Second, []string{"proxy 0"}, true, false},
		{"over before it", honest, -10 * time.Second, 2 * time.Second, []string{"proxy 0"}, false, false},
		{"just after it", honest, time.Minute + settle/2, time.Second, []string{"proxy 0"}, true, false},
		{"well after it", honest, time.Minute + settle + time.Second, time.Second, []string{"proxy 0"}, false, false},
		{"another part was disturbed", honest, 30 * time.Second, time.Second, []string{"proxy 1"}, false, false},
		{"a wrong answer has no excuse", wrong, 30 * time.Second, time.Second, []string{"proxy 0"}, false, false},
		{"a breach ends the run", breach, 30 * time.Second, time.Second, []string{"proxy 0"}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := false
				j := newJudge(func() { ended = true })
				began := time.Now().Add(20*time.Second + c.begins)
				go func() {
					time.Sleep(20 * time.Second)
					over := j.disturb("proxy 0", "redis")
					time.Sleep(time.Minute)
					over()
				}()
				time.Sleep(20*time.Second + c.begins + c.takes)
				if !j.record("x", began, c.err, c.needs...) {
					t.Error("an error counts as success")
				}
				synctest.Wait()
				time.Sleep(2 * time.Minute)
				if got := j.rows()[0].Excused == 1; got != c.excused || ended != c.ends || len(j.findings) == 1 == c.excused {
					t.Errorf("excused %v, run ended %v, findings %q", got, ended, j.findings)
				}
			})
		})
	}
}

func TestExpect(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		kind   string // of content
		want   string // part of the error
		honest bool
	}{
		{"as wanted", 200, "x", "text/plain", "", true},
		{"ours, to a program", 503, `{"status":503,"message":"this server does not answer","remedy":"wait"}`, "application/json", "does not answer", true},
		{"ours, to a person", 503, "<!doctype html><body><main><h1>Wait", "text/html; charset=utf-8", "a page", true},
		{"of a server's", 503, "overloaded", "text/plain", "not ours", false},
		{"another status within", 502, `{"status":200,"message":"x"}`, "application/json", "not ours", false},
		{"gone", 404, "", "text/plain", "it is gone", true},
		{"signed out", 401, `{"status":401,"message":"nobody is signed in"}`, "application/json", "status 401", false},
		{"a fault of ours", 500, `{"status":500,"message":"something went wrong here"}`, "application/json", "status 500", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/", nil)
			if err != nil {
				t.Fatal(err)
			}
			res := &http.Response{StatusCode: c.status, Header: http.Header{"Content-Type": {c.kind}}, Body: io.NopCloser(strings.NewReader(c.body)), Request: req}
			err = expect(res, 200, 404)
			var f *finding
			if is := errors.As(err, &f); is == c.honest || err == nil != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestFlat(t *testing.T) {
	const length = 300 * time.Second
	grow := func(rss, fds, routines func(at float64) float64) []deployed.Sample {
		var all []deployed.Sample
		for at := 0.0; at < length.Seconds(); at += 5 {
			all = append(all, deployed.Sample{At: at, Process: "hub", RSS: int(rss(at)), FDs: int(fds(at)), Routines: int(routines(at))})
		}
		return all
	}
	same := func(v float64) func(float64) float64 { return func(float64) float64 { return v } }
	for _, c := range []struct {
		name               string
		rss, fds, routines func(float64) float64
		flat               bool
	}{
		{"the same all along", same(50_000), same(500), same(900), true},
		{"only at the beginning", func(at float64) float64 { return 20_000 + min(at, 120)*500 }, same(500), same(900), true},
		{"noise", func(at float64) float64 { return 50_000 + float64(int(at)%20)*200 }, same(500), same(0), true},
		{"2 KiB with each of 160 actions a second", func(at float64) float64 { return 50_000 + at*320 }, same(500), same(900), false},
		{"one descriptor in a hundred actions", same(50_000), func(at float64) float64 { return 500 + at*1.6 }, same(900), false},
		{"one goroutine in fifty actions", same(50_000), same(500), func(at float64) float64 { return 900 + at*3.2 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := flat(grow(c.rss, c.fds, c.routines), length, 256)
			if len(got) != 1 || !got[0].Judged || got[0].Flat != c.flat {
				t.Errorf("%+v", got)
			}
		})
	}
}
