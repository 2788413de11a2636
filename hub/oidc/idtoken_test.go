package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// TestIDTokenLies is attack 43, and the parts of 42, 44 and 45 that an issuer can do.
func TestIDTokenLies(t *testing.T) {
	lies := claimLies()
	maps.Copy(lies, signatureLies(t))
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			is := newHostile(t)
			lie(is)
			h := newHub(t, nil, is.config())
			b := newBrowser(t)
			p := signInWith(h, is, b, "main")
			status := http.StatusForbidden
			if name == "an endless answer" {
				status = http.StatusServiceUnavailable
			}
			h.refused(b, p, status)
			for _, secret := range []string{"subject-1", is.url, "eyJ"} {
				if strings.Contains(p.body, secret) {
					t.Errorf("the page shows %q: %s", secret, p.body)
				}
			}
		})
	}
}

// signatureLies are tokens that the issuer did not sign, or not as an ID token.
func signatureLies(t *testing.T) map[string]func(*hostile) {
	t.Helper()
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(f func(*hostile, map[string]any) string) func(*hostile) {
		return func(is *hostile) { is.sign = func(c map[string]any) string { return f(is, c) } }
	}
	hmac := func(is *hostile, secret []byte, c map[string]any) string {
		return signWith(is.t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: "key-1"}}, "JWT", c)
	}
	return map[string]func(*hostile){
		"alg none": sign(func(is *hostile, c map[string]any) string {
			return unsigned(is.t, map[string]any{"alg": "none", "kid": "key-1"}, c, "")
		}),
		"alg None with a signature": sign(func(is *hostile, c map[string]any) string {
			return unsigned(is.t, map[string]any{"alg": "None"}, c, "AAAA")
		}),
		"HS256 with the public key": sign(func(is *hostile, c map[string]any) string {
			der, err := x509.MarshalPKIXPublicKey(&is.key.PublicKey)
			if err != nil {
				is.t.Error(err)
			}
			return hmac(is, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), c)
		}),
		"HS256 with the client secret": sign(func(is *hostile, c map[string]any) string {
			return hmac(is, []byte(testSecret+strings.Repeat("\x00", 32)), c)
		}),
		"another key, unknown kid": sign(func(is *hostile, c map[string]any) string { return signES256(is.t, other, "key-2", "JWT", c) }),
		"another key, known kid":   sign(func(is *hostile, c map[string]any) string { return signES256(is.t, other, "key-1", "JWT", c) }),
		"another key in the header": sign(func(is *hostile, c map[string]any) string {
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: other}, &jose.SignerOptions{EmbedJWK: true})
			if err != nil {
				is.t.Error(err)
				return ""
			}
			signed, err := signer.Sign([]byte(fmt.Sprintf(`{"iss":%q,"sub":"x","aud":%q}`, is.url, testClient)))
			if err != nil {
				is.t.Error(err)
				return ""
			}
			compact, err := signed.CompactSerialize()
			if err != nil {
				is.t.Error(err)
			}
			return compact
		}),
		"changed after signing": sign(func(is *hostile, c map[string]any) string {
			parts := strings.Split(signES256(is.t, is.key, "key-1", "JWT", c), ".")
			c["preferred_username"] = "root"
			return parts[0] + "." + strings.Split(unsigned(is.t, nil, c, ""), ".")[1] + "." + parts[2]
		}),
		"an access token":    sign(func(is *hostile, c map[string]any) string { return signES256(is.t, is.key, "key-1", "at+jwt", c) }),
		"a logout token":     sign(func(is *hostile, c map[string]any) string { return signES256(is.t, is.key, "key-1", "logout+jwt", c) }),
		"garbage":            sign(func(*hostile, map[string]any) string { return "eyJhbGciOiJFUzI1NiJ9.e30" }),
		"none at all":        func(is *hostile) { is.tokens = func(r map[string]any) { delete(r, "id_token") } },
		"ID token no string": func(is *hostile) { is.tokens = func(r map[string]any) { r["id_token"] = 7 } },
	}
}

// claimLies are well-signed tokens that say what they must not.
func claimLies() map[string]func(*hostile) {
	claim := func(name string, value any) func(*hostile) {
		return func(is *hostile) {
			is.claims = func(c map[string]any) {
				if value == missing {
					delete(c, name)
					return
				}
				c[name] = value
			}
		}
	}
	return map[string]func(*hostile){
		"aud another":     claim("aud", "another"),
		"aud missing":     claim("aud", missing),
		"aud prefix":      claim("aud", testClient+"-2"),
		"two aud, no azp": claim("aud", []string{testClient, "another"}),
		"azp another":     claim("azp", "another"),
		"azp no string":   claim("azp", []string{testClient}),
		"iss another":     claim("iss", "https://evil.example.org"),
		"iss with a slash": func(is *hostile) {
			is.claims = func(c map[string]any) { c["iss"] = is.url + "/" }
		},
		"iss missing":     claim("iss", missing),
		"exp past":        claim("exp", time.Now().Add(-time.Minute).Unix()),
		"exp missing":     claim("exp", missing),
		"nbf future":      claim("nbf", time.Now().Add(time.Hour).Unix()),
		"iat future":      claim("iat", time.Now().Add(time.Hour).Unix()),
		"nonce missing":   claim("nonce", missing),
		"nonce empty":     claim("nonce", ""),
		"nonce another":   claim("nonce", "another"),
		"sub missing":     claim("sub", missing),
		"sub too long":    claim("sub", strings.Repeat("s", 256)),
		"at_hash another": claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"),
		"userinfo of another": func(is *hostile) {
			claim("groups", missing)(is)
			is.userinfo = map[string]any{"sub": "subject-2", "groups": []string{"admins"}}
		},
		"userinfo of nobody": func(is *hostile) {
			claim("groups", missing)(is)
			is.userinfo = map[string]any{"groups": []string{"admins"}}
		},
		"name missing":        claim("preferred_username", missing),
		"name with a path":    claim("preferred_username", "../alice"),
		"name with %2f":       claim("preferred_username", "a%2fb"),
		"name in look-alikes": claim("preferred_username", "аlice"), // the first letter is Cyrillic
		"name of a megabyte":  claim("preferred_username", strings.Repeat("a", 1<<19)),
		"name no string":      claim("preferred_username", map[string]any{"a": "b"}),
		"an endless answer":   func(is *hostile) { is.tokens = func(r map[string]any) { r["pad"] = strings.Repeat("x", 2<<20) } },
	}
}
