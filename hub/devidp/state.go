package devidp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/op"

	"carrel/hub"
)

const (
	stateFile       = "demo-provider.json"
	stateVersion    = 1
	keyKeptFor      = 24 * time.Hour // how long a key that no longer signs is published
	sessionLifetime = 30 * 24 * time.Hour
	maxSessions     = 10_000
)

// state is all that outlives a restart.
type state struct {
	path string
	aead cipher.AEAD

	mu   sync.Mutex
	kept kept
	keys []signingKey // the last signs
}

// kept is the file.
type kept struct {
	Version  int                             `json:"version"`
	Secret   []byte                          `json:"secret"`
	Keys     []keyFile                       `json:"keys"`
	Sessions map[hub.SecretHash]loginSession `json:"sessions"` // by the hash of the cookie
}

type keyFile struct {
	ID      string    `json:"id"`
	PKCS8   []byte    `json:"pkcs8"`
	Retired time.Time `json:"retired,omitzero"`
}

// loginSession is a browser in which somebody signed in to the provider.
type loginSession struct {
	SID     string    `json:"sid"` // public: the claim
	Person  string    `json:"person"`
	Created time.Time `json:"created"`
	Clients []string  `json:"clients,omitempty"` // who got tokens, and is told of the end
}

func openState(dir string) (*state, error) {
	const op = "demo provider: read state"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, hub.Wrap(hub.Internal, op, err)
	}
	s := &state{path: filepath.Join(dir, stateFile)}
	raw, err := os.ReadFile(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = s.create()
	case err == nil:
		err = s.parse(raw)
	}
	if err != nil {
		return nil, hub.Wrap(hub.Internal, op, err)
	}
	block, err := aes.NewCipher(s.kept.Secret)
	if err != nil {
		return nil, hub.Wrap(hub.Internal, op, err)
	}
	s.aead, err = cipher.NewGCM(block)
	return s, hub.Wrap(hub.Internal, op, err)
}

func (s *state) create() error {
	secret := make([]byte, 32)
	rand.Read(secret) // crypto/rand.Read never fails since Go 1.24
	s.kept = kept{Version: stateVersion, Secret: secret, Sessions: map[hub.SecretHash]loginSession{}}
	return s.rotate(true)
}

func (s *state) parse(raw []byte) error {
	malformed := &hub.Error{Kind: hub.Invalid, Op: "demo provider", Field: s.path, Message: "the demo provider's state file is malformed or of a later version", Remedy: "remove it; people will sign in again"}
	if err := json.Unmarshal(raw, &s.kept); err != nil || s.kept.Version != stateVersion || len(s.kept.Keys) == 0 || len(s.kept.Secret) != 32 {
		return malformed
	}
	for _, f := range s.kept.Keys {
		key, err := x509.ParsePKCS8PrivateKey(f.PKCS8)
		private, ok := key.(*rsa.PrivateKey)
		if err != nil || !ok {
			return malformed
		}
		s.keys = append(s.keys, signingKey{f.ID, private})
	}
	if s.kept.Sessions == nil {
		s.kept.Sessions = map[hub.SecretHash]loginSession{}
	}
	return nil
}

// save writes the file; mu is held, except at creation.
func (s *state) save() error {
	b, err := json.Marshal(s.kept) //nolint:gosec // the file is where the secret is kept
	if err != nil {
		return hub.Wrap(hub.Internal, "demo provider: write state", err)
	}
	return writeFile(s.path, b)
}

// rotate makes a new signing key.
func (s *state) rotate(forget bool) error {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return hub.Wrap(hub.Internal, "demo provider: make key", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return hub.Wrap(hub.Internal, "demo provider: make key", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if forget {
		s.keys, s.kept.Keys = nil, nil
	}
	if n := len(s.kept.Keys); n > 0 {
		s.kept.Keys[n-1].Retired = now
	}
	old := func(f keyFile) bool { return !f.Retired.IsZero() && now.Sub(f.Retired) > keyKeptFor }
	s.keys = slices.DeleteFunc(s.keys, func(k signingKey) bool {
		return slices.ContainsFunc(s.kept.Keys, func(f keyFile) bool { return f.ID == k.id && old(f) })
	})
	s.kept.Keys = slices.DeleteFunc(s.kept.Keys, old)
	id := rand.Text()
	s.keys = append(s.keys, signingKey{id, private})
	s.kept.Keys = append(s.kept.Keys, keyFile{ID: id, PKCS8: der})
	return s.save()
}

func (s *state) cryptoKey() [32]byte { return [32]byte(s.kept.Secret) }

func (s *state) signingKeys() []signingKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keys)
}

// seal encrypts a value for a purpose; the text has no colon, which op reserves.
func (s *state) seal(purpose string, v any) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce) // crypto/rand.Read never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, plain, []byte(purpose))), nil
}

func (s *state) open(purpose, sealed string, v any) error {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil || len(raw) < s.aead.NonceSize() {
		return errors.New("not a value of ours")
	}
	n := s.aead.NonceSize()
	plain, err := s.aead.Open(nil, raw[:n], raw[n:], []byte(purpose))
	if err != nil {
		return errors.New("not a value of ours")
	}
	return json.Unmarshal(plain, v)
}

// session finds the session of a cookie.
func (s *state) session(cookie string) (loginSession, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.kept.Sessions[hub.NewSecret(cookie).Hash()]
	return one, ok && time.Since(one.Created) < sessionLifetime
}

// live tells whether the session with the sid is the person's and goes on.
func (s *state) live(sid, person string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.kept.Sessions {
		if one.SID == sid {
			return one.Person == person && time.Since(one.Created) < sessionLifetime
		}
	}
	return false
}

// begin adds a session and gives the cookie's value.
func (s *state) begin(person string) (string, loginSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(s.kept.Sessions, func(_ hub.SecretHash, o loginSession) bool { return now.Sub(o.Created) >= sessionLifetime })
	for len(s.kept.Sessions) >= maxSessions {
		delete(s.kept.Sessions, s.oldest())
	}
	cookie := hub.RandomSecret()
	one := loginSession{SID: rand.Text(), Person: person, Created: now}
	s.kept.Sessions[cookie.Hash()] = one
	return cookie.Reveal(), one, s.save()
}

func (s *state) oldest() hub.SecretHash {
	var found hub.SecretHash
	for h, o := range s.kept.Sessions {
		if found == "" || o.Created.Before(s.kept.Sessions[found].Created) {
			found = h
		}
	}
	return found
}

// tokensFor notes that a client got tokens in a session.
func (s *state) tokensFor(sid, client string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, o := range s.kept.Sessions {
		if o.SID == sid && !slices.Contains(o.Clients, client) {
			o.Clients = append(slices.Clone(o.Clients), client)
			s.kept.Sessions[h] = o
			return s.save()
		}
	}
	return nil
}

// end removes the sessions that match and returns them.
func (s *state) end(match func(loginSession) bool) ([]loginSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ended []loginSession
	for h, o := range s.kept.Sessions {
		if match(o) {
			ended = append(ended, o)
			delete(s.kept.Sessions, h)
		}
	}
	if len(ended) == 0 {
		return nil, nil
	}
	return ended, s.save()
}

// signingKey implements op.SigningKey.
type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

// SignatureAlgorithm is RS256, which every client must know.
func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }

// Key is the private key.
func (k signingKey) Key() any { return k.key }

// ID is the kid.
func (k signingKey) ID() string { return k.id }

// publicKey implements op.Key.
type publicKey struct{ signingKey }

// Algorithm is RS256.
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }

// Use is to verify signatures.
func (k publicKey) Use() string { return "sig" }

// Key is the public key.
func (k publicKey) Key() any { return &k.key.PublicKey }

var (
	_ op.SigningKey = signingKey{}
	_ op.Key        = publicKey{}
)
