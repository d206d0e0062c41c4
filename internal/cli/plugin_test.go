package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/tocsin-events/tocsin/internal/config"
)

// Of a plugin less important messages are shown than of the hub.
func TestPluginLogger(t *testing.T) {
	var out strings.Builder
	f := pluginRunFlags{pluginLevel: "info"}
	log := f.logger(&Streams{Err: &out}, config.Log{Level: "warn", Format: "text"}).With("component", "plugins")
	plugin := log.With("plugin", "kv")
	for _, l := range []*slog.Logger{log, plugin} {
		l.Debug("debug")
		l.Info("info")
		l.Warn("warn")
	}
	log.Info("about one", "plugin", "kv")
	got := regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(out.String(), "")
	want := "level=WARN msg=warn component=plugins\nlevel=INFO msg=info component=plugins plugin=kv\nlevel=WARN msg=warn component=plugins plugin=kv\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// --option belongs to the --path before it, or to all.
func TestPluginMounts(t *testing.T) {
	executable := filepath.Join(t.TempDir(), "vault-plugin-secrets-kv")
	if err := os.WriteFile(executable, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "kv map[]"},
		{[]string{"--option", "version=2"}, "kv map[version:2]"},
		{[]string{"--path", "a", "--option", "version=2", "--path", "/b/c/"}, "a map[version:2] b/c map[]"},
		{[]string{"--option", "x=1", "--path", "a", "--option", "version=2", "--path", "b", "--option", "x=2"}, "a map[version:2 x:1] b map[x:2]"},
	} {
		f := pluginRunFlags{class: "secret"}
		flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
		flags.Var(pathFlag{&f.mounts}, "path", "")
		flags.Var(optionFlag{&f.mounts}, "option", "")
		if err := flags.Parse(tt.args); err != nil {
			t.Fatal(err)
		}
		c := config.Default()
		if err := f.pluginConfig(&c, executable, nil); err != nil {
			t.Fatal(err)
		}
		c.Plugins.StorageKey = config.SecretValue("k")
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
		var got []string
		for _, m := range c.Plugins.Mounts {
			got = append(got, m.Path, fmt.Sprint(map[string]string(m.Options)))
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%v: %s, want %s", tt.args, text, tt.want)
		}
	}
}
