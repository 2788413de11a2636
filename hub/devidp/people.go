package devidp

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"carrel/hub"
)

// Person is somebody who can sign in. Give Password or PasswordHash (bcrypt).
type Person struct {
	Name         string
	DisplayName  string
	Email        string
	Groups       []string
	Admin        bool // says who gets the hub's admin rights; the provider itself only adds the group "admins"
	Password     hub.Secret
	PasswordHash string
}

// AdminGroup is the group of the people whose Admin is set.
const AdminGroup = "admins"

const passwordCost = bcrypt.DefaultCost

// ready checks a person and sees to the hash.
func (one Person) ready() (Person, error) {
	name, err := hub.ParseUserName(one.Name)
	if err != nil {
		return Person{}, hub.Wrap(hub.Invalid, "demo provider: people", err)
	}
	one.Name = name.String()
	if one.PasswordHash == "" {
		if one.Password.IsZero() {
			return Person{}, invalid("people", one.Name+" has no password", "give one, or its bcrypt hash")
		}
		hash, err := bcrypt.GenerateFromPassword([]byte(one.Password.Reveal()), passwordCost)
		if err != nil {
			return Person{}, invalid("people", one.Name+"'s password is longer than 72 bytes", "choose a shorter one")
		}
		one.PasswordHash = string(hash)
	}
	if _, err := bcrypt.Cost([]byte(one.PasswordHash)); err != nil {
		return Person{}, invalid("people", one.Name+"'s password hash is not bcrypt's", "make it anew")
	}
	if one.DisplayName == "" {
		one.DisplayName = one.Name
	}
	one.Groups = slices.Clone(one.Groups)
	if one.Admin && !slices.Contains(one.Groups, AdminGroup) {
		one.Groups = append(one.Groups, AdminGroup)
	}
	return one, nil
}

// GeneratePeople makes people with random passwords that can be read aloud; the first is the
// administrator.
func GeneratePeople(names []string) ([]Person, error) {
	people := make([]Person, 0, len(names))
	for i, name := range names {
		one, err := generate(name, i == 0)
		if err != nil {
			return nil, err
		}
		people = append(people, one)
	}
	return people, nil
}

func generate(name string, admin bool) (Person, error) {
	display := name
	if name != "" {
		display = strings.ToUpper(name[:1]) + name[1:]
	}
	email := name
	if !strings.Contains(name, "@") {
		email = name + "@example.org"
	}
	return Person{Name: name, DisplayName: display, Email: email, Groups: []string{"demo"}, Admin: admin, Password: readable()}.ready()
}

// readable makes a password of eight syllables, 53 random bits.
func readable() hub.Secret {
	const consonants, vowels = "bcdfghjklmnprstvwxyz", "aeiou"
	var b strings.Builder
	for i := range 8 {
		if i > 0 && i%2 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(pick(consonants))
		b.WriteByte(pick(vowels))
	}
	return hub.NewSecret(b.String())
}

func pick(from string) byte {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(from))))
	if err != nil {
		panic(err) // crypto/rand never fails since Go 1.24
	}
	return from[n.Int64()]
}

// personFile is a person as in the people file, whose reader wants to sign in: it holds the password.
type personFile struct {
	Name         string   `json:"name"`
	Password     string   `json:"password"`
	PasswordHash string   `json:"password_hash"`
	DisplayName  string   `json:"display_name"`
	Email        string   `json:"email"`
	Groups       []string `json:"groups"`
	Admin        bool     `json:"admin"`
}

// LoadPeople reads the people named from a file of mode 0600, making those that it lacks, and tells
// whether any was made. The file's passwords are for its reader to sign in with.
func LoadPeople(path string, names []string) (people []Person, made bool, err error) {
	const op = "demo provider: people file"
	var known []personFile
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, false, hub.Wrap(hub.Internal, op, err)
	default:
		if err := json.Unmarshal(raw, &known); err != nil {
			return nil, false, &hub.Error{Kind: hub.Invalid, Op: op, Field: path, Message: "the file of demo people is malformed", Remedy: "remove it, and it is made anew with new passwords", Err: err}
		}
	}
	for i, given := range names {
		parsed, err := hub.ParseUserName(given)
		if err != nil {
			return nil, false, hub.Wrap(hub.Invalid, "demo provider: people", err)
		}
		name := parsed.String() // as the file has it
		at := slices.IndexFunc(known, func(f personFile) bool { return f.Name == name })
		var one Person
		if at >= 0 {
			f := known[at]
			one, err = Person{f.Name, f.DisplayName, f.Email, f.Groups, f.Admin, hub.NewSecret(f.Password), f.PasswordHash}.ready()
		} else {
			made = true
			one, err = generate(name, i == 0)
		}
		if err != nil {
			return nil, false, err
		}
		people = append(people, one)
	}
	if !made && len(known) == len(people) {
		return people, false, nil
	}
	return people, made, writePeople(path, people)
}

func writePeople(path string, people []Person) error {
	list := make([]personFile, 0, len(people))
	for _, p := range people {
		list = append(list, personFile{p.Name, p.Password.Reveal(), p.PasswordHash, p.DisplayName, p.Email, p.Groups, p.Admin})
	}
	b, err := json.MarshalIndent(list, "", "  ") //nolint:gosec // the file tells people their passwords
	if err != nil {
		return hub.Wrap(hub.Internal, "demo provider: people file", err)
	}
	return writeFile(path, append(b, '\n'))
}

// writeFile replaces a file in one step; it is the owner's alone, and durable.
func writeFile(path string, b []byte) error {
	const op = "demo provider: write state"
	f, err := os.CreateTemp(filepath.Dir(path), ".demo-*") // mode 0600
	if err != nil {
		return hub.Wrap(hub.Internal, op, err)
	}
	defer os.Remove(f.Name()) // gone once renamed
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return hub.Wrap(hub.Internal, op, err)
}

// guesses slows the guessing of passwords, by name, known or not.
type guesses struct {
	mu    sync.Mutex
	names map[string]guess
	turns chan struct{} // how many hashes are computed at once
}

type guess struct {
	failures int
	last     time.Time
}

const (
	freeGuesses  = 5
	longestPause = time.Minute
	forgetAfter  = 15 * time.Minute
	maxNames     = 10_000
)

func newGuesses() *guesses {
	return &guesses{names: map[string]guess{}, turns: make(chan struct{}, 2)}
}

// wait tells how long the name must rest before the next guess, and counts this one as failed
// beforehand, so that guesses side by side do not pass for one.
func (g *guesses) wait(name string, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.names[name]
	if now.Sub(e.last) > forgetAfter {
		e = guess{}
	}
	if e.failures >= freeGuesses {
		pause := min(time.Second<<min(e.failures-freeGuesses, 10), longestPause)
		if rest := e.last.Add(pause).Sub(now); rest > 0 {
			return rest
		}
	}
	if len(g.names) >= maxNames {
		g.names = map[string]guess{} // a flood of names; the few real ones start anew
	}
	g.names[name] = guess{e.failures + 1, now}
	return 0
}

func (g *guesses) forget(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.names, name)
}

// nobodysHash is compared for names that do not exist, so that they take as long.
var nobodysHash = sync.OnceValue(func() []byte {
	h, err := bcrypt.GenerateFromPassword([]byte("nobody"), passwordCost)
	if err != nil {
		panic(err) // the password is short
	}
	return h
})

// checkPassword tells whether the password is the person's, as slowly for unknown names.
func (p *Provider) checkPassword(name, password string) (Person, bool) {
	p.guesses.turns <- struct{}{}
	defer func() { <-p.guesses.turns }()
	hash := nobodysHash()
	one, known := p.person(name)
	if known {
		hash = []byte(one.PasswordHash)
	}
	right := bcrypt.CompareHashAndPassword(hash, []byte(password[:min(len(password), 72)])) == nil
	return one, right && known && len(password) <= 72
}
