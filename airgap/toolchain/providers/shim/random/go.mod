module github.com/terraform-providers/terraform-provider-random/shim

go 1.25.0

require github.com/terraform-providers/terraform-provider-random v0.0.0
