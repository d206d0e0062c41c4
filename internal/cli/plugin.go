package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

const pluginLong = `Run plugins, to test them and to see the events that they send: source plugins such as those
of Falco, and Vault plugins below a hub.

"new" writes a source plugin in Go to begin with, and "sources" shows those of a hub.

"run" and "inspect" need nothing but the plugin. The other commands are for the Vault
plugins of a hub that runs: they need sudo on sys/plugins/..., and the hub a plugin directory in
its configuration for plugins that are registered while it runs. Mounts are made and
removed with Vault's own tools ("vault secrets enable", "vault auth enable"), or in the
configuration.`

func newPlugin(s *Streams) *cobra.Command {
	return newGroup("plugin", "Run source plugins and Vault plugins, and manage those of a hub", pluginLong,
		newPluginRun(s), newPluginInspect(s), newPluginNew(s), newPluginList(s), newPluginInfo(s), newPluginRegister(s), newPluginDeregister(s), newPluginReload(s), newPluginSources(s))
}

const catalogPath = "sys/plugins/catalog"

const pluginRight = "sudo on sys/plugins/..."

// pluginData is what a hub tells about a plugin.
type pluginData struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Version string   `json:"version"`
	SHA256  string   `json:"sha256"`
	Command string   `json:"command"`
	Args    []string `json:"args"`
}

// mountData is what it tells about a mount.
type mountData struct {
	Type          string            `json:"type"`
	UUID          string            `json:"uuid"`
	Accessor      string            `json:"accessor"`
	Options       map[string]string `json:"options"`
	RunningSHA256 string            `json:"running_sha256"`
}

func newPluginList(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the plugins of a hub and where they are mounted",
		Long:    "List the plugins that a hub knows, and where they are mounted in the namespace of the request.",
		Example: "  tocsin plugin list",
		Args:    exactArgs(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			a, err := c.do(cmd.Context(), http.MethodGet, catalogPath, nil, nil)
			if err != nil {
				return needs(err, pluginRight)
			}
			if format == answerJSON {
				return printEnvelope(s.Out, a)
			}
			var catalog struct {
				Data struct{ Detailed []pluginData }
			}
			if err := decodeJSON(a.Body, &catalog); err != nil {
				return err
			}
			mounts := make(map[string][]string)
			for class, path := range map[string]string{"secret": "sys/mounts", "auth": "sys/auth"} {
				a, err := c.do(cmd.Context(), http.MethodGet, path, nil, nil)
				if err != nil {
					return err
				}
				var all struct{ Data map[string]mountData }
				if err := decodeJSON(a.Body, &all); err != nil {
					return err
				}
				for at, m := range all.Data {
					if m.UUID != "" {
						mounts[class+"/"+m.Type] = append(mounts[class+"/"+m.Type], at)
					}
				}
			}
			return printPlugins(s.Out, catalog.Data.Detailed, mounts)
		},
	}
	f.register(cmd)
	format.register(cmd)
	return cmd
}

func printPlugins(w io.Writer, plugins []pluginData, mounts map[string][]string) error {
	if len(plugins) == 0 {
		_, err := fmt.Fprintln(w, "The hub knows no plugins.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TYPE\tNAME\tVERSION\tMOUNTED AT")
	for _, p := range plugins {
		at := mounts[p.Type+"/"+p.Name]
		slices.Sort(at)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", visible(p.Type), visible(p.Name), visible(p.Version), listed(at))
	}
	return t.Flush()
}

// pluginArgs checks TYPE and NAME.
func pluginArgs(cmd *cobra.Command, args []string) error {
	if err := exactArgs(2, "the TYPE (secret or auth) and the NAME of the plugin")(cmd, args); err != nil {
		return err
	}
	if args[0] != "secret" && args[0] != "auth" {
		return usagef(cmd, "the type of a plugin is secret or auth, not %q", args[0])
	}
	return nil
}

func newPluginInfo(s *Streams) *cobra.Command {
	var (
		f       connectFlags
		format  answerFlag
		version string
	)
	cmd := &cobra.Command{
		Use:     "info TYPE NAME",
		Short:   "Show a plugin of a hub",
		Example: "  tocsin plugin info secret kv",
		Args:    pluginArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			a, err := c.do(cmd.Context(), http.MethodGet, catalogPath+"/"+args[0]+"/"+args[1], versionQuery(version), nil)
			if nothingThere(err) {
				of := ""
				if version != "" {
					of = " of the version " + version
				}
				return &adviceError{fmt.Errorf("the hub knows no plugin %q of type %s%s", args[1], args[0], of), `"tocsin plugin list" prints those that it knows.`}
			}
			if err != nil {
				return needs(err, pluginRight)
			}
			if format == answerJSON {
				return printEnvelope(s.Out, a)
			}
			var info struct{ Data pluginData }
			if err := decodeJSON(a.Body, &info); err != nil {
				return err
			}
			p := info.Data
			return printRows(s.Out, row{"type", visible(p.Type)}, row{"name", visible(p.Name)}, row{"version", visible(p.Version)},
				row{"command", visible(p.Command)}, row{"args", listed(p.Args)}, row{"sha256", visible(p.SHA256)})
		},
	}
	f.register(cmd)
	format.register(cmd)
	cmd.Flags().StringVar(&version, "version", "", "`version` of the plugin")
	return cmd
}

func versionQuery(version string) url.Values {
	if version == "" {
		return nil
	}
	return url.Values{"version": {version}}
}

func newPluginRegister(s *Streams) *cobra.Command {
	var (
		f                     connectFlags
		command, sum, version string
		args                  []string
		env                   keyValues
		file                  string
	)
	cmd := &cobra.Command{
		Use:   "register TYPE NAME --command FILE --sha256 SUM",
		Short: "Put a plugin into the catalog of a hub",
		Long: `Put an executable in the plugin directory of a hub into its catalog, in place of the one
with the same type, name and version, if there is one. Mounts use it from the next reload
on. The hub starts exactly the file with this checksum and no other.

--file computes the checksum of a copy of the executable that is on this machine.`,
		Example: `  tocsin plugin register secret kv --command vault-plugin-secrets-kv --file ./vault-plugin-secrets-kv
  tocsin plugin reload kv`,
		Args: pluginArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			if (sum == "") == (file == "") {
				return usagef(cmd, "give --sha256 or --file")
			}
			if file != "" {
				var err error
				if sum, err = sumOf(file); err != nil {
					return err
				}
			}
			c, err := f.resolve()
			if err != nil {
				return err
			}
			body := map[string]any{"command": command, "sha256": sum, "version": version, "args": args}
			body["env"] = env.list()
			a, err := c.do(cmd.Context(), http.MethodPut, catalogPath+"/"+names[0]+"/"+names[1], nil, body)
			if err != nil {
				return needs(err, pluginRight)
			}
			warn(s.Err, a)
			_, err = fmt.Fprintf(s.Out, "Plugin %s is registered with the sha256 %s.\n", visible(names[1]), visible(sum))
			return err
		},
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&command, "command", "", "path of the executable within the plugin directory (default: NAME)")
	flags.StringVar(&sum, "sha256", "", "checksum that it must have, in hexadecimal digits")
	flags.StringVar(&file, "file", "", "a copy of the executable, to compute the checksum of")
	flags.StringVar(&version, "version", "", "`version` of the plugin")
	flags.StringArrayVar(&args, "arg", nil, "`argument` of the plugin; repeatable")
	flags.Var(&env, "env", "variable of its environment; repeatable")
	return cmd
}

// sumOf returns the SHA-256 of a file in hexadecimal digits.
func sumOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("--file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("--file: %w", readError(file, err))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func newPluginDeregister(s *Streams) *cobra.Command {
	var (
		f       connectFlags
		version string
	)
	cmd := &cobra.Command{
		Use:     "deregister TYPE NAME",
		Short:   "Remove a plugin from the catalog of a hub",
		Example: "  tocsin plugin deregister secret kv",
		Args:    pluginArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			if _, err := c.do(cmd.Context(), http.MethodDelete, catalogPath+"/"+args[0]+"/"+args[1], versionQuery(version), nil); err != nil {
				return needs(err, pluginRight)
			}
			_, err = fmt.Fprintf(s.Out, "Plugin %s is not in the catalog.\n", visible(args[1]))
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&version, "version", "", "`version` of the plugin")
	return cmd
}

func newPluginReload(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		mounts []string
	)
	cmd := &cobra.Command{
		Use:   "reload NAME",
		Short: "Start a plugin of a hub anew",
		Long: `Start all mounts of a plugin anew, with the executable that the catalog has now. Requests
under way are answered by what runs, those that come meanwhile wait. If the new executable
does not start, what runs goes on.`,
		Example: "  tocsin plugin reload kv\n\n  tocsin plugin reload --mount secret",
		Args: func(cmd *cobra.Command, args []string) error {
			return exactArgs(min(len(args), 1), "")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (len(mounts) == 0) {
				return usagef(cmd, "give the NAME of a plugin, or --mount")
			}
			c, err := f.resolve()
			if err != nil {
				return err
			}
			body := map[string]any{"mounts": mounts}
			if len(args) == 1 {
				body = map[string]any{"plugin": args[0]}
			}
			a, err := c.do(cmd.Context(), http.MethodPut, "sys/plugins/reload/backend", nil, body)
			if err != nil {
				return needs(err, pluginRight)
			}
			var answer struct {
				Data struct{ Mounts []string }
			}
			if err := json.Unmarshal(a.Body, &answer); err != nil || len(answer.Data.Mounts) == 0 {
				_, err = fmt.Fprintln(s.Out, "Reloaded.")
				return err
			}
			_, err = fmt.Fprintf(s.Out, "Reloaded: %s\n", strings.TrimSpace(listed(answer.Data.Mounts)))
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVar(&mounts, "mount", nil, "`path` of a mount to reload instead; repeatable")
	return cmd
}
