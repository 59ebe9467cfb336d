# Whose stack it is may do everything, recovery keys and a root token included.
path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "scan", "sudo"] }
