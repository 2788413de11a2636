package siblings

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
)

// crowd answers for siblings by host, without a network.
type crowd map[string]func(http.ResponseWriter, *http.Request)

// RoundTrip implements [http.RoundTripper].
func (c crowd) RoundTrip(r *http.Request) (*http.Response, error) {
	done := make(chan *http.Response, 1)
	go func() { // ends with its handler
		w := httptest.NewRecorder()
		c[r.URL.Host](w, r)
		done <- w.Result()
	}()
	select {
	case res := <-done:
		return res, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func (c crowd) siblings(t *testing.T, hosts ...string) *Siblings {
	t.Helper()
	cfg := Config{Transport: c, Logger: slog.New(slog.DiscardHandler)}
	for _, h := range hosts {
		cfg.URLs = append(cfg.URLs, "https://"+h+"/x/")
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func says(n int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/x/hub/api/tmp/stats" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusTeapot)
		}
		fmt.Fprintf(w, `{"available": %d, "capacity": 9, "waiting": 0}`, n)
	}
}

// TestRoom: the one with most room is taken, each time one place less, until nobody has any; then the next
// answer counts.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := crowd{"a": says(1), "b": says(3), "c": says(0)}.siblings(t, "a", "b", "c")
		for range 9 {
			if base, ok := s.Room(t.Context(), false); !ok || base != "https://b/x/" {
				t.Fatalf("who only looks finds %q, %v", base, ok)
			}
		}
		var got []string
		for range 5 {
			base, ok := s.Room(t.Context(), true)
			got = append(got, fmt.Sprintf("%s %v", strings.TrimPrefix(base, "https://"), ok))
		}
		if text := strings.Join(got, ", "); text != "b/x/ true, b/x/ true, a/x/ true, b/x/ true,  false" {
			t.Errorf("sent to %s", text)
		}
		time.Sleep(fresh)
		if base, ok := s.Room(t.Context(), true); !ok || base != "https://b/x/" {
			t.Errorf("later: %q, %v", base, ok)
		}
	})
}

// TestBadSiblings tell nothing that is believed, are waited for no longer than a second together, and left
// alone for a while.
func TestBadSiblings(t *testing.T) {
	elsewhere := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://good/x/hub/api/tmp/stats", http.StatusFound)
	}
	for name, h := range map[string]func(http.ResponseWriter, *http.Request){
		"mute":    func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"broken":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"x":"`+strings.Repeat("x", 1<<20)+`","available":9}`)
		},
		"negative":    says(-4),
		"no number":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"available": "many"}`) },
		"leads on":    elsewhere,
		"has nothing": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				s := crowd{"bad": func(w http.ResponseWriter, r *http.Request) { asked.Add(1); h(w, r) }, "good": says(1)}.siblings(t, "bad", "good")
				began := time.Now()
				if base, ok := s.Room(t.Context(), true); !ok || base != "https://good/x/" {
					t.Errorf("sent to %q, %v", base, ok)
				}
				if took := time.Since(began); took > within {
					t.Errorf("it took %v", took)
				}
				time.Sleep(fresh)
				s.Room(t.Context(), true)
				if n := asked.Load(); n > 1 && name != "negative" && name != "has nothing" {
					t.Errorf("it was asked %d times", n)
				}
				time.Sleep(resting)
				s.Room(t.Context(), true)
				if n := asked.Load(); n < 2 {
					t.Errorf("it was never asked again")
				}
			})
		})
	}
}

// TestManyAtOnce ask each sibling once.
func TestManyAtOnce(t *testing.T) {
	var asked, sent atomic.Int32
	s := crowd{"a": func(w http.ResponseWriter, r *http.Request) { asked.Add(1); says(7)(w, r) }}.siblings(t, "a")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, ok := s.Room(t.Context(), true); ok {
				sent.Add(1)
			}
		})
	}
	all.Wait()
	if asked.Load() != 1 || sent.Load() != 7 {
		t.Errorf("asked %d times, %d of 50 were sent where there was room for 7", asked.Load(), sent.Load())
	}
	if _, err := New(Config{}); hub.KindOf(err) != hub.Internal {
		t.Errorf("without a logger: %v", err)
	}
}
