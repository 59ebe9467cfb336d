// Package shim opens the upstream provider, which lives in an internal package: Go lets a module
// whose path lies below the upstream's import it.
package shim

import (
	"github.com/hashicorp/terraform-plugin-sdk/v2/helper/schema"
	"github.com/terraform-providers/terraform-provider-docker/internal/provider"
)

// NewProvider returns the upstream provider (terraform-plugin-sdk/v2).
func NewProvider(version string) *schema.Provider { return provider.New(version)() }
