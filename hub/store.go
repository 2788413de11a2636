package hub

import (
	"context"
	"iter"
	"time"
)

// Every store method honours ctx and returns errors of a [Kind]: NotFound, Conflict, or
// Unavailable when the store can't be reached. Values are copies; nothing is aliased.

// SessionStore keeps sessions by the hash of their id.
type SessionStore interface {
	// CreateSession adds a session. It is Unauthenticated when a back-channel logout for the same
	// issuer and subject or sid came after s.Created (a tombstone), when the parent is gone, or when
	// s is over already. Of a notebook host's session, which has a Parent and a Host, only what is
	// its own is kept (see [Session.Under]).
	CreateSession(ctx context.Context, s Session) error
	// Session finds a live session; NotFound otherwise. A notebook host's comes with its parent's
	// user, rights and last use as they stand.
	Session(ctx context.Context, h SecretHash) (Session, error)
	// TouchSession moves the last use of a live hub session forwards to at, never back, and its idle
	// end with it. A notebook host's session is used by its parent's hash. NotFound when it ended: an
	// ended session never comes back.
	TouchSession(ctx context.Context, h SecretHash, at time.Time) error
	// EndSessions ends what matches, with their children and tickets, publishes [SessionsEnded],
	// and returns the hashes. Queries by Identity leave a tombstone for what would have matched.
	EndSessions(ctx context.Context, q SessionQuery) ([]SecretHash, error)
	// Sessions yields every live hub session; those of notebook hosts are not among them.
	Sessions(ctx context.Context) iter.Seq2[Session, error]
}

// SessionUpdater changes what is known of who is signed in. Only who asks the provider needs it.
type SessionUpdater interface {
	// UpdateSession has change edit a live hub session's groups, admin and tokens; what else it edits
	// is not kept. When somebody else's change came between, change is called again, on the outcome
	// of that, so that neither loses the other's; it must not use the store. NotFound when the
	// session ended.
	UpdateSession(ctx context.Context, h SecretHash, change func(*Session)) error
}

// TicketStore keeps single-use things.
type TicketStore interface {
	// PutTicket keeps a ticket under its secret's hash for at most ttl; Invalid when that is 0 or less.
	PutTicket(ctx context.Context, h SecretHash, t Ticket, ttl time.Duration) error
	// TakeTicket removes and returns a ticket; NotFound when used, expired or unknown, or when the
	// session that it was made from ended.
	TakeTicket(ctx context.Context, h SecretHash) (Ticket, error)
	// Once records key for ttl and tells whether this was its first use; Invalid when ttl is 0 or less.
	Once(ctx context.Context, key string, ttl time.Duration) (bool, error)
}

// UserStore keeps people.
type UserStore interface {
	// BindUser adds a person, or finds them again: when the name is bound to u's identity, the
	// stored record is updated with u's profile fields and returned (ID and Created kept). When it
	// is bound to another identity: Conflict.
	BindUser(ctx context.Context, u User) (User, error)
	// User finds a person; NotFound.
	User(ctx context.Context, name UserName) (User, error)
	// Rebind gives a name to another identity and ID, whatever it was bound to.
	Rebind(ctx context.Context, u User) error
	// DeleteUser forgets a person.
	DeleteUser(ctx context.Context, name UserName) error
	// Users yields everyone, ordered by name.
	Users(ctx context.Context) iter.Seq2[User, error]
}

// TokenStore keeps permissions for programs.
type TokenStore interface {
	// CreateToken adds a token. Conflict when its ID is in use by the person or its hash by anybody;
	// Invalid when it is over already.
	CreateToken(ctx context.Context, t Token) error
	// Token finds a live token by its secret's hash; NotFound.
	Token(ctx context.Context, h SecretHash) (Token, error)
	// DeleteToken revokes one of a person's tokens by its public ID and publishes [TokenRevoked]; NotFound.
	DeleteToken(ctx context.Context, user UserName, id string) error
	// Tokens yields a person's tokens.
	Tokens(ctx context.Context, user UserName) iter.Seq2[Token, error]
}

// ServerStore keeps server records.
type ServerStore interface {
	// Server finds a record; NotFound.
	Server(ctx context.Context, key ServerKey) (Server, error)
	// PutServer writes s if the stored Revision is s.Revision (0: no record yet), publishes
	// [ServerChanged], and returns s with its new Revision; Conflict otherwise.
	PutServer(ctx context.Context, s Server) (Server, error)
	// DeleteServer removes the record if its Revision is s.Revision, and publishes [ServerChanged];
	// Conflict otherwise. Of a visitor, whose name never comes back, it forgets the generations too.
	DeleteServer(ctx context.Context, s Server) error
	// NextGeneration counts the server's starts, never giving a number twice, nor one at or below least.
	NextGeneration(ctx context.Context, key ServerKey, least Generation) (Generation, error)
	// Servers yields every record.
	Servers(ctx context.Context) iter.Seq2[Server, error]
}

// ServerNames tells which servers there are and no more of them, which is all that a proxy may know.
// It has to, though no route leads to a server that is stopped: "/user/alice/gpu/" is that server's
// then too, and no page of alice's default one.
type ServerNames interface {
	// ServerLabels yields the label (see [ServerKey.Label]) of every server that has a record, be it
	// that it runs or not. [ServerChanged] tells what changes.
	ServerLabels(ctx context.Context) iter.Seq2[string, error]
}

// Changes tells by one short question whether anything changed that a proxy keeps a copy of: a route,
// or a server's record. Each such change has a name that no other has, not even one after the store
// was wiped or went back to an earlier state, and its event says which change it follows: who heard
// all from one name to another missed nothing between them.
type Changes interface {
	// LastChange is the name of the last change (see [Event.Change]); "" when the store has none. What
	// it names is in the store already, and its event on its way.
	LastChange(ctx context.Context) (string, error)
}

// RouteStore keeps what the proxies need.
type RouteStore interface {
	// PutRoute publishes a route unless a higher generation is there (Conflict), and publishes [RouteChanged].
	PutRoute(ctx context.Context, r Route) error
	// DeleteRoute removes a server's route if it is of this generation or lower, and publishes
	// [RouteChanged]. The server's name stays as long as its record does (see [ServerNames]).
	DeleteRoute(ctx context.Context, key ServerKey, g Generation) error
	// Routes yields every route.
	Routes(ctx context.Context) iter.Seq2[Route, error]
	// RecordActivity moves last activity forwards, never back.
	RecordActivity(ctx context.Context, acts []Activity) error
	// Activities yields the last activity of every server that has one.
	Activities(ctx context.Context) iter.Seq2[Activity, error]
}

// Leases are locks with an end.
type Leases interface {
	// Acquire takes the lease by name for ttl; Conflict when another holds it, Invalid when ttl is 0
	// or less.
	Acquire(ctx context.Context, name string, ttl time.Duration) (Lease, error)
}

// Lease is one held lock.
type Lease interface {
	// Extend gives it ttl more from now; Conflict when it was lost, Invalid when ttl is 0 or less.
	Extend(ctx context.Context, ttl time.Duration) error
	// Release gives it back; it is no error if it was lost.
	Release(ctx context.Context) error
}

// EventKind says what happened.
type EventKind string

// The events. Reset is made by the subscription itself after each (re)connection: everything
// cached may be stale, and is to be dropped or read anew.
const (
	Reset         EventKind = "reset"
	SessionsEnded EventKind = "sessions-ended"
	TokenRevoked  EventKind = "token-revoked"
	RouteChanged  EventKind = "route-changed"
	ServerChanged EventKind = "server-changed"
)

// Event is told to every process of the deployment.
type Event struct {
	Kind     EventKind    `json:"kind"`
	Sessions []SecretHash `json:"sessions,omitempty"` // SessionsEnded, TokenRevoked
	Key      ServerKey    `json:"key,omitzero"`       // RouteChanged, ServerChanged
	Route    *Route       `json:"route,omitempty"`    // RouteChanged; nil: removed
	Server   *Server      `json:"server,omitempty"`   // ServerChanged; nil: removed

	// RouteChanged, ServerChanged: the names of this change and of the one before it; see [Changes].
	Change string `json:"change,omitempty"`
	After  string `json:"after,omitempty"`
}

// Events is the subscription side; stores publish.
type Events interface {
	// Subscribe yields events until ctx ends; it reconnects by itself and yields Reset first and
	// after each reconnection. A slow consumer gets Reset in place of what it missed.
	Subscribe(ctx context.Context) iter.Seq[Event]
}
