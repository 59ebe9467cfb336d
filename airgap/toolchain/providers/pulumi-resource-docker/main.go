// Command pulumi-resource-docker is the provider plugin the Pulumi engine starts for "docker" resources.
package main

import (
	"fmt"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"

	"ai-kit/airgap/providers/bridge/docker"
)

// version is the version of the Python SDK this plugin stands in for; set by the linker.
var version = "0.0.1"

func main() {
	schema := fmt.Sprintf("{\"name\":%q,\"version\":%q}", "docker", version)
	tfbridge.Main("docker", version, docker.Provider(version), []byte(schema))
}
