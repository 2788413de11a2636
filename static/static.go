// Package static holds the hub's styles, scripts and icon, embedded in the binary.
//
// It owns the files' names; hub/web serves them under addresses that carry their hash. It refuses
// to hold anything that a build step would have to make.
package static

import "embed"

// Files are carrel.css, carrel.svg, one script per page that has one, and what scripts share.
//
//go:embed *.css *.js *.svg
var Files embed.FS
