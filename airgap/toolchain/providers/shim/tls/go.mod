module github.com/hashicorp/terraform-provider-tls/shim

go 1.25.0

require github.com/hashicorp/terraform-provider-tls v0.0.0
