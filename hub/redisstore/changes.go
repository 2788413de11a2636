package redisstore

import (
	"context"
	"crypto/rand"

	"carrel/hub"
)

// Key of changes: "change", the name of the last one of a route or a server's record. The script that
// makes a change gives it its name, and tells of it with the name of the one before.

// tell publishes an event, which is an object of JSON with something in it, as the next change.
const tell = `
local function tell(channel, change, event, name)
  local before = redis.call('GET', change) or ''
  redis.call('SET', change, name)
  redis.call('PUBLISH', channel, string.sub(event, 1, -2) .. ',"after":"' .. before .. '"}')
end`

// changed names an event's change. The name is random: a Redis that lost its last second, or was put
// back to an older state, counts on from there, and would come by a number again.
func changed(e hub.Event) hub.Event {
	e.Change = rand.Text()
	return e
}

// LastChange implements [hub.Changes].
func (s *Store) LastChange(ctx context.Context) (string, error) {
	last, err := s.rdb.Get(ctx, s.key("change")).Result()
	if isNil(err) {
		return "", nil
	}
	return last, s.fail("find last change", err)
}
