//go:build tools

// Package tools requires what the image is built from, so that go.sum has its hashes.
package tools

import _ "github.com/go-acme/lego/v4/cmd/lego"
