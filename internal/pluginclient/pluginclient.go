// Package pluginclient is the hub's side of the plugin protocol (tocsin.plugin.v1): it starts
// the process of a plugin and makes a [sourceplugin.Plugin] of it. Starting it again when it has
// ended is up to others.
package pluginclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/tocsin-events/tocsin/internal/pluginserve"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

const (
	// maxMessage is the largest message that is taken: a batch.
	maxMessage = 512 << 20
	// maxDescription is what a plugin may say of itself.
	maxDescription = 16 << 20
	// drainTime is how long a process that is about to end may take to say why.
	drainTime = 500 * time.Millisecond
	// killTime is how long it may take to end when it is asked to, and when it is killed.
	killTime = 4 * time.Second
)

// ErrEnded is wrapped by the errors of calls to a process that has ended.
var ErrEnded = errors.New("the process of the plugin has ended")

// Options say what is started.
type Options struct {
	Name    string // of the plugin in errors; empty: the name of the file
	Command string // an absolute path
	Args    []string
	// Env are variables NAME=VALUE beside PATH, HOME and the like.
	Env []string
	// Logger gets what the process writes.
	Logger       *slog.Logger
	StartTimeout time.Duration // 0: a minute
}

// inherited are variables that the process gets as the hub has them.
var inherited = []string{
	"PATH", "HOME", "USER", "TMPDIR", "TZ", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
}

// Process is a plugin whose process runs. Its methods are safe for concurrent use.
type Process struct {
	name        string // of the file
	client      *plugin.Client
	service     pb.PluginServiceClient
	description *sourceplugin.Description
	log         *lines
	cmd         *exec.Cmd
	kill        func() // ends the process at once, if it runs

	ended  chan struct{} // closed when the process has ended because of Close
	ending sync.Once
}

// Start starts a process and asks what it is. The error has what it wrote last if it does not
// become a plugin. The context bounds the start only.
func Start(ctx context.Context, o Options) (*Process, error) {
	if o.StartTimeout <= 0 {
		o.StartTimeout = time.Minute
	}
	if o.Name == "" {
		o.Name = filepath.Base(o.Command)
	}
	p := &Process{name: o.Name, log: &lines{log: o.Logger, starting: true}, ended: make(chan struct{})}
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	cmd := exec.CommandContext(life, o.Command, o.Args...)
	p.cmd, p.kill = cmd, kill
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, o.Env...)
	isolate(cmd)
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pluginserve.CookieKey, MagicCookieValue: pluginserve.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{pluginserve.ProtocolVersion: {pluginserve.PluginName: &pluginserve.Connector{}}},
		Cmd:              cmd, SkipHostEnv: true, AutoMTLS: true, AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))},
		Logger:          hclog.NewNullLogger(), Stderr: p.log, StartTimeout: o.StartTimeout,
	})

	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	started := make(chan error, 1)
	go func() {
		// Linux ends the process together with the thread that has started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		rpc, err := p.client.Client()
		if err == nil {
			var service any
			if service, err = rpc.Dispense(pluginserve.PluginName); err == nil {
				p.service = service.(pb.PluginServiceClient)
			}
		}
		started <- err
		<-p.ended
	}()
	var err error
	select {
	case err = <-started:
	case <-ctx.Done():
		kill()
		<-started
		err = ctx.Err()
	}
	if err == nil {
		err = p.describe(ctx)
	}
	if err == nil {
		p.log.started()
		return p, nil
	}
	if ctx.Err() == nil {
		p.log.settle(drainTime)
	}
	why := p.log.tail()
	p.end()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it was not ready within %v", o.StartTimeout)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case p.service == nil && why != "":
		return nil, fmt.Errorf("start the plugin %s: %s", p.name, why)
	case p.service == nil:
		err = errors.New("it does not speak the plugin protocol of Tocsin")
	}
	if why != "" {
		return nil, fmt.Errorf("start the plugin %s: %w; it wrote: %s", p.name, err, why)
	}
	return nil, fmt.Errorf("start the plugin %s: %w", p.name, err)
}

// end ends the process and waits for that.
func (p *Process) end() {
	p.ending.Do(func() {
		defer close(p.ended)
		ran := !p.client.Exited()
		killed := make(chan struct{})
		go func() {
			p.client.Kill() // asks it, and kills it when it does not end
			close(killed)
		}()
		wait := func() {
			select {
			case <-killed:
			case <-time.After(killTime):
			}
		}
		wait()
		p.kill()
		if ran {
			killGroup(p.cmd) // what it has left behind, which may keep its output open
		}
		wait()
	})
}

// Close ends the process, and with it all that is open.
func (p *Process) Close(context.Context) error {
	p.end()
	return nil
}

// Describe returns what the plugin says of itself. It must not be changed.
func (p *Process) Describe() *sourceplugin.Description { return p.description }

// Init gives the plugin its config. It is called once. Closing the result ends the process.
func (p *Process) Init(ctx context.Context, config string) (sourceplugin.Plugin, error) {
	if _, err := p.service.Init(ctx, &pb.InitRequest{Config: config}); err != nil {
		return nil, p.failure(ctx, err)
	}
	return &Plugin{Process: p}, nil
}

func (p *Process) describe(ctx context.Context) error {
	d, err := p.service.Describe(ctx, &pb.DescribeRequest{}, grpc.MaxCallRecvMsgSize(maxDescription))
	if err != nil {
		return p.failure(ctx, err)
	}
	c := d.GetCapabilities()
	p.description = &sourceplugin.Description{
		Name: d.GetName(), Version: d.GetVersion(), Description: d.GetDescription(), Contact: d.GetContact(),
		ID: d.GetId(), EventSource: d.GetEventSource(), RequiredAPI: d.GetRequiredApi(),
		ConfigSchema: d.GetConfigSchema(), ParamsSchema: d.GetParamsSchema(),
		Capabilities: sourceplugin.Capabilities{
			Source: c.GetSource(), Extract: c.GetExtract(), Async: c.GetAsync(), OpenParams: c.GetOpenParams(), Strings: c.GetStrings(),
			Progress: c.GetProgress(), Metrics: c.GetMetrics(), SetConfig: c.GetSetConfig(), Resume: c.GetResume(),
		},
		ExtractSources: d.GetExtractSources(), AsyncNames: d.GetAsyncNames(),
	}
	for _, f := range d.GetFields() {
		field := sourceplugin.Field{
			Name: f.GetName(), Display: f.GetDisplay(), Description: f.GetDescription(), Type: sourceplugin.FieldType(f.GetType()), List: f.GetList(),
			Arg:        sourceplugin.ArgRule{Required: f.GetArgRequired(), Index: f.GetArgIndex(), Key: f.GetArgKey()},
			Properties: f.GetProperties(), AddOutput: f.GetAddOutput(),
		}
		switch field.Type {
		case sourceplugin.Uint64, sourceplugin.String, sourceplugin.RelTime, sourceplugin.AbsTime, sourceplugin.Bool, sourceplugin.IPAddr, sourceplugin.IPNet:
		default:
			return fmt.Errorf("its field %q has the type %d, which is none", field.Name, f.GetType())
		}
		p.description.Fields = append(p.description.Fields, field)
	}
	switch {
	case p.description.Name == "":
		return errors.New("it has no name")
	case (p.description.ID == 0) != (p.description.EventSource == ""):
		return fmt.Errorf("its id is %d and its event source %q: both are needed, or neither", p.description.ID, p.description.EventSource)
	}
	return nil
}
