package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

const sinkFieldsLong = `
A definition has the keys of an element of "sinks" in the configuration file. It comes from
a file, from flags, or from both: flags come last. Keys of the section of the type can be
written without its name, url for webhook.url. "tocsin sink kinds TYPE" explains all keys.

Secrets are no arguments, because every user of the machine can see arguments. In a file,
{env: NAME} and {file: PATH} are read on this machine and sent to the hub, which encrypts
them and never shows them again.`

func newSinkAdd(s *Streams) *cobra.Command {
	var (
		d     defineFlags
		patch sinkPatches
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "add [NAME]",
		Short: "Add a sink",
		Long: `Add a sink to a hub that runs. It is there at once and survives restarts.
` + sinkFieldsLong + `

Exit codes: 0 it was added; 1 it was not; 3 it was, and the event of --test was not delivered.`,
		Example: `  # A webhook for what happens to secrets of a mount.
  tocsin sink add deploys --type webhook --url https://hooks.example.com/tocsin --types 'kv-v2/*'

  # Slack: the URL is a secret, and is in a file.
  tocsin sink add slack --type template --set preset=slack --secret secret_url=@slack-url --test

  # Signed, with a key of "tocsin sink keygen".
  tocsin sink add signed --type webhook --url https://example.com/in --secret signing_keys=@whsec.key

  # Kafka.
  tocsin sink add lake --type kafka --set brokers=kafka1:9092 --set brokers=kafka2:9092 --set topic=events

  # From a file; the name may be in it.
  tocsin sink add -f slack.yaml --dry-run`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return nil
			case 1:
				return checkSinkName(cmd, args[0])
			}
			return usagef(cmd, "unexpected argument %q", args[1])
		},
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		if err := patch.check(cmd); err != nil {
			return err
		}
		if patch.file == "" && len(patch.all) == 0 {
			return usagef(cmd, "there is no definition: give --file, or --type and what the type needs")
		}
		definition, err := patch.begin(s)
		if err == nil {
			err = patch.apply(cmd.Context(), s, definition)
		}
		if err != nil {
			return err
		}
		name := definition.value("name")
		if len(args) == 1 {
			name = args[0]
		}
		switch {
		case name == "":
			return usagef(cmd, "the NAME of the sink is missing")
		case !config.IsSinkName(name):
			return checkSinkName(cmd, name)
		}
		if d.dryRun {
			return d.show(s, name, definition)
		}
		old, err := c.definedSink(cmd.Context(), name)
		switch {
		case err != nil:
			return err
		case old != nil && old.Origin != removedSink:
			return &adviceError{fmt.Errorf("there is already a sink %s", name), fmt.Sprintf("Change it with \"tocsin sink set %s\", or choose another name.", name)}
		}
		return d.write(cmd.Context(), s, c, name, definition, old)
	})
	d.register(cmd)
	patch.register(cmd, false)
	return cmd
}

func newSinkSet(s *Streams) *cobra.Command {
	var (
		d     defineFlags
		patch sinkPatches
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "set NAME",
		Short: "Change or replace the definition of a sink",
		Long: `Change the definition of a sink that was added while the hub runs. With --file the
definition is replaced by that of the file, else by the present one with the changes that
the flags say. The sink goes on where it was, and keeps its dead letters.

Secrets that are "<secret>" stay what they are, unless the place that they are sent to has
changed: then they have to be given again.
` + sinkFieldsLong + `

Exit codes: 0 it was changed; 1 it was not; 3 it was, and the event of --test was not delivered.`,
		Example: `  tocsin sink set deploys --types 'kv-v2/*,pki/*' --set batch.events=100

  # Another secret.
  tocsin sink set deploys --secret bearer_token=prompt

  # A default again.
  tocsin sink set deploys --unset retry.give_up

  tocsin sink show deploys --definition > deploys.yaml
  tocsin sink set deploys -f deploys.yaml --dry-run`,
		Args: sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		name := args[0]
		if err := patch.check(cmd); err != nil {
			return err
		}
		if patch.file == "" && len(patch.all) == 0 {
			return usagef(cmd, "there is nothing to change: give --file, --set, --secret or --unset")
		}
		old, err := c.definedSink(cmd.Context(), name)
		if err != nil {
			return err
		}
		if old == nil || old.Origin == removedSink {
			return &adviceError{fmt.Errorf("there is no sink %s", name), `"tocsin sink list" shows which there are, "tocsin sink add" adds one.`}
		}
		definition, err := patch.begin(s)
		if err == nil && patch.file == "" {
			definition, err = parseSinkDefinition("", old.Definition)
			if err != nil {
				return fmt.Errorf("the definition that the hub has: %w", err)
			}
			definition.changed = true
		}
		if err == nil {
			err = patch.apply(cmd.Context(), s, definition)
		}
		if err != nil {
			return err
		}
		if d.dryRun {
			return d.show(s, name, definition)
		}
		return d.write(cmd.Context(), s, c, name, definition, old)
	})
	d.register(cmd)
	patch.register(cmd, true)
	return cmd
}

// removedSink is the origin of what a removed sink has left.
const removedSink = "removed"

// definedSink returns a sink, or what a removed one has left, nil if there is none.
func (c *connection) definedSink(ctx context.Context, name string) (*api.Sink, error) {
	var sink api.Sink
	_, err := c.sink(ctx, http.MethodGet, name, "", nil, nil, &sink)
	if _, none := errors.AsType[*noSinkError](err); none {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &sink, nil
}

// defineFlags are the flags of commands that write a definition.
type defineFlags struct {
	format answerFlag
	dryRun bool
	test   bool
}

func (f *defineFlags) register(cmd *cobra.Command) {
	f.format.register(cmd)
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "check the definition on this machine and print it; nothing is sent to the hub")
	cmd.Flags().BoolVar(&f.test, "test", false, "send a test event then, and show what came of it")
}

// show checks and prints a definition.
func (f *defineFlags) show(s *Streams, name string, d *sinkDefinition) error {
	text, err := d.encode()
	if err != nil {
		return err
	}
	sink, err := config.ParseSink(name, text)
	if err != nil {
		return d.problems(problemTexts(err))
	}
	if f.format == answerJSON {
		return printJSON(s.Out, sink.JSON())
	}
	yaml, err := definitionYAML(sink.JSON(), false)
	if err != nil {
		return err
	}
	_, err = io.WriteString(s.Out, yaml)
	fmt.Fprintln(s.Err, "The definition is valid. Nothing was sent.")
	return err
}

// write sends a definition. The sink that there was is nil if there was none.
func (f *defineFlags) write(ctx context.Context, s *Streams, c *connection, name string, d *sinkDefinition, old *api.Sink) error {
	done := "changed"
	if old == nil || old.Origin == removedSink {
		done = "added"
	}
	text, err := d.encode()
	if err != nil {
		return err
	}
	var sink api.Sink
	raw, err := c.sink(ctx, http.MethodPut, name, "", nil, vaultclient.Raw{ContentType: "application/yaml", Text: text}, &sink)
	if refused, ok := errors.AsType[*client.StatusError](err); ok && refused.StatusCode == http.StatusBadRequest {
		return d.problems(refused.Messages)
	}
	if err != nil {
		return err
	}
	answer := struct {
		Sink json.RawMessage `json:"sink"`
		Test *api.SinkTested `json:"test,omitempty"`
	}{Sink: raw}
	if f.format == answerText {
		if _, err := fmt.Fprintf(s.Out, "Sink %s is %s.%s\n", name, done, beginsInWords(&sink, old)); err != nil {
			return err
		}
	}
	if f.test {
		var tested api.SinkTested
		if _, err := c.sink(ctx, http.MethodPost, name, "/test", nil, api.SinkTest{}, &tested); err != nil {
			return &incompleteError{fmt.Sprintf("The sink is %s, but could not be tested: %v", done, err)}
		}
		answer.Test = &tested
	}
	if f.format == answerJSON {
		if err := printJSON(s.Out, answer); err != nil {
			return err
		}
	} else if f.test {
		if err := printTest(s.Out, answer.Test); err != nil {
			return err
		}
	}
	if f.test && answer.Test.Outcome != "delivered" {
		return &incompleteError{fmt.Sprintf("The sink stays. \"tocsin sink set %s\" changes it, \"tocsin sink remove %s\" removes it.", name, name)}
	}
	return nil
}

// beginsInWords says where a sink that was added begins.
func beginsInWords(s, old *api.Sink) string {
	var d struct {
		From     string
		Disabled bool
	}
	switch err := json.Unmarshal(s.Definition, &d); {
	case err != nil:
		return ""
	case d.Disabled:
		return " It is disabled."
	case old != nil && old.Origin == removedSink:
		return " It goes on where the removed one of this name was."
	case old != nil:
		return ""
	case d.From == "start":
		return " It begins with the oldest event that the hub has."
	}
	return " It is sent what happens from now on."
}
