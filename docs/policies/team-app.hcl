# Team "app": sees every change of the secrets below secret/app/.

# Connect: "read" on the path of the subscription, with the event type as it is asked for.
path "sys/events/subscribe/kv*" {
  capabilities = ["read"]
}

# See: "subscribe" on the path of the event, for these event types. The "+" stands for
# data, metadata, delete, undelete and destroy, which kv version 2 puts before the key.
path "secret/+/app/*" {
  capabilities          = ["list", "subscribe"]
  subscribe_event_types = ["kv-v2/*"]
}

# Nobody needs to know about this one, not even its team.
path "secret/+/app/break-glass" {
  capabilities = ["deny"]
}
