package docker

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadPlaces(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []place // nil: refused
	}{
		{"JupyterLab", `[{"prefix":"static/lab/","directory":"/opt/lab/static"},{"prefix":"lab/extensions/","directory":"/opt/ext"}]`, []place{{"static/lab/", "/opt/lab/static"}, {"lab/extensions/", "/opt/ext"}}},
		{"nothing", `[]`, []place{}},
		{"another address", `[{"prefix":"api/","directory":"/opt"}]`, nil},
		{"no address", `[{"prefix":"/","directory":"/opt"}]`, nil},
		{"a way up", `[{"prefix":"static/../api/","directory":"/opt"}]`, nil},
		{"no slash", `[{"prefix":"static","directory":"/opt"}]`, nil},
		{"a relative directory", `[{"prefix":"static/lab/","directory":"opt"}]`, nil},
		{"an unclean directory", `[{"prefix":"static/lab/","directory":"/opt/../etc"}]`, nil},
		{"a control character", `[{"prefix":"static/lab/","directory":"/opt\u0000"}]`, nil},
		{"too many", "[" + strings.Repeat(`{"prefix":"static/lab/","directory":"/opt"},`, maxPlaces) + `{"prefix":"static/lab/","directory":"/opt"}]`, nil},
		{"cut", `[{"prefix":`, nil},
		{"none", ``, nil},
		{"a traceback", "Traceback (most recent call last):", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readPlaces([]byte(c.text))
			if (err != nil) != (c.want == nil) || c.want != nil && !cmp.Equal(got, c.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}
