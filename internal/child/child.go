// Package child runs a plugin as a child process, for the packages that speak with one: [Process]
// is what go-plugin calls a runner. It bounds what go-plugin trusts: the first line of the output,
// the environment, the address that the plugin listens on, the log; it checks the checksum of the
// executable, limits its memory, and leaves no orphans, also when the hub is killed.
package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxHandshake bounds the first line of the standard output, which has a certificate.
	maxHandshake = 16 << 10
	// DrainTime is how long output is read that a dead process left in the pipes, and how long one
	// whose output has ended may take to end.
	DrainTime = 500 * time.Millisecond
)

// Options say what is started.
type Options struct {
	Command string // path of the executable
	Args    []string
	Env     []string // all of the environment, but for what go-plugin adds
	// SHA256 is the checksum that the executable must have; nil does not check. On Linux exactly
	// the file that was checked is executed, also when another one is put in its place meanwhile.
	SHA256 []byte
	// MaxMemory is the most memory of its own that the process may use, in bytes; 0: no limit. It
	// is killed when it uses more. Only Linux can do that.
	MaxMemory int64
	// OnlySockets refuses a plugin that does not listen on a socket in the directory that it was
	// given for that, which nobody else can reach.
	OnlySockets bool
	// Secrets are taken out of what the process writes.
	Secrets []string
	// Logger gets what the process writes.
	Logger *slog.Logger
	// PlainLevel is that of lines which do not say theirs.
	PlainLevel slog.Level
	// Quiet logs at the level of debugging until Process.Started is called: what is written before
	// is part of the error if the plugin does not start.
	Quiet bool
}

// inherited are the variables of the hub that a plugin sees.
var inherited = []string{
	"PATH", "HOME", "USER", "TMPDIR", "TMP", "TEMP", "SYSTEMROOT", "TZ", "LANG", "LC_ALL",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
}

// Environment returns the variables of the hub that every plugin sees, and others, as "key=value".
// The environment of the hub may have secrets.
func Environment(others ...string) []string {
	var env []string
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return append(env, others...)
}

// Process is the process of a plugin. It is what go-plugin calls a runner: go-plugin sees
// the first line of its standard output only, and nothing of its error output, which it
// would trust. Its methods are safe for concurrent use.
type Process struct {
	options Options
	cmd     *exec.Cmd
	log     *lineLog // error output
	say     *lineLog // standard output after the handshake

	handshake io.ReadCloser
	silent    atomic.Bool // the standard output ended before the handshake
	socketDir string

	mu     sync.Mutex
	pid    int   // 0 before the start
	killed bool  // by us, before its end was noticed
	greedy int64 // what it used when it was killed for that
	reaped bool  // the pid may belong to another process by now

	exited chan struct{} // the process is gone and its output was read
	err    error         // of the process; read after exited
}

// New returns a process that go-plugin will start.
func New(o Options) *Process {
	cmd := exec.Command(o.Command, o.Args...)
	cmd.Env = o.Env
	isolate(cmd)
	return &Process{
		options: o,
		cmd:     cmd,
		log:     newLineLog(o.Logger, o.PlainLevel, o.Quiet, o.Secrets),
		say:     newLineLog(o.Logger, o.PlainLevel, o.Quiet, o.Secrets),
		exited:  make(chan struct{}),
	}
}

// Prepare is called by go-plugin's RunnerFunc: it adds variables to the environment, and notes
// in which directory the plugin may make sockets.
func (c *Process) Prepare(env []string, socketDir string) error {
	c.cmd.Env = append(c.cmd.Env, env...)
	c.socketDir = socketDir
	return nil
}

// Start starts the process. Everything of it happens on one thread that does nothing
// else until the process is gone: Linux kills the child when the thread ends that
// started it.
func (c *Process) Start(ctx context.Context) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.exited)
		drained, err := c.start()
		started <- err
		if err != nil {
			c.err = err
			return
		}
		c.err = c.wait(drained)
	}()
	return <-started
}

// start returns a function that ends reading the output, at the latest after DrainTime.
func (c *Process) start() (drain func(), err error) {
	program, err := checkExecutable(c.options.Command, c.options.SHA256)
	if err != nil {
		return nil, err
	}
	defer program.close()
	c.cmd.Path, c.cmd.Err = program.path, nil

	var closers []io.Closer
	defer func() {
		for _, f := range closers {
			f.Close()
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			if r, w, err = os.Pipe(); err == nil {
				closers = append(closers, w)
			}
		}
		return r, w
	}
	stdout, outWriter := pipe()
	stderr, errWriter := pipe()
	if err == nil {
		c.cmd.Stdout, c.cmd.Stderr = outWriter, errWriter
		err = c.cmd.Start()
	}
	if err == nil {
		c.mu.Lock()
		c.pid = c.cmd.Process.Pid
		if c.killed { // before it was started
			killGroup(c.cmd.Process)
		}
		c.mu.Unlock()
		err = limitMemory(c.cmd.Process.Pid, c.options.MaxMemory)
		if err == nil {
			err = program.unchanged()
		}
		if err != nil {
			c.End()
			c.reap()
		}
	}
	if err != nil {
		for _, f := range []*os.File{stdout, stderr} {
			if f != nil {
				closers = append(closers, f)
			}
		}
		return nil, notStarted(c.options.Command, err)
	}

	handshake, first := io.Pipe()
	c.handshake = handshake
	var readers sync.WaitGroup
	readers.Go(func() {
		defer stdout.Close()
		defer first.Close()
		c.readFirstLine(first, stdout)
	})
	readers.Go(func() {
		defer stderr.Close()
		_, _ = io.Copy(c.log, stderr)
		c.log.flush()
	})
	return func() {
		deadline := time.Now().Add(DrainTime)
		_ = stdout.SetReadDeadline(deadline)
		_ = stderr.SetReadDeadline(deadline)
		handshake.Close() // go-plugin may have stopped reading
		readers.Wait()
	}, nil
}

// readFirstLine hands the first line of r to w, and logs everything after it.
func (c *Process) readFirstLine(w *io.PipeWriter, r io.Reader) {
	b := bufio.NewReaderSize(r, maxHandshake)
	line, err := b.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		w.CloseWithError(fmt.Errorf("the first line of the plugin is longer than %d bytes", maxHandshake))
	case err != nil && len(line) == 0:
		c.silent.Store(true)
		w.Close()
	default:
		_, _ = w.Write(line)
	}
	_, _ = io.Copy(c.say, b)
	c.say.flush()
}

// Dead says whether the process has exited.
func (c *Process) Dead() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

func (c *Process) wait(drain func()) error {
	watched := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(watched)
		if c.options.MaxMemory > 0 {
			c.watchMemory(stop)
		}
	}()
	awaitExit(c.cmd.Process)
	err := c.reap()
	close(stop)
	<-watched
	drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.greedy > 0 {
		return fmt.Errorf("%w: it used %d MiB, and %d MiB are allowed", ErrMemory, c.greedy>>20, c.options.MaxMemory>>20)
	}
	return err
}

// memoryEvery is how often it is looked how much memory a process uses.
const memoryEvery = 200 * time.Millisecond

// watchMemory kills the process when it uses too much memory.
func (c *Process) watchMemory(stop <-chan struct{}) {
	t := time.NewTicker(memoryEvery)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		c.mu.Lock()
		if used := memoryOf(c.pid); used > c.options.MaxMemory && !c.reaped && !c.killed {
			c.greedy = used
			killGroup(c.cmd.Process)
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}

func (c *Process) reap() error {
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	return c.cmd.Wait()
}

// End kills the process and what it started, without asking, also when it is only about
// to be started.
func (c *Process) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return
	}
	c.killed = true
	if c.pid != 0 {
		killGroup(c.cmd.Process)
	}
}

// EndedItself says whether the process is dead and was not killed.
func (c *Process) EndedItself() bool {
	if !c.Dead() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.killed
}

// Exited is closed when the process is gone and its output was read.
func (c *Process) Exited() <-chan struct{} { return c.exited }

// Err says how the process ended; nil is an exit with 0. It is valid when Exited is closed.
func (c *Process) Err() error { return c.err }

// How is Err as text: "exit status 0", "signal: killed".
func (c *Process) How() string {
	if c.err == nil {
		return "exit status 0"
	}
	return c.err.Error()
}

// PID is the process id, 0 before the start.
func (c *Process) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

// Tail is what the process wrote last on its error output: a few lines, or the panic.
func (c *Process) Tail() string { return c.log.tail() }

// Started ends Options.Quiet.
func (c *Process) Started() {
	c.log.loud()
	c.say.loud()
}

// Interrupt asks the process to end, by a signal that most programs obey.
func (c *Process) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pid != 0 && !c.reaped {
		interrupt(c.cmd.Process)
	}
}

// The rest is for go-plugin.

func (c *Process) Wait(ctx context.Context) error {
	<-c.exited
	return c.err
}

// Kill kills the process, but lets one that is about to end tell why.
func (c *Process) Kill(ctx context.Context) error {
	if c.silent.Load() {
		select {
		case <-c.exited:
		case <-time.After(DrainTime):
		}
	}
	c.End()
	return nil
}

func (c *Process) Stdout() io.ReadCloser { return c.handshake }
func (c *Process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }
func (c *Process) Name() string          { return c.options.Command }

func (c *Process) Diagnose(ctx context.Context) string { return "" }

// ID is never empty, because go-plugin cleans up only after what has an id.
func (c *Process) ID() string { return strconv.Itoa(c.PID()) }

// PluginToHost refuses addresses on other machines, which a plugin has no reason to name, and
// those that Options do not want.
func (c *Process) PluginToHost(network, address string) (string, string, error) {
	if c.options.OnlySockets {
		if network == "unix" && c.isOwnSocket(address) {
			return network, address, nil
		}
		return "", "", fmt.Errorf("the plugin listens on %.200q; it must be on a unix socket in the directory that the variable PLUGIN_UNIX_SOCKET_DIR names", network+" "+address)
	}
	if network == "unix" && address != "" {
		return network, address, nil
	}
	if host, _, err := net.SplitHostPort(address); err == nil && network == "tcp" {
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
			return network, address, nil
		}
	}
	return "", "", fmt.Errorf("the plugin listens on %.200q, which is neither a socket nor a port of this machine", network+" "+address)
}

// isOwnSocket says whether an address is a socket right in the directory of sockets.
func (c *Process) isOwnSocket(address string) bool {
	if !filepath.IsAbs(address) || filepath.Dir(filepath.Clean(address)) != filepath.Clean(c.socketDir) {
		return false
	}
	info, err := os.Lstat(address)
	return err == nil && info.Mode().Type() == os.ModeSocket
}

// HostToPlugin is the other direction.
func (c *Process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
