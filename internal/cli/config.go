package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/config"
)

func newConfigShow(s *Streams) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the effective configuration with comments",
		Long: `Print the effective configuration: what the file says, and the default of everything
else, with a comment for every key. Secrets are shown as where they are found, never as
their value. The output is itself a valid file.`,
		Example: `  # All keys and their defaults: the start of a new file.
  tocsin config show > tocsin.yaml

  tocsin config show --config tocsin.yaml`,
		Args: exactArgs(0, ""),
		RunE: func(*cobra.Command, []string) error {
			c := config.Default()
			if file != "" {
				var err error
				if c, err = config.Load(file); err != nil {
					return err
				}
			}
			return c.Write(s.Out)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `file`; without it the defaults are shown")
	return cmd
}

func newConfigCheck(s *Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file",
		Long: `Check a configuration file and report everything that is wrong with it, each with line and
column. Nothing is started. Exit code 0: the file is good; 1: it is not.

JSON Schemas of event types and files of rules are checked, too, the latter as by "tocsin rules
check". No plugin is started for that: what rules say about the events of plugins is checked by
"tocsin rules check --hub-config FILE". A secret, a schema or a file of rules that cannot be
found here and now is only mentioned, because it may exist where the server runs.`,
		Example: "  tocsin config check tocsin.yaml",
		Args:    exactArgs(1, "the configuration FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := config.Load(args[0])
			if err != nil {
				return err
			}
			if _, err := c.Auth.RootToken.Reveal(); err != nil {
				fmt.Fprintf(s.Err, "Note: auth.root_token: %v\n", err)
			}
			if err := checkSchemas(s, c.Publish.Types); err != nil {
				return err
			}
			if err := checkRules(s, c, args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.Out, "%s is valid\n", args[0])
			return err
		},
	}
}

// checkSchemas returns what is wrong with the schemas that are there.
func checkSchemas(s *Streams, types []config.EventType) error {
	var problems []error
	for i, t := range types {
		if t.SchemaFile == "" {
			continue
		}
		if _, err := os.Stat(t.SchemaFile); errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(s.Err, "Note: publish.types[%d].schema_file: there is no file %s here\n", i, t.SchemaFile)
			continue
		}
		if err := catalog.CheckSchema(t.SchemaFile); err != nil {
			problems = append(problems, fmt.Errorf("publish.types[%d].schema_file: %w", i, err))
		}
	}
	return errors.Join(problems...)
}
