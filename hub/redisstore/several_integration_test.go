//go:build integration

package redisstore

import (
	"context"
	"iter"
	"time"

	"carrel/hub"
)

func (s *several) CreateSession(ctx context.Context, x hub.Session) error {
	return s.pick().CreateSession(ctx, x)
}

func (s *several) Session(ctx context.Context, h hub.SecretHash) (hub.Session, error) {
	return s.pick().Session(ctx, h)
}

func (s *several) TouchSession(ctx context.Context, h hub.SecretHash, at time.Time) error {
	return s.pick().TouchSession(ctx, h, at)
}

func (s *several) UpdateSession(ctx context.Context, h hub.SecretHash, change func(*hub.Session)) error {
	return s.pick().UpdateSession(ctx, h, change)
}

func (s *several) EndSessions(ctx context.Context, q hub.SessionQuery) ([]hub.SecretHash, error) {
	return s.pick().EndSessions(ctx, q)
}

func (s *several) Sessions(ctx context.Context) iter.Seq2[hub.Session, error] {
	return s.pick().Sessions(ctx)
}

func (s *several) PutTicket(ctx context.Context, h hub.SecretHash, t hub.Ticket, ttl time.Duration) error {
	return s.pick().PutTicket(ctx, h, t, ttl)
}

func (s *several) TakeTicket(ctx context.Context, h hub.SecretHash) (hub.Ticket, error) {
	return s.pick().TakeTicket(ctx, h)
}

func (s *several) Once(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	return s.pick().Once(ctx, key, ttl)
}

func (s *several) BindUser(ctx context.Context, u hub.User) (hub.User, error) {
	return s.pick().BindUser(ctx, u)
}

func (s *several) User(ctx context.Context, name hub.UserName) (hub.User, error) {
	return s.pick().User(ctx, name)
}

func (s *several) Rebind(ctx context.Context, u hub.User) error { return s.pick().Rebind(ctx, u) }

func (s *several) DeleteUser(ctx context.Context, name hub.UserName) error {
	return s.pick().DeleteUser(ctx, name)
}

func (s *several) Users(ctx context.Context) iter.Seq2[hub.User, error] { return s.pick().Users(ctx) }

func (s *several) CreateToken(ctx context.Context, t hub.Token) error {
	return s.pick().CreateToken(ctx, t)
}

func (s *several) Token(ctx context.Context, h hub.SecretHash) (hub.Token, error) {
	return s.pick().Token(ctx, h)
}

func (s *several) DeleteToken(ctx context.Context, user hub.UserName, id string) error {
	return s.pick().DeleteToken(ctx, user, id)
}

func (s *several) Tokens(ctx context.Context, user hub.UserName) iter.Seq2[hub.Token, error] {
	return s.pick().Tokens(ctx, user)
}

func (s *several) Server(ctx context.Context, key hub.ServerKey) (hub.Server, error) {
	return s.pick().Server(ctx, key)
}

func (s *several) PutServer(ctx context.Context, x hub.Server) (hub.Server, error) {
	return s.pick().PutServer(ctx, x)
}

func (s *several) DeleteServer(ctx context.Context, x hub.Server) error {
	return s.pick().DeleteServer(ctx, x)
}

func (s *several) NextGeneration(ctx context.Context, key hub.ServerKey, least hub.Generation) (hub.Generation, error) {
	return s.pick().NextGeneration(ctx, key, least)
}

func (s *several) Servers(ctx context.Context) iter.Seq2[hub.Server, error] {
	return s.pick().Servers(ctx)
}

func (s *several) ServerLabels(ctx context.Context) iter.Seq2[string, error] {
	return s.pick().ServerLabels(ctx)
}

func (s *several) PutRoute(ctx context.Context, r hub.Route) error { return s.pick().PutRoute(ctx, r) }

func (s *several) DeleteRoute(ctx context.Context, key hub.ServerKey, g hub.Generation) error {
	return s.pick().DeleteRoute(ctx, key, g)
}

func (s *several) Routes(ctx context.Context) iter.Seq2[hub.Route, error] {
	return s.pick().Routes(ctx)
}

func (s *several) RecordActivity(ctx context.Context, acts []hub.Activity) error {
	return s.pick().RecordActivity(ctx, acts)
}

func (s *several) Activities(ctx context.Context) iter.Seq2[hub.Activity, error] {
	return s.pick().Activities(ctx)
}

func (s *several) LastChange(ctx context.Context) (string, error) { return s.pick().LastChange(ctx) }

func (s *several) Acquire(ctx context.Context, name string, ttl time.Duration) (hub.Lease, error) {
	return s.pick().Acquire(ctx, name, ttl)
}

func (s *several) Subscribe(ctx context.Context) iter.Seq[hub.Event] { return s.pick().Subscribe(ctx) }

func (s *several) Visit(ctx context.Context, name hub.UserName) (hub.Visit, error) {
	return s.pick().Visit(ctx, name)
}

func (s *several) PutVisit(ctx context.Context, v hub.Visit) (hub.Visit, error) {
	return s.pick().PutVisit(ctx, v)
}

func (s *several) DeleteVisit(ctx context.Context, v hub.Visit) error {
	return s.pick().DeleteVisit(ctx, v)
}

func (s *several) Visits(ctx context.Context) iter.Seq2[hub.Visit, error] {
	return s.pick().Visits(ctx)
}

func (s *several) CountArrival(ctx context.Context, key string, window time.Duration) (int, error) {
	return s.pick().CountArrival(ctx, key, window)
}

func (s *several) CreateRun(ctx context.Context, r hub.Run, ttl time.Duration) error {
	return s.pick().CreateRun(ctx, r, ttl)
}

func (s *several) UpdateRun(ctx context.Context, r hub.Run, ttl time.Duration) error {
	return s.pick().UpdateRun(ctx, r, ttl)
}

func (s *several) Run(ctx context.Context, id hub.RunID) (hub.Run, error) {
	return s.pick().Run(ctx, id)
}

func (s *several) DeleteRun(ctx context.Context, id hub.RunID) error {
	return s.pick().DeleteRun(ctx, id)
}

func (s *several) Runs(ctx context.Context, owner hub.UserName) iter.Seq2[hub.Run, error] {
	return s.pick().Runs(ctx, owner)
}
