package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const pluginInspectLong = `Start a source plugin and tell what it says of itself: what it can do, its versions, the id and
the source of its events, the schema of its config, the fields that can be extracted, and
what its stream can be opened with. A hub is not needed.

The plugin is a library (.so) that was built for Falco, or an executable that speaks the
plugin protocol of Tocsin; its arguments come after "--".

What the stream can be opened with a plugin tells only when it has its config, which
--config gives. An argument in brackets is a key or an index; with "?" it can be left out.`

func newPluginInspect(s *Streams) *cobra.Command {
	var (
		text  string
		env   keyValues
		level = defaultPluginLevel
	)
	format := answerText
	cmd := &cobra.Command{
		Use:     "inspect LIBRARY|EXECUTABLE [-- ARGUMENT...]",
		Short:   "Tell what a source plugin can do",
		Long:    pluginInspectLong,
		Example: "  tocsin plugin inspect /usr/share/falco/plugins/libk8saudit.so\n  tocsin plugin inspect -o json ./libdummy.so | jq '.fields[].name'",
		Args:    pluginFileArgs("the LIBRARY or EXECUTABLE of the plugin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkArgs(cmd, args[0], args[1:]); err != nil {
				return err
			}
			text, err := paramText("config", text, s.In)
			if err != nil {
				return err
			}
			file, err := findPlugin(args[0])
			if err != nil {
				return err
			}
			l := &pluginLaunch{file: file, args: args[1:], env: env.list(), log: newLogger(s.Err, config.Log{Level: config.LogLevel(level), Format: "text"})}
			return inspect(cmd.Context(), s.Out, l, text, cmd.Flags().Changed("config"), format)
		},
	}
	flags := cmd.Flags()
	registerPluginConfig(flags, &text)
	flags.Var(&env, "env", "variable of its environment; repeatable")
	flags.VarP(&format, "output", "o", "text (for people) or json (for scripts)")
	flags.Var(&level, "plugin-log-level", "least important messages of the plugin on standard error: debug, info, warn or error")
	return cmd
}

// inspected is what "plugin inspect" prints as JSON.
type inspected struct {
	File         string           `json:"file"`
	Name         string           `json:"name"`
	Version      string           `json:"version"`
	Description  string           `json:"description,omitempty"`
	Contact      string           `json:"contact,omitempty"`
	ID           uint32           `json:"id"`
	EventSource  string           `json:"event_source,omitempty"`
	RequiredAPI  string           `json:"required_api,omitempty"`
	Capabilities []string         `json:"capabilities"`
	Sources      []string         `json:"extract_sources,omitempty"`
	Async        []string         `json:"async_events,omitempty"`
	ConfigSchema json.RawMessage  `json:"config_schema,omitempty"`
	ParamsSchema json.RawMessage  `json:"params_schema,omitempty"`
	Fields       []inspectedField `json:"fields,omitempty"`
	OpenParams   []inspectedParam `json:"open_params,omitempty"`
	ParamsError  string           `json:"open_params_error,omitempty"`
}

type inspectedField struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`
	List        bool     `json:"list"`
	Usage       string   `json:"usage"`
	Argument    *argRule `json:"argument,omitempty"`
	Display     string   `json:"display,omitempty"`
	Description string   `json:"description,omitempty"`
	Properties  []string `json:"properties,omitempty"`
	AddOutput   bool     `json:"add_output,omitempty"`
}

type argRule struct {
	Required bool `json:"required"`
	Key      bool `json:"key"`
	Index    bool `json:"index"`
}

type inspectedParam struct {
	Value       string `json:"value"`
	Description string `json:"description,omitempty"`
	Separator   string `json:"separator,omitempty"`
}

// capabilityNames lists what a plugin can do.
func capabilityNames(c sourceplugin.Capabilities) []string {
	names := []string{}
	for _, one := range []struct {
		has  bool
		name string
	}{
		{c.Source, "source"}, {c.Extract, "extract"}, {c.Async, "async"}, {c.OpenParams, "open-params"}, {c.Strings, "strings"},
		{c.Progress, "progress"}, {c.Metrics, "metrics"}, {c.SetConfig, "set-config"}, {c.Resume, "resume"},
	} {
		if one.has {
			names = append(names, one.name)
		}
	}
	return names
}

// schemaJSON is a schema as JSON: a string if the plugin's text is none.
func schemaJSON(text string) json.RawMessage {
	switch {
	case text == "":
		return nil
	case json.Valid([]byte(text)):
		return json.RawMessage(text)
	}
	quoted, _ := json.Marshal(text)
	return quoted
}

func inspect(ctx context.Context, out io.Writer, l *pluginLaunch, text string, given bool, format answerFlag) (err error) {
	program, err := l.start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		err = errors.Join(err, program.Close(ending))
	}()
	d := program.Describe()
	i := inspected{
		File: l.file, Name: d.Name, Version: d.Version, Description: d.Description, Contact: d.Contact, ID: d.ID, EventSource: d.EventSource,
		RequiredAPI: d.RequiredAPI, Capabilities: capabilityNames(d.Capabilities), Sources: d.ExtractSources, Async: d.AsyncNames,
		ConfigSchema: schemaJSON(d.ConfigSchema), ParamsSchema: schemaJSON(d.ParamsSchema),
	}
	for n := range d.Fields {
		f := &d.Fields[n]
		one := inspectedField{
			Name: f.Name, Type: strings.TrimPrefix(fieldtext.TypeName(f), "list of "), List: f.List, Usage: fieldtext.Usage(f),
			Display: f.Display, Description: f.Description, Properties: f.Properties, AddOutput: f.AddOutput,
		}
		if f.Arg.Key || f.Arg.Index {
			one.Argument = &argRule{f.Arg.Required, f.Arg.Key, f.Arg.Index}
		}
		i.Fields = append(i.Fields, one)
	}
	if d.Capabilities.OpenParams || given {
		params, err := openParams(ctx, program, text, l.file)
		switch {
		case err != nil && (given || ctx.Err() != nil):
			return err
		case err != nil:
			i.ParamsError = err.Error()
		}
		for _, p := range params {
			i.OpenParams = append(i.OpenParams, inspectedParam(p))
		}
	}
	if format == answerJSON {
		return printJSON(out, &i)
	}
	return i.print(out, d)
}

func openParams(ctx context.Context, program *pluginprocess.Process, text, file string) ([]sourceplugin.OpenParam, error) {
	p, err := initPlugin(ctx, program, text, file)
	if err != nil {
		return nil, err
	}
	params, err := p.OpenParams(ctx)
	if errors.Is(err, sourceplugin.ErrNotSupported) {
		return nil, nil
	}
	return params, err
}

// print prints it for people.
func (i *inspected) print(w io.Writer, d *sourceplugin.Description) error {
	id := ""
	if i.ID != 0 {
		id = strconv.FormatUint(uint64(i.ID), 10)
	}
	api := i.RequiredAPI
	if api != "" {
		api += " (of Falco's plugin API)"
	}
	from := ""
	if d.Capabilities.Extract {
		if from = listed(i.Sources); from == "" {
			from = "all sources"
		}
	}
	if err := printRows(w, row{"name", visible(i.Name)}, row{"version", visible(i.Version)}, row{"description", visible(i.Description)},
		row{"contact", visible(i.Contact)}, row{"file", visible(i.File)}, row{"required API", visible(api)}, row{"capabilities", listed(i.Capabilities)},
		row{"id", id}, row{"event source", visible(i.EventSource)}, row{"extracts from", from}, row{"async events", listed(i.Async)}); err != nil {
		return err
	}
	for _, schema := range []struct {
		title string
		text  json.RawMessage
	}{{"Schema of the config", i.ConfigSchema}, {"Schema of the open params", i.ParamsSchema}} {
		if schema.text == nil {
			continue
		}
		var b bytes.Buffer
		if json.Indent(&b, schema.text, "  ", "  ") != nil {
			continue
		}
		fmt.Fprintf(w, "\n%s:\n", schema.title)
		for line := range strings.Lines("  " + b.String()) {
			fmt.Fprintln(w, visible(strings.TrimRight(line, "\n")))
		}
	}
	if len(i.Fields) > 0 {
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "FIELD\tTYPE\tDESCRIPTION")
		for n := range d.Fields {
			f := &d.Fields[n]
			about := visible(f.Description)
			if len(f.Properties) > 0 {
				about += " (" + listed(f.Properties) + ")"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", visible(fieldtext.Usage(f)), fieldtext.TypeName(f), about)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return i.printParams(w)
}

func (i *inspected) printParams(w io.Writer) error {
	if i.ParamsError != "" {
		_, err := fmt.Fprintf(w, "\nWhat its stream can be opened with is not known without its config (--config):\n%s\n", visible(i.ParamsError))
		return err
	}
	if len(i.OpenParams) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "OPEN PARAMS\tSEPARATOR\tDESCRIPTION")
	for _, p := range i.OpenParams {
		fmt.Fprintf(t, "%s\t%s\t%s\n", visible(p.Value), visible(p.Separator), visible(p.Description))
	}
	return t.Flush()
}
