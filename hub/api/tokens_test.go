package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

const tokenFields = "id kind user note scopes created expires_at last_activity"

func TestATokensLife(t *testing.T) {
	s := newSite(t)
	own := as(s.token("alice"))
	r := s.do("POST", "/users/alice/tokens", `{"note": "grader", "expires_in": 3600, "scopes": ["servers"]}`, own)
	keys(t, "new token", r.json, tokenFields+" token")
	secret, id := fmt.Sprint(r.json["token"]), fmt.Sprint(r.json["id"])
	if r.status != 201 || r.json["note"] != "grader" || r.json["kind"] != "api_token" || r.json["user"] != "alice" || fmt.Sprint(r.json["scopes"]) != "[servers!user=alice]" || len(secret) != 43 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	expires, err := time.Parse(time.RFC3339, fmt.Sprint(r.json["expires_at"]))
	if left := time.Until(expires); err != nil || left < 50*time.Minute || left > time.Hour {
		t.Errorf("it ends at %v", r.json["expires_at"])
	}
	if r := s.do("POST", "/users/alice/server", "", as(secret)); r.status != 202 && r.status != 201 {
		t.Errorf("it does not serve: %d %s", r.status, r.body)
	}
	list := s.do("GET", "/users/alice/tokens", "", own)
	tokens, _ := list.json["api_tokens"].([]any)
	if list.status != 200 || len(tokens) != 2 {
		t.Fatalf("%d %s", list.status, list.body)
	}
	one := s.do("GET", "/users/alice/tokens/"+id, "", own)
	keys(t, "token", one.json, tokenFields)
	if one.status != 200 || one.json["id"] != id {
		t.Errorf("%d %s", one.status, one.body)
	}
	for _, r := range []answer{list, one} {
		if strings.Contains(r.body, secret) || strings.Contains(r.body, string(hub.NewSecret(secret).Hash())) {
			t.Errorf("a secret, or its hash, is told again: %s", r.body)
		}
	}
	if r := s.do("DELETE", "/users/alice/tokens/"+id, "", own); r.status != 204 || r.body != "" {
		t.Errorf("revoke: %d %s", r.status, r.body)
	}
	s.do("GET", "/user", "", as(secret)).problem(t, "revoked", 403, "")
	s.do("DELETE", "/users/alice/tokens/"+id, "", own).problem(t, "revoked again", 404, "")
	s.do("GET", "/users/alice/tokens/"+id, "", own).problem(t, "after it was revoked", 404, "")
	bobs := fmt.Sprint(s.do("POST", "/users/bob/tokens", "{}", as(s.token("bob"))).json["id"])
	s.do("DELETE", "/users/alice/tokens/"+bobs, "", own).problem(t, "another's by id", 404, "")
}

func TestTokensByDefault(t *testing.T) {
	s := newSite(t)
	r := s.do("POST", "/users/alice/tokens", "", as(s.token("alice")))
	if r.status != 201 || fmt.Sprint(r.json["scopes"]) != "[self]" || r.json["note"] != "" || r.json["expires_at"] == nil {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// TestTokensGrowNoRights: a token is never more than its maker holds (an administrator's token with
// the scope self could once make one with admin:servers).
func TestTokensGrowNoRights(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		maker   []hub.Scope // nil: a session
		name    string
		asked   string
		granted string // "": refused
	}{
		{nil, "alice", `"self"`, "[self]"},
		{nil, "alice", `"servers", "servers", "read:users"`, "[read:users!user=alice servers!user=alice]"},
		{nil, "alice", `"access:servers!user=Alice"`, "[access:servers!user=alice]"},
		{nil, "alice", `"servers!user=bob"`, ""},
		{nil, "alice", `"self!user=bob"`, ""},
		{nil, "alice", `"admin:servers"`, ""},
		{nil, "alice", `"admin:users!user=alice"`, ""},
		{nil, "alice", `"self", "admin:servers"`, ""},
		{nil, "ada", `"admin:servers", "read:users"`, "[admin:servers read:users]"},
		{nil, "ada", `"servers!user=bob"`, "[servers!user=bob]"},
		{nil, "ada", `"self"`, "[self]"},
		{nil, "ada", `"self!user=bob"`, ""},
		{[]hub.Scope{"self"}, "ada", `"servers"`, "[servers!user=ada]"},
		{[]hub.Scope{"self"}, "ada", `"admin:servers"`, ""},
		{[]hub.Scope{"self"}, "ada", `"read:users!user=bob"`, ""},
		{[]hub.Scope{"self", "admin:servers"}, "ada", `"admin:servers"`, "[admin:servers]"},
		{[]hub.Scope{"self", "admin:servers"}, "ada", `"servers"`, "[servers]"},
		{[]hub.Scope{"self", "admin:servers"}, "ada", `"admin:users"`, ""},
		{[]hub.Scope{"self", "servers!user=bob"}, "ada", `"servers!user=bob"`, "[servers!user=bob]"},
		{[]hub.Scope{"self", "servers!user=bob"}, "ada", `"servers"`, "[servers!user=ada]"},
		{[]hub.Scope{"self", "admin:servers"}, "alice", `"admin:servers"`, ""},
		{[]hub.Scope{"servers"}, "alice", `"servers"`, ""},
	} {
		t.Run(fmt.Sprint(c.name, c.maker, c.asked), func(t *testing.T) {
			by := cookie(s.session(c.name, ""))
			if c.maker != nil {
				by = as(s.token(c.name, c.maker...))
			}
			r := s.do("POST", "/users/"+c.name+"/tokens", `{"scopes": [`+c.asked+`]}`, by, with("Origin", s.origins.HubOrigin()))
			if c.granted == "" {
				if r.status != 403 {
					t.Errorf("%d %s", r.status, r.body)
				}
				return
			}
			if r.status != 201 || fmt.Sprint(r.json["scopes"]) != c.granted {
				t.Errorf("%d %s, want %s", r.status, r.body, c.granted)
			}
		})
	}
}

// TestLimitsOfTokens is attack 28 for what a token is made of.
func TestLimitsOfTokens(t *testing.T) {
	s := newSite(t)
	own := as(s.token("alice"))
	for _, c := range []struct {
		body   string
		status int
		field  string
	}{
		{`{"expires_in": 0}`, 422, "expires_in"},
		{`{"expires_in": -1}`, 422, "expires_in"},
		{`{"expires_in": 1e309}`, 422, "expires_in"},
		{`{"expires_in": 9223372036854775807}`, 422, "expires_in"},
		{`{"expires_in": 9223372036854775808}`, 422, "expires_in"},
		{`{"expires_in": 31622401}`, 422, "expires_in"},
		{`{"expires_in": "1h"}`, 422, "expires_in"},
		{`{"expires_in": 0.5}`, 422, "expires_in"},
		{`{"expires_in": NaN}`, 400, "body"},
		{`{"note": "` + strings.Repeat("n", 201) + `"}`, 422, "note"},
		{`{"note": 1}`, 422, "note"},
		{`{"scopes": "self"}`, 422, "scopes"},
		{`{"scopes": [""]}`, 422, "scopes"},
		{`{"scopes": ["all"]}`, 422, "scopes"},
		{`{"scopes": ["servers!server=alice/"]}`, 422, "scopes"},
		{`{"scopes": ["servers!user=../x"]}`, 422, "scopes"},
		{`{"scopes": ["servers!user=alice!user=bob"]}`, 422, "scopes"},
		{`{"scopes": [` + strings.Repeat(`"self",`, 20) + `"self"]}`, 422, "scopes"},
		{`{"user": "bob"}`, 422, "body"},
	} {
		s.do("POST", "/users/alice/tokens", c.body, own).problem(t, c.body[:min(60, len(c.body))], c.status, c.field)
	}
	t.Attr("seen-28", "what a token is made of: 422 with the field")
	for i := range maxTokens {
		if r := s.do("POST", "/users/alice/tokens", `{"expires_in": 31622400}`, own); r.status != 201 {
			if i != maxTokens-1 { // the one that makes them counts too
				t.Fatalf("after %d: %d %s", i, r.status, r.body)
			}
			r.problem(t, "one too many", 429, "")
			return
		}
	}
	t.Error("there is no end to them")
}
