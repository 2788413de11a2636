package hub

import "time"

// Traffic is what went by one server's routes since a proxy knows of it.
type Traffic struct {
	Key        ServerKey `json:"key"`
	Requests   uint64    `json:"requests"`
	Received   uint64    `json:"received"`      // bytes of bodies and websockets, from clients
	Sent       uint64    `json:"sent"`          // the same, to clients
	Websockets int64     `json:"websockets"`    // open
	Last       time.Time `json:"last,omitzero"` // see [Activity]
}

// Plus adds what another proxy knows of the same server.
func (t Traffic) Plus(u Traffic) Traffic {
	t.Requests += u.Requests
	t.Received += u.Received
	t.Sent += u.Sent
	t.Websockets += u.Websockets
	if u.Last.After(t.Last) {
		t.Last = u.Last
	}
	return t
}
