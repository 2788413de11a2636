package hub

import "time"

// Route tells the proxy where a server's requests go.
type Route struct {
	Key        ServerKey  `json:"key"`
	UserID     UserID     `json:"user_id"`
	Generation Generation `json:"generation"`
	Endpoint   Endpoint   `json:"endpoint"`
	Auth       AuthMode   `json:"auth,omitempty"`
}

// AuthMode says who authenticates a server's requests.
type AuthMode string

// The modes: at the edge by the proxy, which adds the server's own token (the zero value); or by
// the image's own JupyterHub single-user server.
const (
	AuthEdge AuthMode = ""
	AuthHub  AuthMode = "hub"
)

// Activity is when people last used a server, as the proxy saw it: kernel and terminal input and
// unsafe methods; never pings or polls.
type Activity struct {
	Key  ServerKey `json:"key"`
	Last time.Time `json:"last"`
}
