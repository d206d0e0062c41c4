package vaultplugin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
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
	// drainTime is how long output is read that a dead process left in the pipes.
	drainTime = 500 * time.Millisecond
)

// child is the process of a plugin. It is what go-plugin calls a runner: go-plugin sees
// the first line of its standard output only, and nothing of its error output, which it
// would trust.
type child struct {
	path   string
	sha256 []byte
	cmd    *exec.Cmd
	log    *lineLog // error output
	say    *lineLog // standard output after the handshake

	handshake io.ReadCloser
	silent    atomic.Bool // the standard output ended before the handshake

	mu     sync.Mutex
	pid    int  // 0 before the start
	killed bool // by us, before its end was noticed
	reaped bool // the pid may belong to another process by now

	exited chan struct{} // the process is gone and its output was read
	err    error         // of the process; read after exited
}

func newChild(o *Options) *child {
	cmd := exec.Command(o.Command, o.Args...)
	cmd.Env = o.environment()
	isolate(cmd)
	return &child{
		path:   o.Command,
		sha256: o.SHA256,
		cmd:    cmd,
		log:    newLineLog(o.Logger),
		say:    newLineLog(o.Logger),
		exited: make(chan struct{}),
	}
}

// prepare adds variables to the environment.
func (c *child) prepare(env []string) error {
	c.cmd.Env = append(c.cmd.Env, env...)
	return nil
}

// Start starts the process. Everything of it happens on one thread that does nothing
// else until the process is gone: Linux kills the child when the thread ends that
// started it.
func (c *child) Start(ctx context.Context) error {
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

// start returns a function that ends reading the output, at the latest after drainTime.
func (c *child) start() (drain func(), err error) {
	program, err := checkExecutable(c.path, c.sha256)
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
		if err = program.unchanged(); err != nil {
			c.kill()
			c.reap()
		}
	}
	if err != nil {
		for _, f := range []*os.File{stdout, stderr} {
			if f != nil {
				closers = append(closers, f)
			}
		}
		return nil, fmt.Errorf("start %s: %w", c.path, err)
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
		deadline := time.Now().Add(drainTime)
		_ = stdout.SetReadDeadline(deadline)
		_ = stderr.SetReadDeadline(deadline)
		handshake.Close() // go-plugin may have stopped reading
		readers.Wait()
	}, nil
}

// readFirstLine hands the first line of r to w, and logs everything after it.
func (c *child) readFirstLine(w *io.PipeWriter, r io.Reader) {
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

// dead says whether the process has exited.
func (c *child) dead() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

func (c *child) wait(drain func()) error {
	awaitExit(c.cmd.Process)
	err := c.reap()
	drain()
	return err
}

func (c *child) reap() error {
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	return c.cmd.Wait()
}

// kill ends the process and what it started, without asking, also when it is only about
// to be started.
func (c *child) kill() {
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

// endedItself says whether the process is dead and was not killed.
func (c *child) endedItself() bool {
	if !c.dead() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.killed
}

// The rest is for go-plugin.

func (c *child) Wait(ctx context.Context) error {
	<-c.exited
	return c.err
}

// Kill kills the process, but lets one that is about to end tell why.
func (c *child) Kill(ctx context.Context) error {
	if c.silent.Load() {
		select {
		case <-c.exited:
		case <-time.After(drainTime):
		}
	}
	c.kill()
	return nil
}

func (c *child) Stdout() io.ReadCloser { return c.handshake }
func (c *child) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }
func (c *child) Name() string          { return c.path }

func (c *child) Diagnose(ctx context.Context) string { return "" }

// ID is never empty, because go-plugin cleans up only after what has an id.
func (c *child) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strconv.Itoa(c.pid)
}

// PluginToHost refuses addresses on other machines, which a plugin has no reason to name.
func (c *child) PluginToHost(network, address string) (string, string, error) {
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

func (c *child) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
