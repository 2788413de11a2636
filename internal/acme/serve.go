package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// shown is a certificate without its key.
type shown struct {
	ID    string   `json:"id"`
	Chain [][]byte `json:"chain"` // DER
}

// wanted is a signature that a handshake needs.
type wanted struct {
	ID     string      `json:"id"`
	Hash   crypto.Hash `json:"hash"`
	Digest []byte      `json:"digest"`
}

// challenge is a certificate with the key that was made for it.
type challenge struct {
	Chain [][]byte `json:"chain"`
	Key   []byte   `json:"key"` // PKCS #8
}

const (
	maxMessage  = 64 << 10         // bytes of any message
	orderPause  = 20 * time.Second // how long a handshake waits for an order
	statusLater = http.StatusServiceUnavailable
)

func (a *Authority) serveCertificate(w http.ResponseWriter, r *http.Request) {
	ctx, done := context.WithTimeout(r.Context(), orderPause)
	defer done()
	name := tidy(r.URL.Query().Get("name"))
	c, err := a.certificate(ctx, name)
	switch {
	case errors.Is(err, errRefused):
		w.WriteHeader(http.StatusNotFound)
		return
	case err != nil:
		a.cfg.Logger.DebugContext(r.Context(), "no certificate for a handshake", "name", name, "error", err)
		w.WriteHeader(statusLater)
		return
	}
	id, err := a.hold(c)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	reply(w, shown{id, c.Certificate})
}

// serveSignature signs a digest with a certificate's key. It could be any digest's: whoever has taken
// the proxy over can pose as these names while they hold it, and no longer.
func (a *Authority) serveSignature(w http.ResponseWriter, r *http.Request) {
	var want wanted
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage)).Decode(&want); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	key, ok := a.keys[want.ID].(*ecdsa.PrivateKey)
	a.mu.Unlock()
	if !ok || !want.Hash.Available() || len(want.Digest) != want.Hash.Size() {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	signature, err := key.Sign(rand.Reader, want.Digest, want.Hash)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	reply(w, signature)
}

func (a *Authority) serveTLSChallenge(w http.ResponseWriter, r *http.Request) {
	chain, key, ok, err := a.issuer.tlsAnswer(tidy(r.URL.Query().Get("name")))
	switch {
	case err != nil:
		w.WriteHeader(http.StatusInternalServerError)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		reply(w, challenge{chain, key})
	}
}

func (a *Authority) serveHTTPChallenge(w http.ResponseWriter, r *http.Request) {
	text, ok := a.issuer.httpAnswer(tidy(r.URL.Query().Get("name")), r.URL.Query().Get("token"))
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	reply(w, text)
}

func reply(w http.ResponseWriter, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(raw) // the reader may be gone
}
