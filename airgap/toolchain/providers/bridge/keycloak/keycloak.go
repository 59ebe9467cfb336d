// Package keycloak maps the upstream Keycloak provider to the tokens of the Python SDK pulumi-keycloak.
package keycloak

import (
	"github.com/keycloak/terraform-provider-keycloak/provider"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge/tokens"
	shimv2 "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim/sdk-v2"
)

// Provider describes the plugin; version is the version of the Python SDK it serves.
func Provider(version string) tfbridge.ProviderInfo {
	named := func(module, name string) *tfbridge.ResourceInfo {
		return &tfbridge.ResourceInfo{Tok: tfbridge.MakeResource("keycloak", module, name)}
	}
	// Upstream does not mark these as sensitive; the official plugin does.
	secret := func(info *tfbridge.ResourceInfo, fields ...string) *tfbridge.ResourceInfo {
		info.Fields = map[string]*tfbridge.SchemaInfo{}
		for _, field := range fields {
			info.Fields[field] = &tfbridge.SchemaInfo{Secret: tfbridge.True()}
		}
		return info
	}
	info := tfbridge.ProviderInfo{
		P:            shimv2.NewProvider(provider.KeycloakProvider(nil)),
		Name:         "keycloak",
		Version:      version,
		MetadataInfo: tfbridge.NewProviderMetadata([]byte("{}")),
		Config: map[string]*tfbridge.SchemaInfo{
			"client_timeout": {Default: &tfbridge.DefaultInfo{
				Value:   5,
				EnvVars: []string{"KEYCLOAK_CLIENT_TIMEOUT"},
			}},
		},
		// The names that do not follow from the upstream's.
		Resources: map[string]*tfbridge.ResourceInfo{
			"keycloak_attribute_to_role_identity_provider_mapper": named("index", "AttributeToRoleIdentityMapper"),
			"keycloak_custom_identity_provider_mapper":            named("index", "CustomIdentityProviderMapping"),
			"keycloak_hardcoded_role_identity_provider_mapper":    named("index", "HardcodedRoleIdentityMapper"),
			"keycloak_openid_client_client_policy":                named("openid", "ClientPolicy"),
			"keycloak_realm_keystore_java_keystore": secret(
				named("index", "RealmKeystoreJavaGenerated"), "key_password", "keystore_password",
			),
			"keycloak_realm_keystore_rsa":         secret(named("index", "RealmKeystoreRsa"), "private_key"),
			"keycloak_saml_client_default_scopes": named("saml", "ClientDefaultScope"),
			"keycloak_saml_client":                secret(named("saml", "Client"), "signing_private_key"),
		},
		DataSources: map[string]*tfbridge.DataSourceInfo{
			"keycloak_authentication_execution": {
				Tok: tfbridge.MakeDataSource("keycloak", "index", "getAuthenticationExecution"),
			},
			"keycloak_authentication_flow": {
				Tok: tfbridge.MakeDataSource("keycloak", "index", "getAuthenticationFlow"),
			},
		},
	}
	info.MustComputeTokens(tokens.KnownModules(
		"keycloak_", "index",
		[]string{"ldap_", "oidc_", "openid_", "saml_", "authentication_"},
		tokens.MakeStandard("keycloak"),
	))
	info.SetAutonaming(255, "-")
	return info
}
