package cli

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
)

// skeletons are the files of a new plugin, as templates of [newPluginData].
//
//go:embed newplugin
var skeletons embed.FS

const pluginNewLong = `Write a source plugin in Go that works: a module with the plugin, its test and a README, in a new
directory with its name. It counts, resumes where it was, and has fields; what it does instead is
up to you. Nothing that exists is overwritten.

The module needs the version of Tocsin that this program is. A program that was built from a
checkout has none that can be downloaded: --local names the directory of the checkout.`

func newPluginNew(s *Streams) *cobra.Command {
	var (
		module, dir, local string
	)
	format := answerText
	cmd := &cobra.Command{
		Use:     "new NAME",
		Short:   "Write a source plugin in Go to begin with",
		Long:    pluginNewLong,
		Example: "  tocsin plugin new weather\n\n  tocsin plugin new weather --module github.com/me/weather --dir plugins/weather",
		Args:    exactArgs(1, "the NAME of the plugin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := newPluginOf(args[0], module, version(), local)
			if err != nil {
				return usagef(cmd, "%v", err)
			}
			if dir == "" {
				dir = args[0]
			}
			files, err := p.write(dir)
			if err != nil {
				return err
			}
			return p.printNew(s, dir, files, format)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&module, "module", "", "`path` of the Go module (default: example.com/NAME)")
	flags.StringVar(&dir, "dir", "", "`directory` to write to, which is made (default: NAME)")
	flags.StringVar(&local, "local", "", "`directory` with a checkout of Tocsin to build with, instead of the version of this program")
	flags.VarP(&format, "output", "o", "text (for people) or json (for scripts)")
	return cmd
}

// newPluginData is what differs from one new plugin to another.
type newPluginData struct {
	Name   string
	Source string // event source, and prefix of fields
	Module string
	ID     uint32
	// Version is that of Tocsin; "" if it has none that can be downloaded. Local is an absolute path
	// that takes its place, or "".
	Version, Local string
}

var (
	pluginNameForm = regexp.MustCompile(`^[a-z][a-z0-9]*([_-][a-z0-9]+)*$`)
	modulePathForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_~-]*([./]+[A-Za-z0-9_~-]+)*$`)
	releaseForm    = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)
)

const maxPluginName = 40

// newPluginOf checks what a plugin is to be. version is that of this program.
func newPluginOf(name, module, version, local string) (p newPluginData, err error) {
	if !pluginNameForm.MatchString(name) || len(name) > maxPluginName {
		return p, fmt.Errorf("%q cannot be the NAME of a plugin: at most %d small letters and digits, with single - or _ between them, and a letter first", name, maxPluginName)
	}
	if module == "" {
		module = "example.com/" + name
	}
	if !modulePathForm.MatchString(module) || strings.Contains(module, "//") || strings.Contains(module, "..") || len(module) > 200 {
		return p, fmt.Errorf("--module: %q is no path of a Go module; it is like example.com/me/%s", module, name)
	}
	p = newPluginData{Name: name, Source: strings.ReplaceAll(name, "-", "_"), Module: module, ID: privateID(name)}
	if releaseForm.MatchString(version) && !strings.HasPrefix(version, "v0.0.0-devel") {
		p.Version = version
	}
	if local == "" {
		return p, nil
	}
	if p.Local, err = filepath.Abs(local); err != nil {
		return p, fmt.Errorf("--local: %w", err)
	}
	if real, err := filepath.EvalSymlinks(p.Local); err == nil {
		p.Local = real
	}
	text, err := os.ReadFile(filepath.Join(p.Local, "go.mod"))
	if err != nil || !bytes.HasPrefix(text, []byte("module github.com/tocsin-events/tocsin\n")) {
		return p, fmt.Errorf("--local: %s is not the directory of a checkout of Tocsin; it has a go.mod that begins with \"module github.com/tocsin-events/tocsin\"", p.Local)
	}
	if strings.ContainsAny(p.Local, "\n\r\"`") {
		return p, fmt.Errorf("--local: a go.mod cannot have the path %q", p.Local)
	}
	if strings.ContainsAny(p.Local, " \t'(),[]{}") {
		p.Local = `"` + p.Local + `"`
	}
	p.Version = "v0.0.0"
	return p, nil
}

// privateID returns an id of the range that Falco's registry leaves alone, always the same for a
// name.
func privateID(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return 1<<30 + h.Sum32()%(1<<30)
}

// write writes the files into a directory that is new, or empty, and returns their names.
func (p *newPluginData) write(dir string) (names []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory: %w", err)
	}
	there, err := os.ReadDir(dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("look into the directory: %w", err)
	case len(there) > 0:
		return nil, &adviceError{fmt.Errorf("the directory %s is not empty, and nothing is overwritten", dir), "Give another one with --dir."}
	}
	defer func() {
		if err != nil { // half a plugin helps nobody
			for _, name := range names {
				os.Remove(filepath.Join(dir, name))
			}
		}
	}()
	templates, err := fs.ReadDir(skeletons, "newplugin")
	if err != nil {
		return nil, err
	}
	for _, t := range templates {
		name := strings.TrimSuffix(t.Name(), ".tmpl")
		if name == "gitignore" {
			name = ".gitignore"
		}
		text, err := p.render(t.Name())
		if err != nil {
			return names, fmt.Errorf("make %s: %w", name, err)
		}
		if err := writeNew(filepath.Join(dir, name), text); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, nil
}

func (p *newPluginData) render(name string) ([]byte, error) {
	t, err := template.ParseFS(skeletons, "newplugin/"+name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, ".go.tmpl") {
		return format.Source(b.Bytes())
	}
	return b.Bytes(), nil
}

// writeNew writes a file that there must not be.
func writeNew(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write a file of the plugin: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(name))
	}
	return nil
}

// next are the commands that come next.
func (p *newPluginData) next(dir string) []string {
	next := []string{"cd " + shellWord(dir)}
	if p.Version == "" {
		next = append(next, "go get github.com/tocsin-events/tocsin@latest")
	}
	return append(next, "go mod tidy", "go test ./...", "go build -o "+p.Name+" .", "tocsin plugin run ./"+p.Name+` --open '{"last": 3}'`)
}

// shellWord returns a text as a shell reads it.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./~-]+$`)

func (p *newPluginData) printNew(s *Streams, dir string, files []string, as answerFlag) error {
	if as == answerJSON {
		return json.NewEncoder(s.Out).Encode(struct {
			Name   string   `json:"name"`
			Dir    string   `json:"dir"`
			Module string   `json:"module"`
			ID     uint32   `json:"id"`
			Files  []string `json:"files"`
			Next   []string `json:"next"`
		}{p.Name, dir, p.Module, p.ID, files, p.next(dir)})
	}
	_, err := fmt.Fprintf(s.Out, "The plugin %s is in %s: %s.\n\nNext:\n\n  %s\n\nplugin.go is where it does what you want.\n",
		p.Name, visible(dir), strings.Join(files, ", "), visibleLines(strings.Join(p.next(dir), "\n  ")))
	return err
}
