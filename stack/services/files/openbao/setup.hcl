# What the job `access` may. Who may write policies and roles can give themselves anything: this is a list of what the job
# does, not a wall around it. It reads no secret of anybody.
path "sys/policies/acl/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/mounts" { capabilities = ["read"] }
path "sys/mounts/kv" { capabilities = ["create", "read", "update"] }
path "sys/mounts/database" { capabilities = ["create", "read", "update"] }
path "sys/auth" { capabilities = ["read"] }
path "sys/auth/userpass" { capabilities = ["create", "read", "update", "sudo"] }
path "auth/approle/role" { capabilities = ["list"] }
path "auth/approle/role/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "auth/userpass/users/owner" { capabilities = ["create", "read", "update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "database/config/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "database/roles" { capabilities = ["list"] }
path "database/roles/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "database/creds/kit-proof" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }
path "sys/leases/revoke-prefix/database/creds/*" { capabilities = ["update", "sudo"] }
