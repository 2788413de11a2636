package proxy

import (
	"net/http"
	"strings"

	"carrel/hub"
	"carrel/internal/front"
)

var errForeign = &hub.Error{Kind: hub.Forbidden, Op: "check origin", Message: "this request came from another site's page", Remedy: "open the notebook in a tab of its own"}

// sameOrigin checks that a cookie-bearing request was made by a page of this very origin. The
// server's token, which we add, switches Jupyter's own checks off, and people's hosts are same-site
// with each other: SameSite cookies do not tell them apart. Requests by token are exempt, since no
// foreign page has one.
func sameOrigin(r *http.Request, own string) error {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	switch {
	case isUpgrade(r):
		if origin != own {
			return errForeign
		}
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		if origin != "" && origin != own || origin == "" && site != "same-origin" && site != "none" {
			return errForeign
		}
	case origin != "" && origin != own:
		return errForeign
	case site != "" && site != "same-origin" && site != "none":
		if r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document" {
			return errForeign
		}
	}
	return nil
}

// isUpgrade tells whether the request asks for another protocol (RFC 9110, section 7.8).
func isUpgrade(r *http.Request) bool {
	for _, v := range r.Header.Values("Connection") {
		if front.AsksUpgrade(v) {
			return true
		}
	}
	return false
}

// isNavigation tells whether a person waits for a page, and can be led elsewhere.
func isNavigation(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || isUpgrade(r) {
		return false
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}
