package hub

import (
	"context"
	"iter"
	"net/netip"
	"strings"
	"time"
)

// A visitor has no account: their name is made for one visit, and everything of theirs goes with it.
const (
	visitorPrefix = "visitor-"
	visitorDigits = 26 // of base32: 130 bits
)

// IsVisitor tells whether the name is of the form that visitors' names have. No person with an account
// is given such a name.
func (u UserName) IsVisitor() bool {
	id, ok := strings.CutPrefix(u.s, visitorPrefix)
	return ok && len(id) == visitorDigits && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// VisitorUser is who a visitor's name stands for. There is no record of them among the people, so that
// whatever looks for one finds nobody.
func VisitorUser(name UserName) User {
	return User{ID: UserID("v" + strings.TrimPrefix(name.s, visitorPrefix)), Name: name, DisplayName: "Visitor"}
}

// VisitPhase is where a visit is in its life.
type VisitPhase string

// The phases.
const (
	VisitWaiting VisitPhase = "waiting" // in line
	VisitOpen    VisitPhase = "open"    // has a notebook, or is getting it
	VisitEnding  VisitPhase = "ending"  // everything of it is being removed
)

// Visit is one visitor's stay, from the line to the end.
type Visit struct {
	Name     UserName   `json:"name"`
	Phase    VisitPhase `json:"phase"`
	From     string     `json:"from,omitempty"` // the network that it counts to
	Path     string     `json:"path,omitempty"` // the notebook that the link named, in the server's files
	Arrived  time.Time  `json:"arrived"`
	Seen     time.Time  `json:"seen"`     // when the visitor was last heard of while in line
	Admitted time.Time  `json:"admitted"` // zero while in line
	Expires  time.Time  `json:"expires"`  // zero while in line
	Left     time.Time  `json:"left"`     // when the last page said goodbye; zero: it did not, or came back
	Extended int        `json:"extended,omitempty"`
	Why      string     `json:"why,omitempty"` // why it ends, for the visitor …
	End      VisitEnd   `json:"end,omitempty"` // … and as a word
	Revision uint64     `json:"revision"`      // counted by the store at each write
}

// Key is the visitor's server.
func (v Visit) Key() ServerKey { return ServerKey{User: v.Name} }

// VisitStore keeps visits.
type VisitStore interface {
	// Visit finds a visit; NotFound.
	Visit(ctx context.Context, name UserName) (Visit, error)
	// PutVisit writes v if the stored Revision is v.Revision (0: no record yet), and returns v with
	// its new Revision; Conflict otherwise.
	PutVisit(ctx context.Context, v Visit) (Visit, error)
	// DeleteVisit removes the record if its Revision is v.Revision; Conflict otherwise.
	DeleteVisit(ctx context.Context, v Visit) error
	// Visits yields every visit.
	Visits(ctx context.Context) iter.Seq2[Visit, error]
	// CountArrival counts one more arrival under key and tells how many there were, this one too, since
	// the first of them; after window all are forgotten. Invalid when window is 0 or less.
	CountArrival(ctx context.Context, key string, window time.Duration) (int, error)
}

// VisitPolicy is what the operator decided about visitors.
type VisitPolicy struct {
	Enabled    bool
	Profile    string
	Max        int           // visits with a notebook at once
	Line       int           // visits in line at once
	Age        time.Duration // a visit ends so long after it got its notebook
	Extend     time.Duration // what one extension gives
	Extensions int           // how many a visit may have
	Grace      time.Duration // after the last page was closed, for a reload
	AtOnce     int           // visits of one address at once; 0: no limit
	Arrivals   int           // of one address within ArrivalsIn; 0: no limit
	ArrivalsIn time.Duration
	Exempt     []netip.Prefix // networks that these two limits are not for
	Bans       []Ban
	Page       VisitPage
	Captcha    CaptchaPolicy
	Copied     bool // the server copies what a link names into the home
}

// VisitPage is what the operator says to visitors.
type VisitPage struct {
	Title, Text, Terms string // plain text
	Image              string // file; "" for none
}

// Ban shuts visitors of a network out.
type Ban struct {
	Network netip.Prefix
	Until   time.Time // zero: for ever
}

// Banned tells whether visitors from an address are shut out at now.
func (p VisitPolicy) Banned(from netip.Addr, now time.Time) bool {
	for _, b := range p.Bans {
		if b.Network.Contains(from.Unmap()) && (b.Until.IsZero() || now.Before(b.Until)) {
			return true
		}
	}
	return false
}

// share is a network that visitors are counted by, and how many times the limit of one address it has.
type share struct {
	network string
	times   int
}

// sharesOf are the networks that an address counts to, the smallest first: of IPv4 the address, of IPv6
// what one customer is given, and the larger ones that a customer may have in their place. An address
// that can't be read counts with all others like it.
func (p VisitPolicy) sharesOf(from netip.Addr) []share {
	from = from.Unmap()
	for _, n := range p.Exempt {
		if n.Contains(from) {
			return nil
		}
	}
	if !from.IsValid() {
		return []share{{"unknown", 1}}
	}
	if from.Is4() {
		return []share{{netip.PrefixFrom(from, 32).String(), 1}}
	}
	var list []share
	for _, s := range []struct{ bits, times int }{{64, 1}, {56, 4}, {48, 16}} {
		list = append(list, share{netip.PrefixFrom(from.WithZone(""), s.bits).Masked().String(), s.times})
	}
	return list
}
