package cli

import "github.com/spf13/cobra"

const rulesLong = `Work with rules: files in Falco's language that say which events raise an alert. They are
about the audit log of Vault and OpenBao, notifications, what applications publish and the
events of source plugins alike.`

const rulesExample = `  # Are the files right, and what is wrong with them?
  tocsin rules check rules/

  # Which fields can a rule ask for?
  tocsin rules fields

  # Do the rules raise the alerts that the files beside them expect?
  tocsin rules test rules/

  # What would they have said about an audit log, or about the last day of a hub?
  tocsin rules run rules/vault.yaml --audit /var/log/vault/audit.log
  tocsin rules try rules/vault.yaml --since 24h`

func newRules(s *Streams) *cobra.Command {
	cmd := newGroup("rules", "Write, test and run rules that raise alerts", rulesLong, rulesCommands(s)...)
	cmd.Example = rulesExample
	return cmd
}

// rulesCommands returns the commands below "tocsin rules".
func rulesCommands(s *Streams) []*cobra.Command {
	return []*cobra.Command{
		newRulesFmt(s),
		newRulesCheck(s),
		newRulesFields(s),
		newRulesList(s),
		newRulesReload(s),
		newRulesRun(s),
		newRulesTry(s),
		newRulesTest(s),
	}
}
