package oidc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"carrel/hub"
)

const (
	refreshers   = 4 // sessions refreshed side by side
	leaseName    = "oidc-refresh"
	leaseTTL     = 2 * time.Minute
	slowestRound = time.Minute
	fastestRound = time.Second
)

// Run keeps the groups of those who are signed in fresh, until ctx ends; of several hubs one does.
func (a *Auth) Run(ctx context.Context) error {
	every := slowestRound
	active := false
	for _, p := range a.providers {
		if p.cfg.RefreshEvery > 0 {
			active = true
			every = min(every, p.cfg.RefreshEvery/2)
		}
	}
	if !active {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(max(every, fastestRound))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := a.round(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Logger.WarnContext(ctx, "groups were not refreshed", "error", err)
		}
	}
}

// round refreshes every session that is due, if this hub holds the lease.
func (a *Auth) round(ctx context.Context) error {
	if a.cfg.Leases == nil {
		return a.refreshDue(ctx, func() error { return nil })
	}
	lease, err := a.cfg.Leases.Acquire(ctx, leaseName, leaseTTL)
	if hub.KindOf(err) == hub.Conflict {
		return nil // another hub is at it
	}
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := lease.Release(ctx); err != nil {
			a.cfg.Logger.WarnContext(ctx, "lease not given back", "lease", leaseName, "error", err)
		}
	}()
	var mu sync.Mutex
	extended := time.Now()
	return a.refreshDue(ctx, func() error {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(extended) < leaseTTL/4 {
			return nil
		}
		extended = time.Now()
		return lease.Extend(ctx, leaseTTL)
	})
}

// due is a session whose groups are old.
type due struct {
	hub.Session
	p      *provider
	tokens tokenSet
}

func (a *Auth) refreshDue(ctx context.Context, hold func() error) error {
	now := a.cfg.Now()
	var todo []due
	for s, err := range a.cfg.Sessions.Sessions(ctx) {
		if err != nil {
			return err
		}
		p, ok := a.provider(s.Provider)
		if !ok || s.Parent != "" || p.cfg.RefreshEvery == 0 || p.cfg.Issuer != s.Identity.Issuer {
			continue
		}
		if t, ok := a.openTokens(s); ok && t.Refresh != "" && now.Sub(t.Refreshed) >= p.cfg.RefreshEvery {
			todo = append(todo, due{s, p, t})
		}
	}
	slices.SortFunc(todo, func(x, y due) int { return x.tokens.Refreshed.Compare(y.tokens.Refreshed) })
	var mu sync.Mutex
	away := map[*provider]bool{} // not asked again this round
	var lost error
	var wg sync.WaitGroup
	turns := make(chan struct{}, refreshers)
	for _, s := range todo {
		turns <- struct{}{}
		mu.Lock()
		skip := away[s.p]
		mu.Unlock()
		if lost = hold(); skip || lost != nil || ctx.Err() != nil {
			<-turns
			if lost != nil || ctx.Err() != nil {
				break
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-turns }()
			err := a.refresh(ctx, s)
			if err == nil || ctx.Err() != nil {
				return
			}
			mu.Lock()
			first := !away[s.p]
			away[s.p] = away[s.p] || hub.KindOf(err) == hub.Unavailable
			mu.Unlock()
			if first {
				a.cfg.Logger.WarnContext(ctx, "a session's groups were not refreshed", "provider", s.p.cfg.Name, "user", s.User.String(), "error", err)
			}
		})
	}
	wg.Wait()
	return lost
}

// refresh asks the provider about one session's person again. Who is no longer known there, or may
// no longer in, is signed out; a provider that is away changes nothing.
func (a *Auth) refresh(ctx context.Context, s due) error {
	d, err := s.p.discover(ctx)
	if err != nil {
		return err
	}
	token, err := s.p.renew(ctx, d, s.tokens.Refresh)
	if errors.Is(err, errRevoked) {
		if changed, err := a.refreshedMeanwhile(ctx, s); err != nil || changed {
			return err
		}
		return a.signOut(ctx, s, hub.SessionQuery{Hash: s.Hash}, "the provider ended it")
	}
	if err != nil {
		return err
	}
	// A provider that rotates refresh tokens has voided ours by now: what follows is finished even
	// when we are asked to stop.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*callTimeout)
	defer cancel()
	tokens := tokenSet{ID: s.tokens.ID, Refresh: token.RefreshToken, Refreshed: a.cfg.Now()}
	if tokens.Refresh == "" {
		tokens.Refresh = s.tokens.Refresh
	}
	who, raw, err := s.p.again(ctx, d, s.Session, token)
	if raw != "" {
		tokens.ID = raw
	}
	var user hub.User
	if err == nil {
		user, err = a.admit(ctx, s.p, who)
	}
	if errors.Is(err, errOut) && !who.partial {
		return a.signOut(ctx, s, hub.SessionQuery{Identity: s.Identity}, err.Error())
	}
	if err == nil && s.Admin && !user.Admin {
		// With the session, all that an administrator could open closes at once.
		return a.signOut(ctx, s, hub.SessionQuery{Hash: s.Hash}, "no longer an administrator")
	}
	change := func(o *hub.Session) {
		if have, ok := a.openTokens(*o); ok && have.Refreshed.After(tokens.Refreshed) {
			return // another hub, that lost its lease or took ours, was told later than we
		}
		o.Tokens = a.sealTokens(o.Hash, tokens)
		if err == nil {
			o.Groups, o.Admin = user.Groups, user.Admin
		}
	}
	kept := retry(ctx, func() error { return a.cfg.Sessions.UpdateSession(ctx, s.Hash, change) })
	return errors.Join(err, nilIfGone(kept))
}

// nilIfGone makes nothing of a session's having ended meanwhile: it stays ended.
func nilIfGone(err error) error {
	if hub.KindOf(err) == hub.NotFound {
		return nil
	}
	return err
}

// refreshedMeanwhile tells whether the refresh token that the provider takes no longer is one that
// another hub exchanged for its successor, or the session is over.
func (a *Auth) refreshedMeanwhile(ctx context.Context, s due) (bool, error) {
	now, err := a.cfg.Sessions.Session(ctx, s.Hash)
	if err != nil {
		return hub.KindOf(err) == hub.NotFound, nilIfGone(err)
	}
	t, ok := a.openTokens(now)
	return ok && t.Refresh != s.tokens.Refresh, nil
}

func (a *Auth) signOut(ctx context.Context, s due, q hub.SessionQuery, why string) error {
	_, err := a.cfg.Sessions.EndSessions(ctx, q)
	if err == nil {
		a.cfg.Logger.InfoContext(ctx, "signed out at refresh", "user", s.User.String(), "provider", s.p.cfg.Name, "session", s.Hash, "why", why)
	}
	return err
}

var (
	// errRevoked says that the provider no longer takes a refresh token.
	errRevoked = errors.New("the refresh token is void")
	// errOut says for certain that somebody may not, or may no longer, be signed in.
	errOut = errors.New("not this person, or no longer allowed")
)

func (p *provider) renew(ctx context.Context, d *discovered, refresh string) (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	token, err := d.oauth.TokenSource(d.context(ctx), &oauth2.Token{RefreshToken: refresh}).Token()
	if err == nil {
		return token, nil
	}
	if answer := (*oauth2.RetrieveError)(nil); errors.As(err, &answer) && answer.ErrorCode == "invalid_grant" {
		return nil, errRevoked
	}
	return nil, p.away(scrub(err))
}

// again reads who a refreshed session's person is: from the new ID token if there is one (OpenID
// Connect Core 1.0, section 12.2), else from userinfo.
func (p *provider) again(ctx context.Context, d *discovered, s hub.Session, token *oauth2.Token) (person, string, error) {
	claims := map[string]any{}
	raw, _ := token.Extra("id_token").(string)
	if raw != "" {
		id, c, err := p.verify(ctx, d, raw, token.AccessToken)
		if err != nil {
			return person{}, "", err
		}
		if id.Subject != s.Identity.Subject {
			return person{}, raw, fmt.Errorf("the refreshed token is about another subject: %w", errOut)
		}
		claims = c
	}
	who, err := p.describe(ctx, d, s.Identity.Subject, claims, token)
	switch {
	case errors.Is(err, errSubject):
		return person{}, raw, errors.Join(err, errOut)
	case err != nil: // told nothing of use: the identity is the same, so the name stays
		who.name = s.User
	case who.name != s.User:
		return who, raw, fmt.Errorf("the person is now named %s: %w", who.name, errOut)
	}
	return who, raw, nil
}
