//go:build tools

// Package tools requires what the image is built from, so that go.sum has its hashes.
package tools

import _ "github.com/oauth2-proxy/oauth2-proxy/v7"
