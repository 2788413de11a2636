package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"carrel/hub"
)

// hostile is an issuer that lies as it is told to, and tells the truth otherwise. Codes count as
// often as they are sent.
type hostile struct {
	t     testing.TB
	url   string
	key   *ecdsa.PrivateKey
	now   func() time.Time
	fetch atomic.Int64 // of keys
	asked atomic.Int64 // for tokens

	mu       sync.Mutex
	document func(map[string]any)
	claims   func(map[string]any)        // of ID tokens
	sign     func(map[string]any) string // replaces signing
	userinfo map[string]any
	tokens   func(map[string]any) // the token endpoint's answer
	down     bool
	codes    map[string]url.Values // what was asked for
	verifier string                // as the token endpoint last saw it
}

const (
	testClient = "carrel"
	testSecret = "a secret of the client"
)

func newHostile(t testing.TB) *hostile {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	is := &hostile{t: t, key: key, now: time.Now, codes: map[string]url.Values{}, userinfo: map[string]any{"sub": "subject-1"}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", is.serveDocument)
	mux.HandleFunc("GET /keys", is.serveKeys)
	mux.HandleFunc("POST /token", is.serveToken)
	mux.HandleFunc("GET /userinfo", func(w http.ResponseWriter, _ *http.Request) {
		is.mu.Lock()
		defer is.mu.Unlock()
		if is.userinfo == nil {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		answer(w, is.userinfo)
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		is.mu.Lock()
		down := is.down
		is.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	is.url = srv.URL
	return is
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errchkjson // a test's client is there
}

// lie sets the issuer's lies while nothing is asked of it.
func (is *hostile) lie(do func()) {
	is.mu.Lock()
	defer is.mu.Unlock()
	do()
}

func (is *hostile) config() ProviderConfig {
	return ProviderConfig{Name: "main", Issuer: is.url, ClientID: testClient, ClientSecret: hub.NewSecret(testSecret), Allowed: Allowed{Everyone: true}}
}

func (is *hostile) serveDocument(w http.ResponseWriter, _ *http.Request) {
	d := map[string]any{
		"issuer": is.url, "authorization_endpoint": is.url + "/authorize", "token_endpoint": is.url + "/token",
		"jwks_uri": is.url + "/keys", "userinfo_endpoint": is.url + "/userinfo", "end_session_endpoint": is.url + "/end",
		// It says that it knows them all, the bad ones too.
		"id_token_signing_alg_values_supported": []string{"none", "HS256", "ES256", "RS256"},
	}
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.document != nil {
		is.document(d)
	}
	answer(w, d)
}

func (is *hostile) serveKeys(w http.ResponseWriter, _ *http.Request) {
	is.fetch.Add(1)
	is.mu.Lock()
	defer is.mu.Unlock()
	answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &is.key.PublicKey, KeyID: "key-1", Algorithm: "ES256", Use: "sig"}}})
}

// code is what the issuer sends a browser back with that asked for these things.
func (is *hostile) code(asked url.Values) string {
	is.mu.Lock()
	defer is.mu.Unlock()
	code := rand.Text()
	is.codes[code] = asked
	return code
}

func (is *hostile) serveToken(w http.ResponseWriter, r *http.Request) {
	is.asked.Add(1)
	is.mu.Lock()
	defer is.mu.Unlock()
	asked, ok := is.codes[r.PostFormValue("code")]
	if r.PostFormValue("grant_type") == "refresh_token" {
		asked, ok = url.Values{}, true
	}
	id, secret, _ := r.BasicAuth()
	secret, _ = url.QueryUnescape(secret)
	if !ok || id != testClient || secret != testSecret {
		w.WriteHeader(http.StatusBadRequest)
		answer(w, map[string]any{"error": "invalid_grant"})
		return
	}
	is.verifier = r.PostFormValue("code_verifier")
	const access = "an access token"
	sum := sha256.Sum256([]byte(access))
	claims := is.truth()
	claims["nonce"] = asked.Get("nonce")
	claims["at_hash"] = base64.RawURLEncoding.EncodeToString(sum[:16])
	if is.claims != nil {
		is.claims(claims)
	}
	reply := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 60, "refresh_token": "refresh", "id_token": is.signed(claims)}
	if is.tokens != nil {
		is.tokens(reply)
	}
	answer(w, reply)
}

// truth is what an honest issuer would say.
func (is *hostile) truth() map[string]any {
	return map[string]any{
		"iss": is.url, "sub": "subject-1", "aud": testClient, "iat": is.now().Unix(), "exp": is.now().Add(time.Minute).Unix(),
		"preferred_username": "alice", "name": "Alice", "email": "alice@example.org", "email_verified": true, "groups": []string{"staff"}, "sid": "sid-1",
	}
}

func (is *hostile) signed(claims map[string]any) string {
	if is.sign != nil {
		return is.sign(claims)
	}
	return signES256(is.t, is.key, "key-1", "JWT", claims)
}

func signES256(t testing.TB, key *ecdsa.PrivateKey, kid, typ string, claims map[string]any) string {
	return signWith(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, typ, claims)
}

func signWith(t testing.TB, key jose.SigningKey, typ string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		t.Error(err)
		return ""
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Error(err)
		return ""
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Error(err)
		return ""
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Error(err)
	}
	return compact
}

// unsigned makes a token with a header of one's own.
func unsigned(t testing.TB, header, claims map[string]any, signature string) string {
	t.Helper()
	part := func(v map[string]any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(header) + "." + part(claims) + "." + signature
}

// logoutClaims are those of a good logout token, changed.
func (is *hostile) logoutClaims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": is.url, "aud": testClient, "iat": is.now().Unix(), "exp": is.now().Add(2 * time.Minute).Unix(), "jti": rand.Text(),
		"sub": "subject-1", "sid": "sid-1", "events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == missing })
	return c
}

// missing stands for a claim that is left out.
const missing = "\x00missing"
