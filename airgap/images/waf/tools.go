//go:build tools

// Package tools requires the rules that the image carries, so that go.sum has their hash.
package tools

import _ "github.com/corazawaf/coraza-coreruleset/v4"
