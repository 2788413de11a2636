package redisstore

import (
	"context"
	"time"

	"carrel/hub"
)

// Keys of single-use things: "ticket:<hash>" and "once:<digest>", with their lives as TTLs.

// PutTicket implements [hub.TicketStore].
func (s *Store) PutTicket(ctx context.Context, h hub.SecretHash, t hub.Ticket, ttl time.Duration) error {
	const op = "keep ticket"
	if _, err := millis(op, ttl); err != nil {
		return err
	}
	return s.fail(op, s.rdb.Set(ctx, s.key("ticket", string(h)), encode(t), ttl).Err())
}

// TakeTicket implements [hub.TicketStore]. A ticket ends with the session that it was made from.
func (s *Store) TakeTicket(ctx context.Context, h hub.SecretHash) (hub.Ticket, error) {
	const op = "take ticket"
	raw, err := s.rdb.GetDel(ctx, s.key("ticket", string(h))).Result()
	if err != nil {
		return hub.Ticket{}, s.fail(op, err)
	}
	t, err := decode[hub.Ticket](op, raw)
	if err != nil {
		return hub.Ticket{}, err
	}
	switch n, err := s.rdb.Exists(ctx, s.recordKeys(t.Parent)...).Result(); {
	case err != nil:
		return hub.Ticket{}, s.fail(op, err)
	case n < 2:
		return hub.Ticket{}, notFound(op, "ticket")
	}
	return t, nil
}

// Once implements [hub.TicketStore]. When an answer is lost on its way the second asking, which
// go-redis makes by itself, is told no: what counts once may then count never, but not twice.
func (s *Store) Once(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	const op = "record single use"
	if _, err := millis(op, ttl); err != nil {
		return false, err
	}
	first, err := s.rdb.SetNX(ctx, s.key("once", digest(key)), 1, ttl).Result()
	return first, s.fail(op, err)
}

// millis is a life in Redis's unit. One that is over before it begins is Invalid: Redis would take
// it for endless.
func millis(op string, ttl time.Duration) (int64, error) {
	if ttl <= 0 {
		return 0, hub.Errorf(hub.Invalid, "redis: "+op, "a life of %v is none", ttl)
	}
	return max(ttl.Milliseconds(), 1), nil
}
