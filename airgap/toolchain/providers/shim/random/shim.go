// Package shim opens the upstream provider, which lives in an internal package: Go lets a module
// whose path lies below the upstream's import it.
package shim

import (
	"github.com/hashicorp/terraform-plugin-framework/provider"
	upstream "github.com/terraform-providers/terraform-provider-random/internal/provider"
)

// NewProvider returns the upstream provider (terraform-plugin-framework).
func NewProvider() provider.Provider { return upstream.New() }
