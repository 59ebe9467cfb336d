//go:build tools

// Package gitleaks exists so that gitleaks can be built as a dependency of this module: the tests have it
// read the history of this clone and what a stack exports.
package gitleaks

import _ "github.com/zricethezav/gitleaks/v8"
