# One server, which is its own majority. Nobody joins: its own port for that listens on loopback.
ui = false
api_addr = "http://openbao:8200"
cluster_addr = "http://127.0.0.1:8201"
log_level = "info"

listener "tcp" {
  address = "0.0.0.0:8200"
  cluster_address = "127.0.0.1:8201"
  # The data zone is a network of this machine alone, which nobody outside is on (docs/adr/0022-openbao.md).
  tls_disable = true
}

# Roles have secrets of 256 bits, which nobody guesses; who is wrong often enough would lock out who is right.
user_lockout "approle" {
  disable_lockout = "true"
}

storage "raft" {
  path = "/openbao/file"
  node_id = "kit"
}

# Who asked for what, in the container's log. Values stand there as an HMAC with a key of the server's own.
audit "file" "log" {
  description = "to the container's log"
  options {
    file_path = "stdout"
  }
}

# Once, when the volume is new. The server makes a root token for these requests, tells it to nobody, and revokes it.
# What comes out is one way in, for the job `access`, which makes everything else.
initialize "kit" {
  request "roles" {
    operation = "update"
    path = "sys/auth/approle"
    data = {
      type = "approle"
    }
  }
  request "policy" {
    operation = "update"
    path = "sys/policies/acl/kit-setup"
    data = {
      policy = {
        eval_type = "string"
        eval_source = "file"
        path = "/run/kit/setup.hcl"
      }
    }
  }
  request "role" {
    operation = "update"
    path = "auth/approle/role/kit-setup"
    data = {
      role_id = "kit-setup"
      token_policies = ["kit-setup"]
      token_no_default_policy = true
      token_ttl = 300
      token_max_ttl = 300
    }
  }
  request "secret" {
    operation = "update"
    path = "auth/approle/role/kit-setup/custom-secret-id"
    data = {
      secret_id = {
        eval_type = "string"
        eval_source = "file"
        path = "/run/kit/setup"
      }
    }
  }
}
