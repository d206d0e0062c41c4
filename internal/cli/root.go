package cli

import "github.com/spf13/cobra"

const rootLong = `Tocsin takes in the audit log of Vault or OpenBao, makes every entry durable, derives the
event notifications that follow from it, and serves them over the WebSocket API that
Vault's own clients speak, to whom policies allow to see them. Sinks send them on, to files,
webhooks, Slack, Kafka and others. Applications publish events of their own, over HTTP, gRPC
or from the command line, and Vault plugins run below it, unmodified.

Exit codes: 0 done or ended by the user, 1 something failed, 2 wrong usage, 3 done, but
some input was not understood or refused, 4 done, and a policy does not allow what was
asked.`

const rootExample = `  # A hub to try things out, with a replayed audit log.
  tocsin dev --demo

  # In another terminal: one JSON event per line.
  tocsin events subscribe 'kv-v2/*'

  # Say something yourself.
  tocsin events publish app/order-placed path=orders/4711

  # Send events on: to Slack, whose URL is a secret in a file.
  tocsin sink add slack --type template --set preset=slack --secret secret_url=@slack-url --test

  # A Vault plugin, and the events that it sends.
  tocsin plugin run ./vault-plugin-secrets-kv --path secret --option version=2

  # Who may see what: try a policy, store it, and give a token for it away.
  tocsin policy test --policy team-a.hcl --path secret/data/team-a/db --event-type kv-v2/data-write
  tocsin policy write team-a team-a.hcl
  tocsin token create --policy team-a --ttl 8h

  # What happened according to an audit log, without a hub.
  tocsin audit events /var/log/vault/audit.log`

func newRoot(s *Streams) *cobra.Command {
	root := newGroup("tocsin", "Event notifications and audit for infrastructure", rootLong,
		newDev(s),
		newServer(s),
		newGroup("events", "Read and publish event notifications", "Read event notifications from a hub, and publish them to it.",
			newSubscribe(s), newPublish(s), newEventTypes(s)),
		newSink(s),
		newCapture(s),
		newPlugin(s),
		newPluginHost(s),
		newRules(s),
		newPolicy(s),
		newToken(s),
		newLogin(s),
		newLogout(s),
		newStatus(s),
		newGroup("audit", "Work with audit logs", "Work with audit logs.", newAuditEvents(s), newAuditImport(s), newAuditSpans(s), newAuditStats(s)),
		newGroup("config", "Show and check the configuration", "Show and check the configuration of \"tocsin server\".", newConfigShow(s), newConfigCheck(s)),
		newVersion(s),
	)
	root.Example = rootExample
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}
