// Command pulumi-resource-tls is the provider plugin the Pulumi engine starts for "tls" resources.
package main

import (
	"context"
	"fmt"

	framework "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"

	"ai-kit/airgap/providers/bridge/tls"
)

// version is the version of the Python SDK this plugin stands in for; set by the linker.
var version = "0.0.1"

func main() {
	schema := fmt.Sprintf("{\"name\":%q,\"version\":%q}", "tls", version)
	framework.Main(context.Background(), "tls", tls.Provider(version), framework.ProviderMetadata{PackageSchema: []byte(schema)})
}
