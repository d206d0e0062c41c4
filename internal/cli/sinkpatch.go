package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/config"
)

// sinkPatch is one flag that says something about a definition.
type sinkPatch struct {
	kind       patchKind
	flag       string // as it is named in messages
	key, value string
}

type patchKind string

const (
	patchSet    patchKind = "set"
	patchFile   patchKind = "set-file"
	patchSecret patchKind = "secret"
	patchUnset  patchKind = "unset"
)

// sinkPatches are the flags of a definition, in their order.
type sinkPatches struct {
	file string
	all  []sinkPatch
}

func (p *sinkPatches) register(cmd *cobra.Command, unset bool) {
	flags := cmd.Flags()
	flags.StringVarP(&p.file, "file", "f", "", "`file` with the definition, YAML or JSON; - is standard input")
	short := func(name, key, usage string, list bool) {
		flags.Var(&patchFlag{sinkPatch{kind: patchSet, flag: "--" + name, key: key}, list, &p.all}, name, usage)
	}
	short("type", "type", "`kind` of sink: file, webhook, template, kafka, nats or otlp_logs", false)
	short("types", "events.types", "event `types` that are sent, separated by commas: 'kv-v2/*'", true)
	short("filter", "events.filter", "boolean `expression` that events must satisfy", false)
	short("from", "from", "`where` to begin: end (what comes from now on) or start (the oldest that the hub has)", false)
	short("url", "url", "`URL` of a webhook, template or otlp_logs sink", false)
	several := func(kind patchKind, usage string) {
		flags.Var(&patchFlag{sinkPatch{kind: kind}, false, &p.all}, string(kind), usage)
	}
	several(patchSet, "`key=value` of the definition; repeatable, and lists get one element each time")
	several(patchFile, "`key=file`: the value is the text of a file; repeatable")
	several(patchSecret, "`key=@file` for a secret, or key=env:NAME, key=- (standard input), key=prompt; repeatable")
	if unset {
		several(patchUnset, "`key` that is to have its default again; repeatable")
	}
}

// patchFlag is a flag that is kept with the others, in their order. Its errors are told
// when the command runs, because the library would repeat the value.
type patchFlag struct {
	patch sinkPatch
	list  bool // several values, separated by commas
	all   *[]sinkPatch
}

func (f *patchFlag) String() string { return "" }
func (f *patchFlag) Type() string   { return "value" }
func (f *patchFlag) Set(v string) error {
	p := f.patch
	if p.key == "" { // KEY=VALUE
		ok := true
		if p.kind == patchUnset {
			p.key = v
		} else if p.key, p.value, ok = strings.Cut(v, "="); !ok {
			p.key = ""
		}
		p.flag = "--" + string(p.kind)
		if p.key != "" {
			p.flag += " " + visible(p.key)
		}
		*f.all = append(*f.all, p)
		return nil
	}
	values := []string{v}
	if f.list {
		values = strings.Split(v, ",")
	}
	for _, value := range values {
		p.value = strings.TrimSpace(value)
		*f.all = append(*f.all, p)
	}
	return nil
}

// check finds what is wrong with the flags themselves.
func (p *sinkPatches) check(cmd *cobra.Command) error {
	readers := 0
	if p.file == "-" {
		readers++
	}
	for _, one := range p.all {
		switch {
		case one.key == "" && one.kind == patchSecret:
			return usagef(cmd, "--secret: write KEY=@FILE, KEY=env:NAME, KEY=- or KEY=prompt")
		case one.key == "":
			return usagef(cmd, "%s: write KEY=VALUE", one.flag)
		case one.kind == patchFile && one.value == "-":
			readers++
		case one.kind != patchSecret:
		case one.value == "-":
			readers++
		case one.value != "prompt" && (!strings.HasPrefix(one.value, "@") || one.value == "@") && !strings.HasPrefix(one.value, "env:"):
			return usagef(cmd, "%s: %w", one.flag, errSecretArgument)
		}
	}
	if readers > 1 {
		return usagef(cmd, "standard input is read for several things; use it once, and files for the others")
	}
	return nil
}

// begin returns the definition of the file, or an empty one.
func (p *sinkPatches) begin(s *Streams) (*sinkDefinition, error) {
	if p.file == "" {
		return newSinkDefinition(), nil
	}
	text, err := readAtMost(s.In, p.file, config.MaxDefinitionBytes)
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	return parseSinkDefinition(shownFile(p.file), text)
}

// apply makes the changes that the flags say, and reads all secrets.
func (p *sinkPatches) apply(ctx context.Context, s *Streams, d *sinkDefinition) error {
	// Keys without the name of their section depend on the type.
	for _, types := range []bool{true, false} {
		for _, one := range p.all {
			if (one.kind == patchSet && one.key == "type") != types {
				continue
			}
			if err := one.apply(ctx, s, d); err != nil {
				return fmt.Errorf("%s: %w", one.flag, err)
			}
		}
	}
	return d.readSecrets()
}

func (p sinkPatch) apply(ctx context.Context, s *Streams, d *sinkDefinition) error {
	switch p.kind {
	case patchUnset:
		return d.remove(p.key)
	case patchSet:
		return d.put(p.key, p.flag, parsedValue(p.key, p.value))
	case patchFile:
		return d.put(p.key, p.flag, func(field *config.Field) (*yaml.Node, error) {
			if field != nil && field.Type == "secret" {
				return nil, fmt.Errorf("is a secret; write --secret %s=@FILE", visible(p.key))
			}
			text, err := readAtMost(s.In, p.value, config.MaxDefinitionBytes)
			if err != nil {
				return nil, err
			}
			return scalar(field, strings.TrimSuffix(string(text), "\n")), nil
		})
	}
	return d.put(p.key, p.flag, func(field *config.Field) (*yaml.Node, error) {
		if field != nil && field.Type != "secret" {
			return nil, fmt.Errorf("is no secret, and would be shown; write --set %s=VALUE", visible(p.key))
		}
		value, err := p.secret(ctx, s)
		if err != nil {
			return nil, err
		}
		return secretValue(value), nil
	})
}

// secret reads the secret that a flag refers to.
func (p sinkPatch) secret(ctx context.Context, s *Streams) (string, error) {
	if file, ok := strings.CutPrefix(p.value, "@"); ok {
		return config.SecretFromFile(file).Reveal()
	}
	if name, ok := strings.CutPrefix(p.value, "env:"); ok {
		return config.SecretFromEnv(name).Reveal()
	}
	f, ok := s.In.(*os.File)
	if p.value == "prompt" && (!ok || !isTerminal(f)) {
		return "", errors.New("standard input is no terminal to ask at; write KEY=@FILE, KEY=env:NAME or KEY=-")
	}
	text, err := readHidden(ctx, s, fmt.Sprintf("%s (it is not shown): ", visible(p.key)))
	if err != nil {
		return "", err
	}
	value := strings.TrimRight(string(text), "\r\n")
	switch {
	case len(text) > maxTokenBytes:
		return "", fmt.Errorf("standard input has more than %d bytes", maxTokenBytes)
	case value == "":
		return "", errors.New("standard input is empty")
	}
	return value, nil
}

// readAtMost reads a file, or standard input for "-".
func readAtMost(in io.Reader, name string, most int64) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", shownFile(name), err)
	case int64(len(text)) > most:
		return nil, fmt.Errorf("%s is larger than %d KiB", shownFile(name), most>>10)
	}
	return text, nil
}

// confirm asks a person at a terminal. Where there is none, the flag --yes has to say it.
func confirm(ctx context.Context, cmd *cobra.Command, s *Streams, question string) (bool, error) {
	f, ok := s.In.(*os.File)
	if !ok || !isTerminal(f) || !isTerminal(s.Err) {
		return false, usagef(cmd, "there is no terminal to ask at; say --yes")
	}
	fmt.Fprintf(s.Err, "%s [y/N] ", question)
	answer, err := readInput(ctx, &lineReader{r: f})
	if err != nil {
		return false, err
	}
	text := strings.ToLower(strings.TrimSpace(string(answer)))
	if cmp.Or(text, "n") == "y" || text == "yes" {
		return true, nil
	}
	fmt.Fprintln(s.Err, "Nothing was done.")
	return false, nil
}
