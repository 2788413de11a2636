// Package templates holds the hub's pages as html/template sources, embedded in the binary.
//
// It owns the files' names and nothing else: what a page shows is decided by hub/web, which parses
// them at startup. It refuses to hold code, styles or scripts.
package templates

import "embed"

// Files are the sources: layout.html, and one file per page.
//
//go:embed *.html
var Files embed.FS
