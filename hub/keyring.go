package hub

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Keyring derives every secret of a deployment from one: a key per purpose by HKDF-SHA-256
// (RFC 5869), so that a process can be given the few that it needs ([Keyring.ForProxy]).
type Keyring struct {
	deployment string
	keys       map[purpose][]byte
}

type purpose string

const (
	purposeServerToken purpose = "server-token"
	purposeUserID      purpose = "user-id"
	purposeLabel       purpose = "label-mac"
	purposeSealHub     purpose = "seal-hub"
	purposeSealEdge    purpose = "seal-edge"
	purposePassword    purpose = "service-password"
	purposeVisitor     purpose = "visitor-name"
)

var allPurposes = []purpose{purposeServerToken, purposeUserID, purposeLabel, purposeSealHub, purposeSealEdge, purposePassword, purposeVisitor}

// NewKeyring derives a deployment's keys from its secret, which is 32 bytes or more; errors are Invalid.
func NewKeyring(deployment string, secret []byte) (*Keyring, error) {
	if len(secret) < 32 {
		return nil, &Error{Kind: Invalid, Op: "derive keys", Field: "deployment key", Message: "the deployment key has fewer than 32 bytes", Remedy: "remove the file to have a new one made, or restore it from a backup"}
	}
	k := &Keyring{deployment: deployment, keys: map[purpose][]byte{}}
	for _, p := range allPurposes {
		key, err := hkdf.Key(sha256.New, secret, []byte("carrel "+deployment), string(p), 32)
		if err != nil {
			return nil, Wrap(Internal, "derive keys", err)
		}
		k.keys[p] = key
	}
	return k, nil
}

// Deployment is the deployment's name.
func (k *Keyring) Deployment() string { return k.deployment }

// ForProxy gives the keys that a proxy needs: those of server tokens, edge cookies and its own
// store password.
func (k *Keyring) ForProxy() *Keyring {
	return &Keyring{deployment: k.deployment, keys: map[purpose][]byte{
		purposeServerToken: k.keys[purposeServerToken],
		purposeSealEdge:    k.keys[purposeSealEdge],
	}}
}

// Marshal writes the keyring for a child process, over a pipe: it is as secret as the keys.
func (k *Keyring) Marshal() []byte {
	var b strings.Builder
	b.WriteString(k.deployment + "\n")
	for p, key := range k.keys {
		fmt.Fprintf(&b, "%s %s\n", p, hex.EncodeToString(key))
	}
	return []byte(b.String())
}

// UnmarshalKeyring reads what [Keyring.Marshal] wrote.
func UnmarshalKeyring(b []byte) (*Keyring, error) {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	k := &Keyring{deployment: lines[0], keys: map[purpose][]byte{}}
	for _, l := range lines[1:] {
		p, h, _ := strings.Cut(l, " ")
		key, err := hex.DecodeString(h)
		if err != nil || len(key) != 32 {
			return nil, &Error{Kind: Invalid, Op: "read keys", Message: "the keys handed over are malformed"}
		}
		k.keys[purpose(p)] = key
	}
	return k, nil
}

// mac is HMAC-SHA-256 over the parts, each with its length in front so that no two lists collide.
func (k *Keyring) mac(p purpose, parts ...string) []byte {
	key, ok := k.keys[p]
	if !ok {
		panic("hub: this process was not given the key for " + string(p))
	}
	m := hmac.New(sha256.New, key)
	for _, s := range parts {
		m.Write([]byte(strconv.Itoa(len(s)) + ":" + s))
	}
	return m.Sum(nil)
}

// ServerToken is the server's own token: HMAC over deployment, server and generation, so that it
// needs no store. Nobody but the proxy, the hub and the server ever sees it.
func (k *Keyring) ServerToken(key ServerKey, g Generation) Secret {
	return Secret{hex.EncodeToString(k.mac(purposeServerToken, k.deployment, key.User.s, key.Server.s, strconv.FormatUint(uint64(g), 10)))}
}

// UserID derives the immutable id of the person whom an identity names: "u" and 26 base32 digits.
func (k *Keyring) UserID(id Identity) UserID {
	sum := k.mac(purposeUserID, k.deployment, id.Issuer, id.Subject)
	return UserID("u" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum))[:26])
}

// Visitor is the name of the visitor whose session has the secret: "visitor-" and 26 base32 digits. It can
// be neither guessed nor made without the secret, and tells nothing of it.
func (k *Keyring) Visitor(session Secret) UserName {
	sum := k.mac(purposeVisitor, k.deployment, session.s)
	return UserName{visitorPrefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum))[:visitorDigits]}
}

// LabelMAC authenticates what a driver writes on a container, as labels can be forged by images.
// Parts are positional.
func (k *Keyring) LabelMAC(parts ...string) string {
	return hex.EncodeToString(k.mac(purposeLabel, append([]string{k.deployment}, parts...)...))
}

// CheckLabelMAC tells in constant time whether mac is that of parts.
func (k *Keyring) CheckLabelMAC(mac string, parts ...string) bool {
	return hmac.Equal([]byte(mac), []byte(k.LabelMAC(parts...)))
}

// Password derives the password of a service that Carrel itself supervises.
func (k *Keyring) Password(service string) Secret {
	return Secret{hex.EncodeToString(k.mac(purposePassword, k.deployment, service))}
}

// Seal encrypts and authenticates plaintext for the hub (AES-256-GCM, random nonce); context is
// authenticated with it and must be the same at [Keyring.Open].
func (k *Keyring) Seal(plaintext []byte, context string) string {
	return k.seal(purposeSealHub, plaintext, context)
}

// Open undoes Seal; the error is Invalid.
func (k *Keyring) Open(sealed, context string) ([]byte, error) {
	return k.open(purposeSealHub, sealed, context)
}

// SealEdge is Seal for what the proxy reads too.
func (k *Keyring) SealEdge(plaintext []byte, context string) string {
	return k.seal(purposeSealEdge, plaintext, context)
}

// OpenEdge undoes SealEdge; the error is Invalid.
func (k *Keyring) OpenEdge(sealed, context string) ([]byte, error) {
	return k.open(purposeSealEdge, sealed, context)
}

func (k *Keyring) aead(p purpose) cipher.AEAD {
	key, ok := k.keys[p]
	if !ok {
		panic("hub: this process was not given the key for " + string(p))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // standard block size
	}
	return gcm
}

func (k *Keyring) seal(p purpose, plaintext []byte, context string) string {
	gcm := k.aead(p)
	nonce := make([]byte, gcm.NonceSize())
	rand.Read(nonce) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(gcm.Seal(nonce, nonce, plaintext, []byte(k.deployment+"\x00"+context)))
}

func (k *Keyring) open(p purpose, sealed, context string) ([]byte, error) {
	fail := &Error{Kind: Invalid, Op: "open sealed value", Message: "this value was not made here, or was changed"}
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	gcm := k.aead(p)
	if err != nil || len(raw) < gcm.NonceSize() {
		return nil, fail
	}
	plain, err := gcm.Open(nil, raw[:gcm.NonceSize()], raw[gcm.NonceSize():], []byte(k.deployment+"\x00"+context))
	if err != nil {
		return nil, fail
	}
	return plain, nil
}
