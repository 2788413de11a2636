package hub

import "time"

// Route tells the proxy where a server's requests go. It is there while the server is; that there is
// a server of this name at all is told by [ServerNames].
type Route struct {
	Key        ServerKey  `json:"key"`
	UserID     UserID     `json:"user_id"`
	Generation Generation `json:"generation"`
	Endpoint   Endpoint   `json:"endpoint"`
	Image      string     `json:"image,omitempty"` // see [Status]
	// Paused says that the server is frozen, or is about to be unless a proxy objects, and since when the
	// hub knows of no use, in Unix milliseconds. 0: it goes on.
	Paused int64 `json:"paused,omitempty"`
}

// Activity is when people last used a server, as the proxy saw it: kernel and terminal input and
// unsafe methods; never pings or polls.
type Activity struct {
	Key  ServerKey `json:"key"`
	Last time.Time `json:"last"`
}
