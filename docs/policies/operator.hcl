# Manages policies and tokens of the hub. Whoever may write policies may also widen their own,
# so this is for those who may see everything; unlike a root token it expires, is renewed,
# and can be changed.

path "sys/policies/acl" {
  capabilities = ["list"]
}

path "sys/policies/acl/*" {
  capabilities = ["create", "read", "update", "delete"]
}

# With "sudo" it hands out policies that it does not have itself, and makes tokens that do not
# end with its own.
path "auth/token/create" {
  capabilities = ["create", "update", "sudo"]
}

path "auth/token/create-orphan" {
  capabilities = ["create", "update", "sudo"]
}

path "auth/token/accessors" {
  capabilities = ["list", "sudo"]
}

path "auth/token/lookup-accessor" {
  capabilities = ["create", "update"]
}

path "auth/token/renew-accessor" {
  capabilities = ["create", "update"]
}

path "auth/token/revoke-accessor" {
  capabilities = ["create", "update"]
}
