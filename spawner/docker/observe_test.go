package docker

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/docker/docker/api/types/container"
)

func TestPrintable(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "hello, wörld 世界", "hello, wörld 世界"},
		{"colours", "\x1b[31mred\x1b[0m", "[31mred[0m"},
		{"a title for the terminal", "\x1b]0;owned\x07ok", "]0;ownedok"},
		{"C1 control", "a\u009b31mb\u0085c", "a31mbc"},
		{"NUL, bell, backspace", "a\x00b\x07c\x08d\x7f", "abcd"},
		{"line breaks of every kind", "a\rb\nc\u2028d\u2029e", "abcde"},
		{"invalid UTF-8", "a\xff\xc3(b\xed\xa0\x80", "a(b"},
		{"bidi controls", "a\u202eb\u2066c\u200fd", "abcd"},
		{"unseen characters", "a\u200bb\ufeffc\u00add", "abcd"},
		{"tag characters", "a\U000e0041b", "ab"},
		{"tab", "a\tb", "a b"},
		{"markup stays text", "<script>&amp;", "<script>&amp;"},
	} {
		if got := printable(c.in); got != c.want {
			t.Errorf("%s: %q becomes %q, want %q", c.name, c.in, got, c.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[2J\u202e" + strings.Repeat("世", 400))
	f.Fuzz(func(t *testing.T, in string) {
		out := printable(in)
		if len(out) > maxLogLine || !utf8.ValidString(out) || strings.ContainsAny(out, "\x1b\x00\r\n\u202e\u2066\ufffd") {
			t.Errorf("%q becomes %q", in, out)
		}
		if len(out) < maxLogLine-8 && printable(out) != out {
			t.Errorf("%q becomes %q, and that %q", in, out, printable(out))
		}
	})
}

func TestEndReason(t *testing.T) {
	limits := &container.HostConfig{Resources: container.Resources{Memory: 512 << 20}}
	for _, c := range []struct {
		name  string
		state container.State
		want  string
	}{
		{"out of memory", container.State{OOMKilled: true, ExitCode: 137}, "out of memory (its limit is 512 MiB)"},
		{"killed", container.State{ExitCode: 137}, "it was killed"},
		{"ended", container.State{ExitCode: 3}, "exit code 3"},
		{"ended well", container.State{}, "exit code 0"},
		{"ended after a kernel ran out of memory", container.State{OOMKilled: true, ExitCode: 1}, "exit code 1"},
		{"ended well after that", container.State{OOMKilled: true}, "exit code 0"},
		{"never ran", container.State{Error: "exec: no such file /secret/path", ExitCode: 127}, "Docker could not run it"},
	} {
		got := endReason(container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{State: &c.state, HostConfig: limits}})
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
