package proxy

// handed is a chunk that a goroutine gets when it takes a direction over.
type handed struct {
	chunk []byte
	buf   *[]byte // of chunks, which it is in; nil: of none
	stage stage
}

// stage is how far a chunk has come.
type stage uint8

const (
	fresh stage = iota // nothing was done about it
	heard              // all was, but to have the server woken, and the writing
	begun              // it is the rest of what is written
	done
)

func (h *handed) giveBack() {
	if h.buf != nil {
		chunks.Put(h.buf)
	}
	*h = handed{}
}

// carry goes on with the direction that begins at a socket.
func (t *live) carry(from *socket, h handed) {
	if from.out == &t.up {
		t.upstream(&h)
	} else {
		t.downstream(&h)
	}
}

// pass does with a chunk in a loop what can be done at once. What is left is for carry.
func (t *live) pass(from *socket, b []byte, now int64) handed {
	if from.out == &t.up {
		return t.passUp(b, now)
	}
	return t.passDown(b)
}

func (t *live) passUp(b []byte, now int64) handed {
	switch {
	case t.heard(b, now) != nil:
		return handed{}
	case t.route.paused():
		return handed{chunk: b, stage: heard}
	}
	t.up.frames = t.coming
	n, _ := send(t.pair[1].fd, b) // what fails shows when the rest is written
	if n == len(b) {
		return handed{stage: done}
	}
	t.up.writing = true
	return handed{chunk: b[n:], stage: begun}
}

func (t *live) passDown(b []byte) handed {
	if t.closing.Load() != nil {
		return handed{chunk: b}
	}
	t.down.frames.advance(b)
	n, _ := send(t.pair[0].fd, b) // likewise
	t.count(n)
	if n == len(b) {
		return handed{stage: done}
	}
	return handed{chunk: b[n:], stage: begun}
}

func (t *live) resumeUp(h *handed) error {
	if len(h.chunk) == 0 {
		return nil
	}
	defer h.giveBack()
	return t.onward(h.chunk, h.stage)
}

func (t *live) resumeDown(h *handed) error {
	if len(h.chunk) == 0 {
		return nil
	}
	defer h.giveBack()
	if h.stage == begun {
		return t.writeFront(h.chunk)
	}
	return t.toClient(h.chunk)
}
