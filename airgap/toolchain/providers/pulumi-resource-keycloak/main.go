// Command pulumi-resource-keycloak is the provider plugin the Pulumi engine starts for "keycloak" resources.
package main

import (
	"fmt"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"

	"ai-kit/airgap/providers/bridge/keycloak"
)

// version is the version of the Python SDK this plugin stands in for; set by the linker.
var version = "0.0.1"

func main() {
	schema := fmt.Sprintf("{\"name\":%q,\"version\":%q}", "keycloak", version)
	tfbridge.Main("keycloak", version, keycloak.Provider(version), []byte(schema))
}
