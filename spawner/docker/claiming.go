package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"carrel/hub"
)

const (
	slotTalkWithin = 5 * time.Second // for a slot to say what it has to say
	maxSlotMessage = 64 << 10        // bytes
	slotVersion    = 1               // of the protocol; kernelimage/carrel_slot/control.py has it too
)

// slot is one that waits. The host listens, and the slot connects: nothing is ever opened in a place
// that a guest can write.
type slot struct {
	id, shape, address string
	container          string // Docker's id
	since              time.Time
	listener           *net.UnixListener
	ready              chan struct{} // closed at its first word
	once               sync.Once

	mu     sync.Mutex
	conn   *net.UnixConn // of the last that said it is ready
	lines  *bufio.Reader // over conn
	closed bool
}

type slotMessage struct {
	Type        string            `json:"type"` // from the slot: ready, claimed; to it: claim
	Protocol    int               `json:"protocol"`
	Environment map[string]string `json:"environment,omitempty"`
}

// listenTo makes a slot's control socket, anew if an earlier process had one, and listens until the
// slot is closed.
func (d *Driver) listenTo(ctx context.Context, id, shape, address string) (*slot, error) {
	path := d.slotFile(id, slotControl)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, homeFault("listen to slot", err)
	}
	l, err := listenUnix(path, 0o666, -1) // it connects as the profile's user
	if err != nil {
		return nil, err
	}
	w := &slot{id: id, shape: shape, address: address, since: time.Now(), listener: l, ready: make(chan struct{})}
	ctx = context.WithoutCancel(ctx)
	go func() { // ends with the listener, which close closes
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			if w.greet(conn, func() error { return d.weigh(ctx, id) }) {
				d.cfg.Logger.Info("slot ready", "slot", id)
			}
		}
	}()
	return w, nil
}

// listenUnix listens at a path of ours, which has to fit a socket's address (unix(7)): 107 bytes.
func listenUnix(path string, mode os.FileMode, gid int) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, &hub.Error{Kind: hub.Unavailable, Op: "docker: listen", Message: "no socket could be made for a server that waits", Remedy: "an administrator looks at the log; state_dir has to be a short path, and its disk not full", Err: err}
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(path, mode)
	if err == nil && gid >= 0 {
		err = os.Lchown(path, 0, gid)
	}
	if err != nil {
		l.Close() //nolint:errcheck // it was never used
		return nil, homeFault("listen", err)
	}
	return l, nil
}

// greet takes a connection on which a slot says that it is ready; the last one counts. Before the first
// the slot is prepared; where that fails it is left, and connects again. It tells whether this was the first.
func (w *slot) greet(conn *net.UnixConn, prepare func() error) (first bool) {
	lines := bufio.NewReader(io.LimitReader(conn, maxSlotMessage))
	if hear(conn, lines, "ready") != nil || !w.isReady() && prepare() != nil {
		conn.Close() //nolint:errcheck // nothing was said on it
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		conn.Close() //nolint:errcheck // nothing was said on it
		return false
	}
	if w.conn != nil {
		w.conn.Close() //nolint:errcheck // the slot has left it
	}
	w.conn, w.lines = conn, lines
	w.once.Do(func() { close(w.ready); first = true })
	return first
}

// hear reads one message of a kind.
func hear(conn *net.UnixConn, lines *bufio.Reader, kind string) error {
	if err := conn.SetReadDeadline(time.Now().Add(slotTalkWithin)); err != nil {
		return err
	}
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var m slotMessage
	if err := json.Unmarshal(line, &m); err != nil || m.Type != kind || m.Protocol != slotVersion {
		return hub.Errorf(hub.Internal, "docker: hear slot", "it said something else than %s", kind)
	}
	return nil
}

// hand gives the slot its environment and the socket to listen on, and waits for its word that it has
// them.
func (w *slot) hand(environment map[string]string, listener *net.UnixListener) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := json.Marshal(slotMessage{"claim", slotVersion, environment})
	if err != nil {
		return err
	}
	f, err := listener.File()
	if err != nil {
		return err
	}
	defer f.Close() // a duplicate
	if err := w.conn.SetWriteDeadline(time.Now().Add(slotTalkWithin)); err != nil {
		return err
	}
	if _, _, err := w.conn.WriteMsgUnix(append(raw, '\n'), unix.UnixRights(int(f.Fd())), nil); err != nil { // a descriptor
		return err
	}
	return hear(w.conn, w.lines, "claimed")
}

var errNoSlot = &hub.Error{Kind: hub.NotFound, Op: "docker: claim slot", Message: "no server is ready"}

// ClaimSlot implements [hub.Slots].
func (d *Driver) ClaimSlot(ctx context.Context, spec hub.Spec) (hub.Handle, error) {
	if spec.SafeStart {
		return hub.Handle{}, errNoSlot
	}
	if keeps(spec) { // a home that is a volume does not appear in what runs already
		if kind, err := d.homes.kindOf(ctx, spec.UserID); err != nil || kind == homeVolume {
			return hub.Handle{}, errNoSlot
		}
	}
	img, err := d.facts(ctx, spec.Image)
	if isNotFound(err) { // a cold start fetches it, and tells how far it is
		return hub.Handle{}, errNoSlot
	}
	if err != nil {
		return hub.Handle{}, fail("look for image", err)
	}
	p, err := planSlot(spec, img)
	if err != nil {
		return hub.Handle{}, err
	}
	w := d.slots.take(p.shape)
	if w == nil {
		return hub.Handle{}, errNoSlot
	}
	defer d.slots.end(w.id)
	defer w.close()
	name := d.containerName(spec.Key, spec.Generation)
	err = d.claimSlot(ctx, w, name, p)
	if err != nil {
		clean, done := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
		defer done()
		if derr := d.dropSlot(clean, w.id, w.container, w.address); derr != nil {
			d.cfg.Logger.WarnContext(ctx, "slot not removed; tried again later", "slot", w.id, "error", derr)
		}
		d.homes.close(clean, spec.UserID)
		return hub.Handle{}, err
	}
	return d.handle(name), nil
}

// claimSlot makes a slot the server, step by step so that whatever a crash leaves is told from a
// server: the record of what is intended, the name, the home, the socket, and at last the mark.
func (d *Driver) claimSlot(ctx context.Context, w *slot, name string, p slotPlan) error {
	ctx, done := context.WithTimeout(ctx, createTimeout)
	defer done()
	spec := p.spec
	d.at("taken")
	_, release, err := d.homes.open(ctx, spec)
	if err != nil {
		return err
	}
	defer release()
	d.at("home open")
	record := claim{Name: name, User: spec.Key.User.String(), Server: spec.Key.Server.String(), Generation: spec.Generation, UserID: spec.UserID, Profile: spec.Profile, Home: d.homes.label(spec)}
	if err := d.writeClaim(w.id, record); err != nil {
		return err
	}
	d.at("recorded")
	if err := d.api.on(ctx).ContainerRename(ctx, w.container, name); err != nil {
		return fail("claim slot", err)
	}
	d.at("renamed")
	if keeps(spec) {
		if err := showHome(d.homes.mountPoint(spec.UserID), d.slotFile(w.id, slotHome)); err != nil {
			return err
		}
	}
	d.at("home shown")
	listener, err := listenUnix(d.slotFile(w.id, slotServer), 0o660, d.cfg.SocketGID)
	if err != nil {
		return err
	}
	defer listener.Close() //nolint:errcheck // the slot has it
	d.at("listening")
	if err := w.hand(environment(wants{spec: spec, image: p.image}), listener); err != nil {
		return hub.Wrap(hub.Unavailable, "docker: claim slot", err)
	}
	d.at("handed in")
	if err := writeFile(d.slotFile(w.id, slotClaimed), nil); err != nil {
		return hub.Wrap(hub.Unavailable, "docker: mark claim", err)
	}
	d.at("marked")
	return nil
}

// at is where a kill would leave a claim half-way; tests have the process killed there.
func (d *Driver) at(step string) {
	if d.crash != nil {
		d.crash(step)
	}
}
