package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestCan(t *testing.T) {
	alice, bob := mustUser(t, "alice"), mustUser(t, "bob")
	session := func(admin bool) Principal { return Session{User: alice, UserID: "ua", Admin: admin}.Principal() }
	token := func(admin bool, scopes ...Scope) Principal {
		return Token{User: alice, UserID: "ua", Scopes: scopes}.Principal(User{Name: alice, Admin: admin})
	}
	for _, c := range []struct {
		name       string
		p          Principal
		own, other bool // may start and stop alice's servers, bob's
	}{
		{"nobody", Principal{}, false, false},
		{"a session", session(false), true, false},
		{"an administrator's session", session(true), true, true},
		{"a token without scopes", token(true), false, false},
		{"a token for oneself", token(false, ScopeSelf), true, false},
		{"an administrator's token for oneself", token(true, ScopeSelf), true, false},
		{"a token for servers", token(false, ScopeServers), true, false},
		{"an administrator's token for servers", token(true, ScopeServers), true, true},
		{"an administrator's token for one person's servers", token(true, "servers!user=bob"), false, true},
		{"another's filter, and no administrator", token(false, "servers!user=bob"), false, false},
		{"one's own filter", token(false, "servers!user=alice"), true, false},
		{"another scope", token(true, ScopeAccessServers, ScopeReadUsers), false, false},
		{"a filter that begins alike", token(true, "servers!user=alicex", "serversx", "servers!"), false, false},
	} {
		if own, other := c.p.Can(ScopeServers, alice), c.p.Can(ScopeServers, bob); own != c.own || other != c.other {
			t.Errorf("%s: own %v, another's %v; want %v, %v", c.name, own, other, c.own, c.other)
		}
	}
	if session(true).Can(ScopeServers, UserName{}) != true || session(false).Can(ScopeServers, UserName{}) {
		t.Error("what is nobody's is an administrator's alone")
	}
}

func TestAccess(t *testing.T) {
	alice := mustUser(t, "alice")
	key := ServerKey{User: alice}
	for _, c := range []struct {
		name        string
		p           Principal
		adminAccess bool
		want        error // by its kind; nil: let in
	}{
		{"nobody", Principal{}, true, &Error{Kind: Unauthenticated}},
		{"nobody with every right", Principal{Admin: true}, true, &Error{Kind: Unauthenticated}},
		{"its owner", Principal{User: alice, UserID: "ua"}, false, nil},
		{"who had the name before", Principal{User: alice, UserID: "uformer"}, false, &Error{Kind: Forbidden}},
		{"who had the name before, an administrator", Principal{User: alice, UserID: "uformer", Admin: true}, true, &Error{Kind: Forbidden}},
		{"its owner's token, not for this", Principal{User: alice, UserID: "ua", Scopes: []Scope{ScopeServers}}, false, &Error{Kind: Forbidden}},
		{"its owner's token without scopes", Principal{User: alice, UserID: "ua", Scopes: []Scope{}}, false, &Error{Kind: Forbidden}},
		{"its owner's token for this", Principal{User: alice, UserID: "ua", Scopes: []Scope{ScopeAccessServers}}, false, nil},
		{"another person", Principal{User: mustUser(t, "bob"), UserID: "ub"}, true, &Error{Kind: Forbidden}},
		{"another person of the same id", Principal{User: mustUser(t, "bob"), UserID: "ua"}, true, &Error{Kind: Forbidden}},
		{"an administrator", Principal{User: mustUser(t, "root"), UserID: "ur", Admin: true}, true, nil},
		{"an administrator where that is off", Principal{User: mustUser(t, "root"), UserID: "ur", Admin: true}, false, &Error{Kind: Forbidden}},
		{"an administrator's token for oneself", Principal{User: mustUser(t, "root"), UserID: "ur", Admin: true, Scopes: []Scope{ScopeSelf}}, true, &Error{Kind: Forbidden}},
	} {
		err := Access(c.p, key, "ua", c.adminAccess)
		if (err == nil) != (c.want == nil) || err != nil && KindOf(err) != KindOf(c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if _, remedy := Public(err); err != nil && remedy == "" {
			t.Errorf("%s is not told what to do", c.name)
		}
	}
}

func TestLive(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	for _, c := range []struct {
		name string
		live bool
		want bool
	}{
		{"session", Session{Expires: in(1), LastSeen: now, Idle: 1}.Live(now), true},
		{"session at its end", Session{Expires: now, LastSeen: now, Idle: time.Hour}.Live(now), false},
		{"idle session", Session{Expires: in(time.Hour), LastSeen: in(-time.Minute), Idle: time.Minute}.Live(now), false},
		{"session without an idle limit", Session{Expires: in(time.Hour), LastSeen: in(-time.Hour)}.Live(now), true},
		{"session without an end", Session{LastSeen: now, Idle: time.Hour}.Live(now), false},
		{"token", Token{Expires: in(1)}.Live(now), true},
		{"token at its end", Token{Expires: now}.Live(now), false},
		{"token without an end", Token{}.Live(now), true},
	} {
		if c.live != c.want {
			t.Errorf("%s: live %v", c.name, c.live)
		}
	}
}

func TestPolicyProfile(t *testing.T) {
	alice := mustUser(t, "alice")
	p := Policy{Profiles: []Profile{
		{Name: "staff", Groups: []string{"staff"}, Cull: CullRule{Idle: 1}}, {Name: "one", Cull: CullRule{Idle: 2}},
		{Name: "two", Default: true}, {Name: "hers", Users: []string{"alice"}, Default: true},
	}, GroupCulls: []GroupCull{{Group: "night", Rule: CullRule{Idle: 3}}, {Group: "staff", Rule: CullRule{Idle: 4}}}}
	for _, c := range []struct {
		ask    string
		groups []string
		admin  bool
		want   string
		kind   Kind
	}{
		{"", nil, false, "two", 0},
		{"", []string{"staff"}, true, "two", 0},
		{"one", nil, false, "one", 0},
		{"hers", nil, false, "hers", 0},
		{"staff", nil, false, "", Forbidden},
		{"staff", []string{"x", "staff"}, false, "staff", 0},
		{"staff", nil, true, "staff", 0},
		{"none", nil, true, "", Invalid},
	} {
		got, err := p.Profile(c.ask, alice, c.groups, c.admin)
		if got.Name != c.want || (err != nil) != (c.kind != 0) || err != nil && (KindOf(err) != c.kind || FieldOf(err) != "profile") {
			t.Errorf("%q for %v, admin %v: %q, %v", c.ask, c.groups, c.admin, got.Name, err)
		}
	}
	closed := Policy{Profiles: p.Profiles[:1]}
	if _, err := closed.Profile("", alice, nil, false); KindOf(err) != Forbidden || err == nil {
		t.Errorf("no profile is open: %v", err)
	}
	for _, c := range []struct {
		profile string
		groups  []string
		want    time.Duration
	}{{"one", nil, 2}, {"one", []string{"staff", "night"}, 3}, {"one", []string{"staff"}, 4}, {"gone", nil, 0}} {
		if got := p.CullRule(c.profile, c.groups).Idle; got != c.want {
			t.Errorf("the rule for %q, %v: %d, want %d", c.profile, c.groups, got, c.want)
		}
	}
}

// What is shown of an error never holds its cause, and its kind outlives every wrapping.
func TestErrors(t *testing.T) {
	secret := errors.New("password=hunter2")
	taken := &Error{Kind: Conflict, Op: "a", Field: "name", Message: "taken", Remedy: "choose another", Err: secret}
	for _, c := range []struct {
		name    string
		err     error
		kind    Kind
		message string
		field   string
	}{
		{"wrapped twice", Wrap(Internal, "c", fmt.Errorf("b: %w", Wrap(Unavailable, "b", taken))), Conflict, "taken", "name"},
		{"internal", &Error{Kind: Internal, Message: "oops", Field: "x"}, Internal, "", ""},
		{"plain", secret, Internal, "", ""},
		{"cancelled", Wrap(Internal, "a", context.Canceled), Canceled, "", ""},
		{"late", fmt.Errorf("x: %w", context.DeadlineExceeded), Unavailable, "", ""},
		{"formatted", Errorf(Invalid, "a", "bad: %w", secret), Invalid, "bad: password=hunter2", ""},
		{"nothing", Wrap(Invalid, "a", nil), Internal, "", ""},
	} {
		message, _ := Public(c.err)
		if KindOf(c.err) != c.kind || message != c.message || FieldOf(c.err) != c.field {
			t.Errorf("%s: kind %v, message %q, field %q", c.name, KindOf(c.err), message, FieldOf(c.err))
		}
	}
	if !errors.Is(Wrap(Unavailable, "a", taken), secret) || taken.Error() != "a: name: taken: password=hunter2" {
		t.Errorf("the log would not tell the cause: %v", taken)
	}
}

// From every phase something leads on, and to Ready only by Starting or Paused.
func TestPhases(t *testing.T) {
	all := []Phase{Absent, Queued, Starting, Ready, Paused, Stopping, Failed}
	for _, p := range all {
		next := slices.DeleteFunc(slices.Clone(all), func(to Phase) bool { return !p.CanBecome(to) })
		if len(next) == 0 || p.CanBecome(p) || p.CanBecome("") {
			t.Errorf("%s leads to %v", p, next)
		}
		if p.CanBecome(Ready) != (p == Starting || p == Paused) {
			t.Errorf("%s can become ready: %v", p, p.CanBecome(Ready))
		}
		if p.Pending() && !p.Active() {
			t.Errorf("%s changes by itself, and is not active", p)
		}
	}
	if Phase("").CanBecome(Ready) || Absent.Active() || Failed.Active() || !Stopping.Active() {
		t.Error("what has a container, or may have one, is active")
	}
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string][3]string{ // empty: refused
		"http://10.0.0.1:8888":               {"http://10.0.0.1:8888", "tcp", "10.0.0.1:8888"},
		"http://[fd00::1]:80/":               {"http://[fd00::1]:80", "tcp", "[fd00::1]:80"},
		"unix:///run/x.sock":                 {"unix:///run/x.sock", "unix", "/run/x.sock"},
		"https://10.0.0.1:8888":              {},
		"http://10.0.0.1":                    {},
		"http://10.0.0.1:8888/x":             {},
		"http://u:p@10.0.0.1:8888":           {},
		"http://10.0.0.1:8888?x":             {},
		"unix://host/x":                      {},
		"unix:x":                             {},
		"unix:///" + string(make([]byte, 5)): {},
		"/run/x":                             {},
		"":                                   {},
	} {
		e, err := ParseEndpoint(in)
		if (err == nil) != (want[0] != "") || err != nil && (KindOf(err) != Invalid || !e.IsZero()) {
			t.Errorf("%q: %v, %v", in, e, err)
			continue
		}
		if err == nil && (e.String() != want[0] || e.Network() != want[1] || e.Address() != want[2]) {
			t.Errorf("%q is %q, %s %s", in, e, e.Network(), e.Address())
		}
	}
}

func TestSecrets(t *testing.T) {
	a, b := RandomSecret(), RandomSecret()
	if a.Reveal() == b.Reveal() || len(a.Reveal()) != 43 || a.Hash() == b.Hash() || len(a.Hash()) != 64 || a.IsZero() || !(Secret{}).IsZero() {
		t.Error("secrets are random, of 256 bits, and told apart by their hash")
	}
	secure, err := NewOrigins(OneOrigin, "https://example.org/", "")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := NewOrigins(Subdomains, "http://localhost:8000/", "")
	if err != nil {
		t.Fatal(err)
	}
	if secure.Cookie(CookieSession) != "__Host-carrel-session" || plain.Cookie(CookieSession) != "carrel-session" {
		t.Errorf("cookies are called %q and %q", secure.Cookie(CookieSession), plain.Cookie(CookieSession))
	}
}
