package hubtest

import (
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

// paused tells whether a server is frozen, in every way that the driver says it.
func (s *spawnerSuite) paused(t *testing.T, spec hub.Spec, h hub.Handle, want hub.Phase) {
	t.Helper()
	st := s.inspect(t, h)
	all := listed(t, s.d, spec.Key)
	if st.Phase != want || st.Endpoint.IsZero() || len(all) != 1 || all[0].Phase != want || all[0].Endpoint != st.Endpoint || !sameHandle(all[0].Handle, h) {
		t.Errorf("it is %+v, and listed as %+v; want %s", st, all, want)
	}
}

func (s *spawnerSuite) pause(t *testing.T) {
	d, ok := s.d.(hub.Pauser)
	if !ok {
		return
	}
	spec := s.spec(t, "pause", Runs)
	h := s.start(t, spec)
	before := s.inspect(t, h)
	if err := d.Resume(t.Context(), h); err != nil {
		t.Errorf("resume a server that runs: %v", err)
	}
	for range 2 {
		for range 2 {
			if err := d.Pause(t.Context(), h); err != nil {
				t.Fatalf("pause: %v", err)
			}
			s.paused(t, spec, h, hub.Paused)
		}
		if m, ok := s.d.(hub.Meter); ok {
			s.idles(t, m, h)
		}
		for range 2 {
			if err := d.Resume(t.Context(), h); err != nil {
				t.Fatalf("resume: %v", err)
			}
			s.paused(t, spec, h, hub.Ready)
		}
	}
	if after := s.inspect(t, h); after.Endpoint != before.Endpoint || !after.Created.Equal(before.Created) {
		t.Errorf("it was %+v, and is %+v", before, after)
	}
}

// idles checks that a frozen server gets no CPU and keeps its memory.
func (s *spawnerSuite) idles(t *testing.T, m hub.Meter, h hub.Handle) {
	t.Helper()
	first, err := m.Usage(t.Context(), h)
	if err != nil {
		t.Fatalf("usage of a paused server: %v", err)
	}
	time.Sleep(300 * time.Millisecond) // in which nothing is to happen
	second, err := m.Usage(t.Context(), h)
	if err != nil || second.CPUSeconds != first.CPUSeconds || second.Memory == 0 {
		t.Errorf("a paused server uses %+v, later %+v, %v", first, second, err)
	}
}

func (s *spawnerSuite) pauseAtOnce(t *testing.T) {
	d, ok := s.d.(hub.Pauser)
	if !ok {
		return
	}
	spec := s.spec(t, "pauses", Runs)
	h := s.start(t, spec)
	for range 5 {
		for _, step := range []struct {
			do   func() error
			want hub.Phase
		}{
			{func() error { return d.Pause(t.Context(), h) }, hub.Paused},
			{func() error { return d.Resume(t.Context(), h) }, hub.Ready},
		} {
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if err := step.do(); err != nil {
						t.Errorf("one of several at once: %v; want %s", err, step.want)
					}
				})
			}
			wg.Wait()
			s.paused(t, spec, h, step.want)
		}
	}
}

func (s *spawnerSuite) pauseStop(t *testing.T) {
	d, ok := s.d.(hub.Pauser)
	if !ok {
		return
	}
	spec := s.spec(t, "pausestop", Runs)
	h := s.start(t, spec)
	if err := d.Pause(t.Context(), h); err != nil {
		t.Fatalf("pause: %v", err)
	}
	if again := s.start(t, spec); !sameHandle(again, h) {
		t.Errorf("a start of a paused server gave another handle: %s, then %s", h.Data, again.Data)
	}
	s.paused(t, spec, h, hub.Paused)
	s.stop(t, h)
	if st := s.inspect(t, h); st.Phase != hub.Absent {
		t.Errorf("after a stop it is %+v", st)
	}
	for call, err := range map[string]error{"pause": d.Pause(t.Context(), h), "resume": d.Resume(t.Context(), h)} {
		if hub.KindOf(err) != hub.NotFound {
			t.Errorf("%s of a server that is gone: %v; want an error of kind not found", call, err)
		}
	}
}

func (s *spawnerSuite) pauseEnded(t *testing.T) {
	d, ok := s.d.(hub.Pauser)
	if !ok {
		return
	}
	_, h, _ := s.fail(t, "pauseended")
	for call, err := range map[string]error{"pause": d.Pause(t.Context(), h), "resume": d.Resume(t.Context(), h)} {
		if hub.KindOf(err) != hub.Conflict {
			t.Errorf("%s of a server that ended: %v; want an error of kind conflict", call, err)
		}
	}
}
