package proxy

import (
	"context"
	"net/http"
	"time"

	"carrel/hub"
)

// A visitor's page says goodbye when it is closed, and the visit ends unless a page is there within a
// grace. What says by itself that it is there comes late: JupyterLab may take longer to load. So the hub is
// told of whatever else a page asks for.

const (
	// goodbyeOver is how long after a goodbye requests of the page that was closed may still come.
	goodbyeOver = time.Second
	tellWithin  = 10 * time.Second
)

// saidGoodbye notes that a page of a visitor's was closed.
func (p *Proxy) saidGoodbye(rt *route) {
	if rt != nil {
		rt.rest.goodbye.Store(time.Now().UnixNano())
	}
}

// isBack tells the hub of a page that asks for something after another was closed.
func (p *Proxy) isBack(ctx context.Context, rt *route) {
	at := rt.rest.goodbye.Load()
	if at != 0 && time.Since(time.Unix(0, at)) > goodbyeOver && rt.rest.goodbye.CompareAndSwap(at, 0) {
		p.tellBack(ctx, rt.Key)
	}
}

func (p *Proxy) tellBack(ctx context.Context, key hub.ServerKey) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), tellWithin) // the page may be gone again
	defer done()
	status, err := p.call(ctx, "back", key)
	if err != nil || status != http.StatusNoContent && status != http.StatusNotFound {
		p.cfg.Logger.WarnContext(ctx, "the hub does not know that a visitor is back", "server", key.String(), "status", status, "error", err)
	}
}
