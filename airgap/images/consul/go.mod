module aikit.local/consul

go 1.25.9

require github.com/hashicorp/consul v1.22.7

// As upstream's own go.mod says: the first breaks what the second retracts.
exclude (
	github.com/hashicorp/go-msgpack v1.1.5
	github.com/hashicorp/go-msgpack v1.1.6
)
