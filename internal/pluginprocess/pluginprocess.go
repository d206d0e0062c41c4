// Package pluginprocess runs source plugins as child processes: it starts one, sees to it that it
// gets only what it should, speaks the plugin protocol with it (package pluginwire), and ends it,
// with all that it has started. It does not start a plugin again that has ended.
package pluginprocess

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tocsin-events/tocsin/internal/child"
	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Defaults of Options.
const (
	DefaultStartTimeout = time.Minute
	DefaultStopTimeout  = 5 * time.Second
)

// ErrChecksum is wrapped by the error of Start if the file is not the one that was asked for, and
// ErrMemory by those of a plugin that was ended because of Options.MaxMemory.
var (
	ErrChecksum = child.ErrChecksum
	ErrMemory   = child.ErrMemory
)

// exitGrace is how long after a broken connection the end of the process is awaited.
const exitGrace = 2 * time.Second

// Options say what is started. Command is required.
type Options struct {
	// Name is that of the plugin in errors and logs. Empty: the name of the file.
	Name    string
	Command string // path of the executable; it is not looked up in $PATH
	Args    []string
	// Env are variables NAME=VALUE, beside PATH, HOME and the like. The plugin gets nothing else
	// of the hub's environment.
	Env []string
	// SHA256 is the checksum that the executable must have; nil: none is asked for.
	SHA256 []byte
	// MaxMemory is the most memory of its own that the process may use, in bytes; 0: no limit.
	// One that uses more is killed.
	MaxMemory int64
	// Secrets are taken out of what the process writes, before it is logged or part of an error.
	Secrets []string
	// SocketDir is where the directory of the plugin's sockets is made; empty: where temporary
	// files are. A killed hub leaves it behind.
	SocketDir string
	// Logger gets what the process writes, at a bounded rate. Nil: nobody does.
	Logger *slog.Logger
	// StartTimeout bounds the time until the plugin has said what it is, and then until it has
	// taken its config, and until a stream of it is open. CallTimeout bounds each other call.
	StartTimeout, CallTimeout time.Duration
	// StopTimeout is how long it may take to end before it is killed, unless the context of Close
	// ends sooner.
	StopTimeout time.Duration
}

// Process is a plugin in a process of its own. It is a [sourceplugin.Plugin] once Init was called.
// Its methods are safe for concurrent use.
type Process struct {
	*pluginwire.Client
	options Options
	child   *child.Process
	host    *plugin.Client
	conn    *grpc.ClientConn

	ending  sync.Once
	asked   chan struct{} // closed: it is to end
	cleaned chan struct{} // closed: nothing of it is left
}

var _ sourceplugin.Plugin = (*Process)(nil)

// Launch starts a plugin and gives it its config.
func Launch(ctx context.Context, o Options, config string) (*Process, error) {
	p, err := Start(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := p.Init(ctx, config); err != nil {
		_ = p.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return p, nil
}

// Start starts a plugin and asks what it is. The context bounds the start only; the process must
// be ended with Close. The error has the name of the plugin and the last lines that it wrote.
//
// On Linux the process ends with the hub, also when that is killed.
func Start(ctx context.Context, o Options) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o.complete()
	p := &Process{options: o, asked: make(chan struct{}), cleaned: make(chan struct{})}
	env := append(child.Environment(), memoryHint(o)...)
	p.child = child.New(child.Options{
		Command: o.Command, Args: o.Args, Env: append(env, o.Env...), SHA256: o.SHA256, MaxMemory: o.MaxMemory,
		OnlySockets: true, Secrets: o.Secrets, Logger: o.Logger, PlainLevel: slog.LevelInfo, Quiet: true,
	})
	p.host = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pluginwire.CookieKey, MagicCookieValue: pluginwire.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{pluginwire.ProtocolVersion: {pluginwire.PluginName: &pluginwire.Connector{}}},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			return p.child, p.child.Prepare(cmd.Env, dir)
		},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		SkipHostEnv:      true,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: o.SocketDir},
		StartTimeout:     o.StartTimeout,
		GRPCDialOptions:  pluginwire.DialOptions(),
		Logger:           child.GoPluginLog(o.Logger),
		SyncStdout:       child.NewLog(o.Logger, o.Secrets...), // of plugins that use go-plugin by themselves
		SyncStderr:       child.NewLog(o.Logger, o.Secrets...),
	})
	starting, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.connect(starting) }()
	var err error
	select {
	case err = <-done:
	case <-starting.Done():
		p.child.End()
		<-done
		err = starting.Err()
	}
	if err != nil {
		err = p.startError(starting, err)
		p.child.End()
		p.host.Kill()
		return nil, err
	}
	p.child.Started()
	go p.watch()
	return p, nil
}

func (o *Options) complete() {
	if o.Name == "" {
		o.Name = filepath.Base(o.Command)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("plugin", o.Name)
	if o.StartTimeout <= 0 {
		o.StartTimeout = DefaultStartTimeout
	}
	if o.StopTimeout <= 0 {
		o.StopTimeout = DefaultStopTimeout
	}
}

// memoryHint tells programs in Go about the limit, so that they tidy up before they reach it.
func memoryHint(o Options) []string {
	if o.MaxMemory <= 0 {
		return nil
	}
	return []string{fmt.Sprintf("GOMEMLIMIT=%d", o.MaxMemory-o.MaxMemory/8)}
}

func (p *Process) connect(ctx context.Context) error {
	host, err := p.host.Client()
	if err != nil {
		return err
	}
	conn, err := host.Dispense(pluginwire.PluginName)
	if err != nil {
		return err
	}
	p.conn = conn.(*grpc.ClientConn)
	p.Client, err = pluginwire.Connect(ctx, p.conn, pluginwire.ClientOptions{
		Name: p.options.Name, CallTimeout: p.options.CallTimeout, OpenTimeout: p.options.StartTimeout,
		Gone: p.gone, Close: p.Close,
	})
	return err
}

// startError says why the start has failed. It has the name of the plugin.
func (p *Process) startError(ctx context.Context, err error) error {
	started := p.child.PID() != 0
	if started && ctx.Err() == nil { // an exit is the better reason, if there is one
		select {
		case <-p.child.Exited():
		case <-time.After(child.DrainTime):
		}
	}
	why, hint := p.child.Tail(), "; it must be a plugin that speaks the plugin protocol of Tocsin, see docs/plugin-protocol.md"
	if why != "" {
		why, hint = "; it wrote: "+why, ""
	}
	name := "plugin " + p.options.Name + ": "
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%sit was not ready within %v%s: %w", name, p.options.StartTimeout, why, sourceplugin.ErrTimeout)
	case ctx.Err() != nil:
		return ctx.Err()
	case !started:
		return fmt.Errorf("%s%w", name, err)
	case p.child.EndedItself() && why != "": // it says it better than we can
		return fmt.Errorf("%s%w before it was ready (%s): %s", name, sourceplugin.ErrExited, p.child.How(), strings.TrimPrefix(p.child.Tail(), "Error: "))
	case p.child.Dead() && (p.child.EndedItself() || errors.Is(p.child.Err(), ErrMemory)):
		return fmt.Errorf("%s%w%s", name, p.gone(), hint)
	case strings.HasPrefix(err.Error(), "plugin "): // of the client
		return fmt.Errorf("%w%s", err, why)
	}
	return fmt.Errorf("%s%w: %s%s%s", name, sourceplugin.ErrProtocol, child.Printable(err.Error()), why, hint)
}

// gone waits a moment for the end of the process and says how it ended; nil if it runs.
func (p *Process) gone() error {
	select {
	case <-p.child.Exited():
	case <-time.After(exitGrace):
		return nil
	}
	if err := p.child.Err(); errors.Is(err, ErrMemory) {
		return fmt.Errorf("%w: %w", sourceplugin.ErrExited, err)
	}
	how := p.child.How()
	select {
	case <-p.asked:
		return fmt.Errorf("%w: it was asked to (%s)", sourceplugin.ErrExited, how)
	default:
	}
	if why := p.child.Tail(); why != "" {
		return fmt.Errorf("%w (%s); it wrote: %s", sourceplugin.ErrExited, how, why)
	}
	return fmt.Errorf("%w (%s)", sourceplugin.ErrExited, how)
}

// watch clears up after the process, whatever ends it.
func (p *Process) watch() {
	<-p.child.Exited()
	p.host.Kill()
	close(p.cleaned)
}

// PID is the process id.
func (p *Process) PID() int { return p.child.PID() }

// Exited is closed when the process has ended, whatever the reason.
func (p *Process) Exited() <-chan struct{} { return p.child.Exited() }

// ExitError says how the process ended; nil while it runs.
func (p *Process) ExitError() error {
	if !p.child.Dead() {
		return nil
	}
	return fmt.Errorf("plugin %s: %w", p.options.Name, p.gone())
}

// Close asks the process to end, which closes all that is open, and kills it, with what it has
// started, when it has not ended within Options.StopTimeout or before ctx ends. It returns when
// the process is gone.
func (p *Process) Close(ctx context.Context) error {
	p.ending.Do(func() { close(p.asked) })
	ctx, cancel := context.WithTimeout(ctx, p.options.StopTimeout)
	defer cancel()
	if !p.child.Dead() {
		// One that knows the call closes all that is open, and the connection before it answers: a
		// signal would keep it from that. Those that were not built with go-plugin need it at once.
		err := p.conn.Invoke(ctx, "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) == codes.Unimplemented {
			p.child.Interrupt()
		}
	}
	reminder := time.NewTimer(p.options.StopTimeout / 2)
	defer reminder.Stop()
	select {
	case <-p.child.Exited():
	case <-reminder.C:
		p.child.Interrupt()
	case <-ctx.Done():
	}
	select {
	case <-p.child.Exited():
	case <-ctx.Done():
		p.options.Logger.Warn("A plugin did not end in time and is killed.", "after", p.options.StopTimeout)
		p.child.End()
	}
	<-p.cleaned
	return nil
}
