// Command dump-schema prints, as JSON, what the bridged providers accept and what they mark secret:
//
//	{plugin: {resource token: {"inputs": [...], "outputs": [...], "secret": [...]}}}
//
// Nested properties appear with dots: "ports.external". Names are the SDK's wire names (camelCase).
package main

import (
	"encoding/json"
	"os"
	"sort"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	shim "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim"

	"ai-kit/airgap/providers/bridge/docker"
	"ai-kit/airgap/providers/bridge/keycloak"
	"ai-kit/airgap/providers/bridge/random"
	"ai-kit/airgap/providers/bridge/tls"
)

type resource struct {
	Inputs  []string `json:"inputs"`
	Outputs []string `json:"outputs"`
	Secret  []string `json:"secret"`
}

func (r *resource) add(prefix string, fields shim.SchemaMap, infos map[string]*tfbridge.SchemaInfo, deep int) {
	fields.Range(func(key string, s shim.Schema) bool {
		if s.Removed() != "" {
			return true
		}
		name := prefix + tfbridge.TerraformToPulumiNameV2(key, fields, infos)
		if s.Optional() || s.Required() {
			r.Inputs = append(r.Inputs, name)
		}
		if deep == 0 {
			r.Outputs = append(r.Outputs, name)
		}
		info := infos[key]
		if s.Sensitive() || (info != nil && info.Secret != nil && *info.Secret) {
			r.Secret = append(r.Secret, name)
		}
		var nested map[string]*tfbridge.SchemaInfo
		if info != nil {
			nested = info.Fields
			if info.Elem != nil {
				nested = info.Elem.Fields
			}
		}
		if elem, ok := s.Elem().(shim.Resource); ok {
			r.add(name+".", elem.Schema(), nested, deep+1)
		}
		return true
	})
}

func describe(fields shim.SchemaMap, infos map[string]*tfbridge.SchemaInfo) *resource {
	r := &resource{Inputs: []string{}, Outputs: []string{}, Secret: []string{}}
	r.add("", fields, infos, 0)
	sort.Strings(r.Inputs)
	sort.Strings(r.Outputs)
	sort.Strings(r.Secret)
	return r
}

func main() {
	all := map[string]map[string]*resource{}
	for _, info := range []tfbridge.ProviderInfo{
		docker.Provider("0.0.1"), keycloak.Provider("0.0.1"), random.Provider("0.0.1"), tls.Provider("0.0.1"),
	} {
		found := map[string]*resource{"pulumi:providers:" + info.Name: describe(info.P.Schema(), info.Config)}
		for name, res := range info.Resources {
			if upstream, ok := info.P.ResourcesMap().GetOk(name); ok {
				found[string(res.Tok)] = describe(upstream.Schema(), res.Fields)
			}
		}
		all[info.Name] = found
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(all); err != nil {
		panic(err)
	}
}
