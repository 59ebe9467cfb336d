//go:build tools

// Package compose exists so that Docker Compose can be built as a dependency of this module: bench/
// measures ai-kit against it.
package compose

import _ "github.com/docker/compose/v2/cmd"
