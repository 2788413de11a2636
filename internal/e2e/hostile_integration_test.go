//go:build integration

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"carrel/internal/deployed"
)

// TestHostileCells is attacks 3, 6, 11 and 12 as a person makes them, in cells of a notebook: the kernel says what
// happened, or dies and comes back, and the page is told; the hub and a neighbour go on.
func TestHostileCells(t *testing.T) {
	d := deploy(t, options{extra: "profiles:\n  - {name: desk, title: Desk, default: true, cpu: 1, memory: 400MiB, tmp: 64MiB, home: none}\n"})
	alice, bob := d.person("alice"), d.person("bob")
	for _, p := range []*person{alice, bob} {
		p.signIn()
		p.start("desk")
	}
	k, bobs := alice.newKernel(), bob.newKernel().id
	unharmed := func(t *testing.T) {
		t.Helper()
		if out := bob.in(t).openKernel(bobs).run("print(sum(range(10**6)))"); out != "499999500000" {
			t.Errorf("the neighbour computes %q", out)
		}
		if status, _ := bob.in(t).api(http.MethodGet, "/health", ""); status != http.StatusOK {
			t.Errorf("the hub's health: status %d", status)
		}
		eventually(t, time.Minute, "the kernel computes again", func() bool { return alice.in(t).computes(k.id) })
	}
	t.Run("recursion", func(t *testing.T) {
		out := k.run("def f(): return f()\nf()")
		if !strings.HasPrefix(out, "RecursionError: ") {
			t.Errorf("the cell gives %q", out)
		}
		t.Attr("seen-3", "a cell: "+strings.SplitN(out, "\n", 2)[0])
		unharmed(t)
	})
	for name, bomb := range map[string]struct{ code, nr string }{
		"recursion without a limit": {"import sys\nsys.setrecursionlimit(2**31 - 1)\ndef f(n): return [f(n + 1), 'x' * n]\nf(0)", "3"},
		"memory":                    {"kept = []\nwhile True: kept.append(bytearray(1 << 20))", "6"},
	} {
		t.Run(name, func(t *testing.T) {
			told := alice.in(t).restarts(k.id, bomb.code)
			if told == "" {
				t.Error("nobody tells the page that the kernel died")
			}
			unharmed(t)
			t.Attr("seen-"+bomb.nr, name+", in a cell: the kernel dies, its page is told \""+told+"\", and it computes again")
		})
	}
	t.Run("output", func(t *testing.T) { d.floods(t, bob.in(t), bob.in(t).newKernel().id); unharmed(t) })
}

// computes tells whether a kernel does. What one that is just being started is asked may be lost.
func (p *person) computes(id string) bool {
	conn, _, err := p.dialWS("api/kernels/"+id+"/channels", p.origin())
	if err != nil {
		return false
	}
	defer conn.Close()
	out, err := (&kernel{p.t, id, conn}).try("print(6*7)", 8*time.Second)
	return err == nil && out == "42"
}

// restarts runs code that kills its kernel, and gives the state in which pages are told that the kernel is; ""
// when none was told within a minute.
func (p *person) restarts(id, code string) string {
	p.t.Helper()
	page, victim := p.openKernel(id), p.openKernel(id)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = victim.try(code, time.Minute) }() // there is no answer
	defer func() { victim.conn.Close(); <-done }()
	if err := page.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	for {
		var m struct {
			Content struct {
				State string `json:"execution_state"`
			}
		}
		_, raw, err := page.conn.ReadMessage()
		if err != nil {
			return ""
		}
		if json.Unmarshal(raw, &m) == nil && (strings.HasSuffix(m.Content.State, "restarting") || m.Content.State == "dead") {
			return m.Content.State
		}
	}
}

// floods prints twenty million bytes and what is no text, and looks at what our processes hold meanwhile.
func (d *deployment) floods(t *testing.T, p *person, id string) {
	t.Helper()
	hub := d.cmd.Process.Pid
	pids := map[string]int{"hub": hub, "proxy": deployed.ProxyChild(hub)}
	held := func() (kib map[string]int) {
		kib = map[string]int{}
		for name, pid := range pids {
			s, there := deployed.Take(name, pid)
			if !there {
				t.Fatalf("the %s's process %d is not there", name, pid)
			}
			kib[name] = s.RSS
		}
		return kib
	}
	k := p.openKernel(id)
	k.run("1")
	before := held()
	// Jupyter drops what is beyond its rate, and the word that the cell is done with it.
	out, _ := k.try("for _ in range(200): print('x' * 100_000)", 10*time.Second) // k stays open: what comes while nobody listens is kept for who comes next
	if len(out) > 15_000_000 {
		t.Errorf("%d bytes arrived", len(out))
	}
	eventually(t, 2*time.Minute, "the cell is done", func() bool { return p.computes(id) })
	after := held()
	for name := range pids {
		if grown := after[name] - before[name]; grown > 48<<10 {
			t.Errorf("the %s's memory grew by %d KiB while a cell printed", name, grown)
		}
	}
	t.Attr("seen-11", fmt.Sprintf("a cell that prints 20 MB: %.1f MB arrive; hub %+d KiB, proxy %+d KiB", float64(len(out))/1e6, after["hub"]-before["hub"], after["proxy"]-before["proxy"]))

	k = p.openKernel(id)
	got := k.run(`print("\x1b[31mred\x00<script>alert(1)</script>")`)
	if got != "\x1b[31mred\x00<script>alert(1)</script>" {
		t.Errorf("a cell that prints markup gives %q", got)
	}
	if got, err := k.try(`print("a\\udcffb")`, 30*time.Second); err != nil || !utf8.ValidString(got) {
		t.Errorf("half a character arrives as %q, %v", got, err)
	}
	t.Attr("seen-12", "in a cell: markup, escapes and NUL arrive as text; half a character does no harm")
}
