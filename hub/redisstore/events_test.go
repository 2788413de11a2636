package redisstore

import (
	"testing"

	"carrel/hub"
)

// TestSlowConsumerCostsLittle: what waits for it is bounded, and Reset says that some was dropped.
func TestSlowConsumerCostsLittle(t *testing.T) {
	box := &mailbox{ring: make(chan struct{}, 1)}
	for range 10*maxUnheard + 1 {
		box.put(hub.Event{Kind: hub.RouteChanged})
		if n := len(box.queue); n > maxUnheard {
			t.Fatalf("%d events wait", n)
		}
	}
	box.put(hub.Event{Kind: hub.SessionsEnded})
	e, ok := box.next(t.Context())
	if !ok || e.Kind != hub.Reset {
		t.Fatalf("first comes %v", e)
	}
	for len(box.queue) > 0 {
		e, _ = box.next(t.Context())
	}
	if e.Kind != hub.SessionsEnded {
		t.Errorf("last comes %v", e)
	}
	box.put(hub.Event{Kind: hub.RouteChanged})
	box.put(hub.Event{Kind: hub.Reset}) // what came before it is stale
	if e, _ = box.next(t.Context()); e.Kind != hub.Reset || len(box.queue) > 0 {
		t.Errorf("after a Reset: %v and %d more", e, len(box.queue))
	}
}

// TestUnknownEvent: a later release may tell what this one does not understand.
func TestUnknownEvent(t *testing.T) {
	s := openStore(t, Config{URL: "redis://127.0.0.1:1"})
	for payload, want := range map[string]hub.EventKind{
		`{"kind":"sessions-ended","sessions":["x"],"later":1}`: hub.SessionsEnded,
		`{"kind":"route-changed","key":{"user":"../etc"}}`:     hub.Reset,
		"nonsense": hub.Reset,
		"":         hub.Reset,
	} {
		if e := s.event(t.Context(), payload); e.Kind != want {
			t.Errorf("%s: got %v", payload, e)
		}
	}
}
