# One policy for all teams: the token says which team it belongs to.

path "sys/events/subscribe/kv*" {
  capabilities = ["read"]
}

path "secret/+/{{token.metadata.team}}/*" {
  capabilities          = ["list", "subscribe"]
  subscribe_event_types = ["kv-v2/*"]
}
