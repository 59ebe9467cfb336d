//go:build tools

// Package cli exists so that the Pulumi CLI, which "go install pkg@version" refuses because its
// own go.mod has replace directives, can be built as a dependency of this module.
package cli

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
