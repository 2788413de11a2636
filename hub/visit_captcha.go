package hub

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// CaptchaKind is what a visitor shows beside the click.
type CaptchaKind string

// The kinds.
const (
	CaptchaNone CaptchaKind = ""
	CaptchaWork CaptchaKind = "work"       // that their browser worked for a moment
	CaptchaSite CaptchaKind = "siteverify" // the answer to a service's captcha
)

// CaptchaPolicy is what the operator decided about that.
type CaptchaPolicy struct {
	Kind   CaptchaKind
	Bits   int           // of work: each one more doubles it
	Exempt bool          // programs with the token of an account need none
	Widget CaptchaWidget // of a service
}

// CaptchaWidget is what the landing page shows of a service.
type CaptchaWidget struct {
	Script  string   // address
	Class   string   // of the element that the script looks for
	SiteKey string   // public
	Field   string   // of the form, that the script puts the answer in
	Origins []string // or paths of them, that the page may load scripts, frames and styles from, and talk to
}

// Captcha is a service that tells whether an answer to its captcha is right. Forbidden when it is not,
// Unavailable when that can't be told.
type Captcha interface {
	Verify(ctx context.Context, answer string, from netip.Addr) error
}

// Proof is what came with a click.
type Proof struct {
	Challenge, Answer string // of CaptchaWork
	Response          string // of CaptchaSite
}

// Challenge is work for one click.
type Challenge struct {
	Text    string    `json:"challenge"`
	Bits    int       `json:"bits"`
	Expires time.Time `json:"expires_at"`
}

const (
	challengeLasts   = 10 * time.Minute
	challengeContext = "work of a visitor"
	maxAnswer        = 32   // of work, in bytes
	maxResponse      = 8192 // of a service
)

// sealedChallenge is what a challenge holds, for us alone.
type sealedChallenge struct {
	ID      string    `json:"i"`
	From    string    `json:"f"`
	Bits    int       `json:"b"`
	Expires time.Time `json:"e"`
}

// Challenge gives work to somebody: to find an answer such that SHA-256 of "<text>:<answer>" begins with
// so many zero bits. It is good for the network that it was given to, once, for ten minutes, and nothing is
// stored until then. NotFound where none is asked for.
func (v *Visitors) Challenge(from netip.Addr) (Challenge, error) {
	p := v.Policy()
	if !p.Enabled || p.Captcha.Kind != CaptchaWork {
		return Challenge{}, &Error{Kind: NotFound, Op: "give challenge", Message: "no work is asked for here", Remedy: "ask for a notebook without any"}
	}
	c := sealedChallenge{ID: rand.Text(), From: networkOf(from), Bits: p.Captcha.Bits, Expires: time.Now().Add(challengeLasts).UTC().Truncate(time.Second)}
	plain, err := json.Marshal(c)
	if err != nil {
		return Challenge{}, Wrap(Internal, "give challenge", err)
	}
	return Challenge{Text: v.cfg.Keyring.Seal(plain, challengeContext), Bits: c.Bits, Expires: c.Expires}, nil
}

// networkOf is whom a challenge is for: an IPv4 address, or what one customer has of IPv6.
func networkOf(from netip.Addr) string { return VisitPolicy{}.sharesOf(from)[0].network }

func refuseProof(message string) error {
	return &Error{Kind: Forbidden, Op: "take visitor in", Field: "captcha", Message: message, Remedy: "go back, load the page anew and try again"}
}

// Prove checks what came with a click; each proof is good once, at all hubs. Forbidden without a good one,
// and for a network that is shut out, whose proof is not looked at.
func (v *Visitors) Prove(ctx context.Context, from netip.Addr, proof Proof) error {
	if v.Policy().Banned(from, time.Now()) {
		return v.refuseBanned()
	}
	err := v.prove(ctx, from, proof)
	if err != nil && KindOf(err) == Forbidden {
		v.cfg.Observer.VisitRefused(RefusedCaptcha)
	}
	return err
}

func (v *Visitors) prove(ctx context.Context, from netip.Addr, proof Proof) error {
	switch c := v.Policy().Captcha; c.Kind {
	case CaptchaNone:
		return nil
	case CaptchaWork:
		return v.proveWork(ctx, c, from, proof)
	case CaptchaSite:
		if v.cfg.Captcha == nil || proof.Response == "" || len(proof.Response) > maxResponse {
			return refuseProof("the captcha was not answered")
		}
		if err := v.cfg.Captcha.Verify(ctx, proof.Response, from); err != nil {
			return err
		}
		return v.once(ctx, "captcha "+proof.Response)
	}
	return refuseProof("nobody is let in")
}

func (v *Visitors) proveWork(ctx context.Context, policy CaptchaPolicy, from netip.Addr, proof Proof) error {
	if proof.Challenge == "" || proof.Answer == "" || len(proof.Answer) > maxAnswer {
		return refuseProof("your browser did not do the work that is asked for")
	}
	plain, err := v.cfg.Keyring.Open(proof.Challenge, challengeContext)
	var c sealedChallenge
	if err != nil || json.Unmarshal(plain, &c) != nil {
		return refuseProof("this work was not asked for here")
	}
	switch {
	case !time.Now().Before(c.Expires):
		return refuseProof("this work was asked for too long ago")
	case c.From != networkOf(from):
		return refuseProof("this work was asked of somebody else")
	case c.Bits < policy.Bits:
		return refuseProof("more work is asked for by now")
	case !worked(proof.Challenge, proof.Answer, c.Bits):
		return refuseProof("the work was not done")
	}
	return v.once(ctx, "work "+c.ID)
}

// worked tells whether the hash begins with so many zero bits.
func worked(challenge, answer string, want int) bool {
	sum := sha256.Sum256([]byte(challenge + ":" + answer))
	zero := 0
	for _, b := range sum {
		zero += bits.LeadingZeros8(b)
		if b != 0 {
			break
		}
	}
	return zero >= want
}

// Work does what a challenge asks for.
func Work(ctx context.Context, c Challenge) (answer string, err error) {
	for n := 0; ; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return "", Wrap(Canceled, "work", ctx.Err())
		}
		if answer = strconv.Itoa(n); worked(c.Text, answer, c.Bits) {
			return answer, nil
		}
	}
}

// once refuses what was used before.
func (v *Visitors) once(ctx context.Context, what string) error {
	n, err := v.cfg.Visits.CountArrival(ctx, "once: "+what, 2*challengeLasts)
	if err == nil && n > 1 {
		err = refuseProof("this " + strings.SplitN(what, " ", 2)[0] + " was used before")
	}
	return err
}
