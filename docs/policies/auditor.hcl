# Reads the audit log of every source, and what was done to the hub itself.

path "sys/events/subscribe/*" {
  capabilities          = ["read", "subscribe"]
  subscribe_event_types = ["tocsin/*"]
}

path "sys/audit/*" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["audit/*", "tocsin/*"]
}

path "*" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["tocsin/*"]
}

# Of the rules for a path only the most specific one counts. The policy "default" has rules
# for those below, which would win over "*"; rules with the same pattern are united.
path "auth/token/lookup-self" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["tocsin/*"]
}

path "auth/token/renew-self" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["tocsin/*"]
}

path "auth/token/revoke-self" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["tocsin/*"]
}

path "sys/capabilities-self" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["tocsin/*"]
}

path "sys/internal/ui/mounts/*" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["tocsin/*"]
}
