package vaultplugin

import (
	"context"
	"crypto/tls"
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

	"github.com/tocsin-events/tocsin/internal/child"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

// How a plugin and its host recognise each other. It is not meant to be secret.
const (
	cookieKey       = "VAULT_BACKEND_PLUGIN"
	cookieValue     = "6669da05-b1c8-4f49-97d9-c8e5bed98e20"
	protocolVersion = 5
	pluginName      = "backend"
)

// Process is a running plugin. Its methods are safe for concurrent use.
type Process struct {
	options     Options
	child       *child.Process
	client      *plugin.Client
	config      *plugin.ClientConfig
	conn        *grpc.ClientConn
	broker      *plugin.GRPCBroker
	multiplexed bool

	shutdown func() // asks the plugin to end, once; returns when it is gone
	gone     chan struct{}

	mu       sync.Mutex
	stopping bool
	backends map[*Backend]struct{}
	single   bool // a backend of a plugin that is not multiplexed is open or being opened
}

// Launch starts a plugin and returns when the handshake is done. The process must be
// ended with [Process.Kill] or [Process.Stop]. ctx bounds the start only. The error
// wraps [ErrChecksum], [ErrTimeout], [ErrExited] or [ErrProtocol], and has the last lines
// that the process wrote where that helps.
//
// On Linux the process ends with the hub, also when that is killed.
func Launch(ctx context.Context, o Options) (*Process, error) {
	o.complete()
	p := &Process{
		options:  o,
		gone:     make(chan struct{}),
		backends: map[*Backend]struct{}{},
	}
	p.config = &plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cookieKey, MagicCookieValue: cookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{protocolVersion: {pluginName: connector{p: p}}},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			return p.child, p.child.Prepare(cmd.Env, dir)
		},
		AutoMTLS:         true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		SkipHostEnv:      true,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: o.SocketDir},
		StartTimeout:     o.StartTimeout,
		Logger:           child.GoPluginLog(o.Logger),
		SyncStdout:       child.NewLog(o.Logger),
		SyncStderr:       child.NewLog(o.Logger),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(o.MaxMessage), grpc.MaxCallSendMsgSize(o.MaxMessage)),
			grpc.WithMaxHeaderListSize(64 << 10),
		},
	}
	p.child = child.New(child.Options{
		Command: o.Command, Args: o.Args, Env: o.environment(), SHA256: o.SHA256, Logger: o.Logger, PlainLevel: slog.LevelDebug,
	})
	p.client = plugin.NewClient(p.config)
	p.shutdown = sync.OnceFunc(p.client.Kill)

	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.connect(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		p.child.End()
		<-done
		err = ctx.Err()
	}
	if err != nil {
		err = p.launchError(ctx, err)
		p.child.End()
		p.shutdown()
		return nil, err
	}
	go p.watch()
	return p, nil
}

func (o *Options) complete() {
	if o.Name == "" {
		o.Name = filepath.Base(o.Command)
	}
	if o.VaultVersion == "" {
		o.VaultVersion = DefaultVaultVersion
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("plugin", o.Name)
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
	}{
		{&o.StartTimeout, DefaultStartTimeout},
		{&o.CallTimeout, DefaultCallTimeout},
		{&o.StopTimeout, DefaultStopTimeout},
	} {
		if *d.value <= 0 {
			*d.value = d.zero
		}
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = DefaultMaxMessage
	}
	if o.MaxEntry <= 0 {
		o.MaxEntry = DefaultMaxEntry
	}
}

// environment is what the plugin gets, but for what go-plugin adds.
func (o *Options) environment() []string {
	return append(child.Environment(o.Env...),
		"VAULT_VERSION="+o.VaultVersion,
		"VAULT_PLUGIN_METADATA_MODE=false",
		"VAULT_PLUGIN_AUTOMTLS_ENABLED=true",
	)
}

// connector is what go-plugin hands the connection to.
type connector struct {
	plugin.NetRPCUnsupportedPlugin
	p *Process
}

func (connector) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("this is the host")
}

func (c connector) GRPCClient(_ context.Context, broker *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	c.p.broker, c.p.conn = broker, conn
	return c.p, nil
}

func (p *Process) connect(ctx context.Context) error {
	client, err := p.client.Client()
	if err != nil {
		return err
	}
	if _, err := client.Dispense(pluginName); err != nil {
		return err
	}
	reply := new(pb.MultiplexingReply)
	err = p.conn.Invoke(ctx, methodMultiplexing, noReply, reply)
	if status.Code(err) == codes.Unimplemented {
		err = nil
	}
	p.multiplexed = reply.Supported
	return err
}

// launchError says why the start failed.
func (p *Process) launchError(ctx context.Context, err error) error {
	started := p.child.ID() != "0"
	if started && ctx.Err() == nil { // an exit is the better reason, if there is one
		select {
		case <-p.child.Exited():
		case <-time.After(child.DrainTime):
		}
	}
	const noPlugin = "; it must be a plugin built with the SDK of Vault or OpenBao (protocol 5, gRPC)"
	why, hint := p.child.Tail(), ""
	if why != "" {
		why = "; it wrote: " + why
	} else {
		hint = noPlugin
	}
	switch {
	case errors.Is(err, ErrChecksum):
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%w%s", ErrTimeout, why)
	case ctx.Err() != nil:
		err = ctx.Err()
	case !started:
	case p.child.EndedItself() && p.child.Err() != nil:
		err = fmt.Errorf("%w before the handshake (%w)%s", ErrExited, p.child.Err(), why+hint)
	case p.child.EndedItself():
		err = fmt.Errorf("%w before the handshake%s", ErrExited, why+hint)
	default:
		err = fmt.Errorf("%w: %s%s", ErrProtocol, child.Printable(err.Error()), why+noPlugin)
	}
	return fmt.Errorf("plugin %s: %w", p.options.Name, err)
}

// watch clears up after the process, whatever ends it.
func (p *Process) watch() {
	<-p.child.Exited()
	p.shutdown()
	p.mu.Lock()
	stopping := p.stopping
	p.mu.Unlock()
	if err := p.child.Err(); !stopping {
		p.options.Logger.Warn("the plugin has exited", "error", err, "last", p.child.Tail())
	}
	for _, b := range p.open() {
		b.end()
	}
	close(p.gone)
}

func (p *Process) open() []*Backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*Backend, 0, len(p.backends))
	for b := range p.backends {
		list = append(list, b)
	}
	return list
}

// PID is the process id.
func (p *Process) PID() int { return p.child.PID() }

// Multiplexed says whether the process serves many backends at the same time.
func (p *Process) Multiplexed() bool { return p.multiplexed }

// Exited is closed when the process is gone, whatever the reason. All calls have
// returned or return [ErrExited] soon then.
func (p *Process) Exited() <-chan struct{} { return p.child.Exited() }

// ExitError says how the process ended, for example "exit status 2" with the last lines
// of its error output. It is nil while the process runs and when it ended by Stop or Kill.
func (p *Process) ExitError() error {
	if !p.child.Dead() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return nil
	}
	parts := []string{"plugin " + p.options.Name, "exit status 0"}
	if p.child.Err() != nil {
		parts[1] = p.child.Err().Error()
	}
	if tail := p.child.Tail(); tail != "" {
		parts = append(parts, tail)
	}
	return errors.New(strings.Join(parts, ": "))
}

// Stop closes all backends, asks the process to end, kills it when it does not before
// ctx ends, and returns when it is gone.
func (p *Process) Stop(ctx context.Context) {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	var closing sync.WaitGroup
	for _, b := range p.open() {
		closing.Go(func() { b.Close(ctx) })
	}
	closing.Wait()
	if ctx.Err() == nil {
		go p.shutdown() // kills after two seconds, but not where it hangs before that
		select {
		case <-p.child.Exited():
		case <-ctx.Done():
		}
	}
	p.child.End()
	<-p.gone
}

// Kill is Stop with the StopTimeout of the options.
func (p *Process) Kill() {
	ctx, cancel := context.WithTimeout(context.Background(), p.options.StopTimeout)
	defer cancel()
	p.Stop(ctx)
}

// tlsConfig is that of the handshake, for what is served to the plugin.
func (p *Process) tlsConfig() *tls.Config { return p.config.TLSConfig.Clone() }
