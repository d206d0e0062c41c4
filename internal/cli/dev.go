package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/app"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/demo"
)

const devLong = `Run a hub to try things out, until Ctrl-C. It listens on loopback only, without TLS, has
one root token that it prints, and keeps its data in a temporary directory that is removed
when it ends (unless --data-dir names one).

--demo replays the audit log of a real OpenBao server again and again, as if it were
written now. --audit-file follows a real audit log from its beginning. --audit-socket,
--audit-http and --audit-syslog receive what audit devices of these types send; the hub
says how to enable them. All of them can be combined: they are devices of one server,
and what comes over several of them is taken once. --traces sends every request as a span
to a tracing system (docs/traces.md). --plugin-dir allows Vault plugins to be mounted;
"tocsin plugin run" is shorter for one of them.

--rules raises alerts about the events by rules, which are looked at again when the files change;
--demo does so by those that come with the program. Alerts are printed, and are events of the
types alert/...: "tocsin rules list" counts them.

--sink sends events on, from the oldest. More sinks can be added with "tocsin sink add"; they
may send to this machine, which a hub otherwise does not, and write files below the
directory that the command is started in.

For anything else use "tocsin server".`

const devExample = `  tocsin dev --demo
  tocsin dev --audit-file /var/log/vault/audit.log
  tocsin dev --audit-socket /tmp/audit.sock
  tocsin dev --audit-file /var/log/vault/audit.log --rules builtin:vault --rules own-rules/
  tocsin dev --audit-socket /tmp/audit.sock --traces zipkin=http://127.0.0.1:9411
  tocsin dev --demo --sink file:/tmp/events.jsonl --sink webhook:http://127.0.0.1:9000/hook --sink stdout

  # Then, in another terminal:
  tocsin events subscribe 'kv-v2/*'
  tocsin events publish app/hello path=greetings/world`

type devFlags struct {
	demo        bool
	auditFile   string
	auditSocket string
	auditHTTP   string
	auditSyslog string
	traces      []string
	sinks       []string
	rules       []string
	dataDir     string
	pluginDir   string
	rootToken   string
	listen      string
	addressFile string
	logLevel    logLevelFlag
}

func newDev(s *Streams) *cobra.Command {
	f := devFlags{logLevel: "warn"}
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Run a hub to try things out",
		Long:    devLong,
		Example: devExample,
		Args:    exactArgs(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			return f.run(cmd.Context(), s)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.demo, "demo", false, "replay a recorded audit log")
	flags.StringVar(&f.auditFile, "audit-file", "", "follow this audit log; it may not exist yet")
	flags.StringVar(&f.auditSocket, "audit-socket", "", "receive from a socket audit device on this `address`: a path, tcp:HOST:PORT or udp:HOST:PORT")
	flags.StringVar(&f.auditHTTP, "audit-http", "", "receive from an HTTP audit device on this `address`: HOST:PORT")
	flags.StringVar(&f.auditSyslog, "audit-syslog", "", "receive syslog messages on this `address`: udp:HOST:PORT, tcp:HOST:PORT, or the path of a datagram socket such as /dev/log")
	flags.StringArrayVar(&f.traces, "traces", nil, devTracesUsage)
	flags.StringArrayVar(&f.sinks, "sink", nil, devSinksUsage)
	flags.StringArrayVar(&f.rules, "rules", nil, devRulesUsage)
	flags.StringVar(&f.dataDir, "data-dir", "", "keep the data in this `directory` instead of a temporary one")
	flags.StringVar(&f.pluginDir, "plugin-dir", "", "`directory` with Vault plugins that can be registered and mounted")
	flags.StringVar(&f.rootToken, "root-token", "", "`token` that may do everything, instead of a random one")
	flags.StringVar(&f.listen, "listen", config.Default().Listen.Address, "loopback `address` to listen on; port 0 takes a free one")
	flags.StringVar(&f.addressFile, "address-file", "", "write the URL that the hub listens on to this `file` when it is ready")
	flags.Var(&f.logLevel, "log-level", "least important messages on standard error: debug, info, warn or error")
	return cmd
}

// check refuses what dev is not meant for.
func (f *devFlags) check(cmd *cobra.Command) error {
	if err := config.CheckAddress(f.listen); err != nil {
		return usagef(cmd, "--listen: %w", err)
	}
	if !config.IsLoopback(f.listen) {
		return usagef(cmd, "--listen %s: %q only listens on loopback, because its traffic and its token are not protected; use \"tocsin server\" with listen.address and listen.tls", f.listen, cmd.CommandPath())
	}
	if strings.ContainsFunc(f.rootToken, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return usagef(cmd, "--root-token: only printable ASCII characters without spaces fit into a header")
	}
	if _, err := devTraces(f.traces).exporters(); err != nil {
		return usagef(cmd, "%w", err)
	}
	if _, err := devSinks(f.sinks).sinks(); err != nil {
		return usagef(cmd, "%w", err)
	}
	if err := devRules(f.rules).check(); err != nil {
		return usagef(cmd, "%w", err)
	}
	if info, err := os.Stat(f.pluginDir); f.pluginDir != "" && (err != nil || !info.IsDir()) {
		return fmt.Errorf("--plugin-dir %s is not a directory", f.pluginDir)
	}
	if info, err := os.Stat(f.auditFile); err == nil && info.IsDir() {
		return fmt.Errorf("--audit-file %s is a directory; name the audit log in it", f.auditFile)
	}
	local := []string{"unix", "unixgram", "tcp", "udp"}
	for _, d := range []struct {
		flag     string
		text     *string
		plain    string   // the network of a path without one
		networks []string // that can be received from
		write    string
	}{
		{"--audit-socket", &f.auditSocket, "unix", local, "a path, tcp:HOST:PORT or udp:HOST:PORT"},
		{"--audit-http", &f.auditHTTP, "unix", []string{"tcp"}, "HOST:PORT, for example 127.0.0.1:9091"},
		{"--audit-syslog", &f.auditSyslog, "unixgram", local, "tcp:HOST:PORT, udp:HOST:PORT or a path"},
	} {
		if *d.text == "" {
			continue
		}
		address, err := config.ParseSourceAddress(absolutePath(*d.text, d.plain))
		switch {
		case !slices.Contains(d.networks, address.Network):
			return usagef(cmd, "%s %s: write %s", d.flag, *d.text, d.write)
		case err != nil:
			return usagef(cmd, "%s %s: %w", d.flag, *d.text, err)
		case !strings.HasPrefix(address.Network, "unix") && !config.IsLoopback(address.Address):
			return usagef(cmd, "%s %s: %q only listens on loopback; use \"tocsin server\" and say in the source who may send", d.flag, *d.text, cmd.CommandPath())
		}
		*d.text = address.Network + ":" + address.Address
	}
	return nil
}

// absolutePath makes the path of a socket absolute, as the configuration wants it.
// Without a network it is a path if there is no colon or a slash in it, of the network plain.
func absolutePath(address, plain string) string {
	network, path, found := strings.Cut(address, ":")
	if !found || strings.Contains(network, "/") {
		network, path = plain, address
	}
	if !strings.HasPrefix(network, "unix") || path == "" {
		return address
	}
	absolute, err := filepath.Abs(strings.TrimPrefix(path, "//"))
	if err != nil {
		return address
	}
	return network + ":" + absolute
}

func (f *devFlags) run(ctx context.Context, s *Streams) (err error) {
	dir := f.dataDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "tocsin-dev-"); err != nil {
			return fmt.Errorf("make a temporary data directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	c := f.config(dir)
	if f.pluginDir != "" {
		if c.Plugins.Directory, err = filepath.Abs(f.pluginDir); err != nil {
			return fmt.Errorf("--plugin-dir: %w", err)
		}
		if c.Plugins.StorageKey, err = f.storageKey(); err != nil {
			return err
		}
	}
	if err := c.Validate(); err != nil {
		return err
	}
	a, err := app.New(ctx, app.Options{Config: c, Logger: newLogger(f.logOutput(s), c.Log), Version: version(), Stdout: statusAware(s.Out)})
	if err != nil {
		return startError(err, c, "--listen", "--data-dir")
	}
	if f.demo { // the hub follows the file from Run on
		replay, err := demo.New(demoFile(dir))
		if err != nil {
			return errors.Join(err, a.Close())
		}
		// The replay ends before dev does, and dev ends when the replay fails.
		replayCtx, cancel := context.WithCancelCause(ctx)
		var replaying sync.WaitGroup
		replaying.Go(func() {
			if err := replay.Run(replayCtx); err != nil {
				cancel(err)
			}
		})
		defer func() { cancel(nil); replaying.Wait() }()
		ctx = replayCtx
	}

	token, err := c.Auth.RootToken.Reveal()
	if err != nil {
		return errors.Join(err, a.Close())
	}
	shared := false
	if remove, err := writeDevToken(a.Addr().String(), token); err == nil {
		defer remove()
		shared = true
		if f.dataDir == "" {
			if err := forgetDevLogins(a.Addr().String()); err != nil {
				fmt.Fprintf(s.Err, "Warning: the token of an earlier login stays in use: %v\n", err)
			}
		}
	}
	f.banner(s, a, dir, token, shared)
	if err := writeAddress(f.addressFile, a); err != nil {
		return errors.Join(err, a.Close())
	}
	if isTerminal(s.Out) {
		stop := startStatus(s.Out, a)
		defer stop()
	}
	return a.Run(ctx)
}

// logOutput returns where log messages go: to standard error, on a terminal in
// place of the status line rather than behind it.
func (f *devFlags) logOutput(s *Streams) io.Writer {
	if isTerminal(s.Out) && isTerminal(s.Err) {
		return statusErasing{s.Err}
	}
	return s.Err
}

// statusAware returns w, or, for a terminal, what replaces the status line in it.
func statusAware(w io.Writer) io.Writer {
	if isTerminal(w) {
		return statusErasing{w}
	}
	return w
}

func demoFile(dir string) string { return filepath.Join(dir, "demo-audit.log") }

// config returns the configuration that the flags stand for.
func (f *devFlags) config(dir string) config.Config {
	c := config.Default()
	c.Listen.Address = f.listen
	c.DataDir = dir
	c.Journal.MaxBytes = 1 << 30
	c.Auth.RootToken = config.SecretValue(cmp.Or(f.rootToken, "dev-"+strings.ToLower(rand.Text())))
	c.Log.Level = config.LogLevel(f.logLevel)
	file := func(name, path string) {
		source := config.DefaultSource()
		source.Name, source.Path = name, path
		c.Sources = append(c.Sources, source)
	}
	if f.demo {
		file("demo", demoFile(dir))
	}
	if f.auditFile != "" {
		file(devServer, f.auditFile)
	}
	for _, d := range f.devices() {
		source := config.DefaultSource()
		source.Name, source.Type, source.Address, source.Server = d.name, d.kind, d.address, devServer
		c.Sources = append(c.Sources, source)
	}
	c.Traces.Exporters, _ = devTraces(f.traces).exporters() // checked before
	c.Sinks, _ = devSinks(f.sinks).sinks()                  // as well
	c.Delivery = devDelivery()
	devRules(f.rules).configure(&c, f.demo)
	return c
}

// devServer is the name of the server whose audit devices dev reads.
const devServer = "vault"

// devDevice is an audit device that sends to dev.
type devDevice struct {
	name    string // of its source; that of the server for the first device
	kind    config.SourceType
	address string
}

func (f *devFlags) devices() (all []devDevice) {
	for _, d := range []devDevice{
		{"socket", config.VaultAuditSocket, f.auditSocket},
		{"http", config.VaultAuditHTTP, f.auditHTTP},
		{"syslog", config.VaultAuditSyslog, f.auditSyslog},
	} {
		if d.address != "" {
			all = append(all, d)
		}
	}
	return all
}

// setup returns the lines that say how to make a server send to a device.
func (d devDevice) setup(a *app.App) []string {
	network, address, _ := strings.Cut(a.SourceAddress(d.name), ":")
	if address == "" { // it cannot be listened on yet
		network, address, _ = strings.Cut(d.address, ":")
	}
	switch d.kind {
	case config.VaultAuditSocket:
		return []string{
			fmt.Sprintf("vault audit enable socket address=%s socket_type=%s", address, network),
			fmt.Sprintf(`or in OpenBao's configuration: audit "socket" "tocsin" { options { address = %q, socket_type = %q } }`, address, network),
		}
	case config.VaultAuditHTTP:
		return []string{fmt.Sprintf(`in OpenBao's configuration: audit "http" "tocsin" { options { uri = "http://%s/" } }`, address)}
	}
	lines := []string{
		"vault audit enable syslog tag=vault facility=AUTH",
		`or in OpenBao's configuration: audit "syslog" "tocsin" { options { tag = "vault", facility = "AUTH" } }`,
	}
	switch {
	case address == "/dev/log" || address == "/var/run/syslog" || address == "/var/run/log": // the device sends there by itself
		return lines
	case network == "tcp":
		return append(lines, fmt.Sprintf("and in /etc/rsyslog.d/tocsin.conf: if $programname == 'vault' then @@%s", address))
	case network == "udp":
		return append(lines, fmt.Sprintf("and in /etc/rsyslog.d/tocsin.conf: if $programname == 'vault' then @%s", address))
	}
	return append(lines, fmt.Sprintf("and let the system's syslog daemon send these messages to %s:%s", network, address))
}

// banner says what runs and how to use it. What is printed can be copied.
func (f *devFlags) banner(s *Streams, a *app.App, dir, token string, shared bool) {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	b.WriteString("Tocsin in development mode: loopback only, no TLS, one root token. Not for production.\n\n")
	row("Address", "%s", a.URL())
	row("Root token", "%s", token)
	if f.dataDir == "" {
		row("Data", "%s (removed at exit)", dir)
	} else {
		row("Data", "%s", dir)
	}
	switch {
	case f.demo:
		row("Source", "a recorded OpenBao audit log, replayed again and again")
	case f.auditFile == "" && len(f.devices()) == 0:
		row("Source", "none; --demo replays a recorded audit log, --audit-file FILE follows yours,")
		row("", "--audit-socket ADDRESS receives from a socket audit device")
	}
	if f.auditFile != "" {
		note := ""
		if _, err := os.Stat(f.auditFile); errors.Is(err, os.ErrNotExist) {
			note = " (does not exist yet; waiting for it)"
		} else if err != nil {
			note = fmt.Sprintf(" (cannot be read yet: %v)", err)
		}
		row("Source", "%s%s", f.auditFile, note)
	}
	if exporters, err := devTraces(f.traces).exporters(); err == nil {
		for _, e := range exporters {
			row("Traces", "%s", describeExporter(e))
		}
	}
	if sinks, err := devSinks(f.sinks).sinks(); err == nil {
		for _, sink := range sinks {
			row("Sink", "%s: %s", sink.Name, describeSink(sink))
		}
	}
	if c := f.config(dir).Rules; c.Enabled() {
		row("Rules", "%s; alerts are printed here", describeRules(c))
	}
	for _, d := range f.devices() {
		row("Source", "%s device, received on %s; to make a server send to it:", d.name, cmp.Or(a.SourceAddress(d.name), d.address+" (not yet, see the log)"))
		for _, line := range d.setup(a) {
			row("", "  %s", line)
		}
	}
	if len(f.devices()) > 0 {
		row("", "Let the server have another device, too, such as a file: with these alone it")
		row("", "answers nothing, not even the request to disable them, while this hub is down.")
	}
	if f.pluginDir != "" {
		row("Plugins", "%s (\"tocsin plugin register\", then mount; or just \"tocsin plugin run\")", f.pluginDir)
	}
	row("Health", "%s/api/v1/health", a.URL())
	row("Metrics", "%s/metrics", a.URL())
	program := programName()
	environment := ""
	if a.URL() != defaultAddress {
		environment = addressEnv + "=" + a.URL() + " "
	}
	if !shared {
		environment += tokenEnv + "=" + token + " "
	}
	types := "kv-v2/*"
	if !f.demo && f.auditFile == "" && len(f.devices()) == 0 {
		types = "app/*"
	}
	command := environment + program
	fmt.Fprintf(&b, "\nIn another terminal:\n\n  %s events subscribe '%s'\n  %s events publish app/hello path=greetings/world\n", command, types, command)
	if len(f.sinks) > 0 {
		fmt.Fprintf(&b, "  %s sink list\n", command)
	}
	b.WriteString("\n")
	if shared {
		fmt.Fprintf(&b, "As another user, or with other clients, send the token: %s=%s\n", tokenEnv, token)
	}
	b.WriteString("Ctrl-C ends it.\n")
	fmt.Fprint(s.Out, b.String())
}

// programName returns how the user calls this program.
func programName() string {
	name := os.Args[0]
	switch {
	case strings.Contains(name, "/go-build"):
		return "go run ./cmd/tocsin"
	case strings.ContainsRune(name, filepath.Separator):
		return name
	}
	return "tocsin"
}

// logLevelFlag is the value of --log-level.
type logLevelFlag config.LogLevel

func (f *logLevelFlag) String() string { return string(*f) }
func (f *logLevelFlag) Type() string   { return "level" }
func (f *logLevelFlag) Set(v string) error {
	switch v {
	case "debug", "info", "warn", "error":
		*f = logLevelFlag(v)
		return nil
	}
	return errors.New("must be debug, info, warn or error")
}
