package vaultplugin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tocsin-events/tocsin/internal/child"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

// exitGrace is how long after a broken connection the exit of the process is awaited.
const exitGrace = 2 * time.Second

// Backend is one mount of a plugin. Its methods are safe for concurrent use. Each
// returns when its context ends, at the latest after Options.CallTimeout; the errors are
// [ErrExited], [ErrTimeout], [ErrClosed], [ErrProtocol], a [*RemoteError], or that of the
// context when it was cancelled.
type Backend struct {
	p    *Process
	id   string // tells it from others in the process
	host *hostServer

	typ     Type
	version string
	paths   Paths

	opened  chan struct{}   // Open is over, and the fields above do not change any more
	ended   context.Context // ends with the backend
	endCtx  context.CancelFunc
	closing sync.Once
	ending  sync.Once
}

// Open makes a mount: it hands the configuration over, serves storage, system view,
// events and observations to it, and asks for type, version and special paths. The
// caller calls [Backend.Initialize] next. A failure of the plugin's own set-up is a
// [*RemoteError]; other errors are [ErrExited], [ErrTimeout], [ErrBusy] and [ErrProtocol].
func (p *Process) Open(ctx context.Context, s Setup) (*Backend, error) {
	if s.Storage == nil {
		return nil, errors.New("a plugin needs a storage")
	}
	ctx, cancel := context.WithTimeout(ctx, p.options.CallTimeout)
	defer cancel()
	b := &Backend{p: p, id: rand.Text()[:16], opened: make(chan struct{})}
	b.ended, b.endCtx = context.WithCancel(context.Background())
	if err := p.admit(b); err != nil {
		b.endCtx()
		return nil, err
	}
	defer context.AfterFunc(b.ended, cancel)()
	err := b.open(ctx, s)
	if err != nil && b.ended.Err() != nil {
		err = b.endError()
	}
	close(b.opened)
	if err != nil {
		b.Close(ctx)
		return nil, err
	}
	return b, nil
}

// admit registers a backend.
func (p *Process) admit(b *Backend) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopping || p.child.Dead():
		return p.exited()
	case !p.multiplexed && p.single:
		return fmt.Errorf("plugin %s: %w", p.options.Name, ErrBusy)
	}
	p.single = true
	p.backends[b] = struct{}{}
	return nil
}

func (p *Process) exited() error { return fmt.Errorf("plugin %s: %w", p.options.Name, ErrExited) }

func (b *Backend) open(ctx context.Context, s Setup) error {
	broker := b.p.broker.NextId()
	ln, err := b.p.listen(ctx, broker)
	if err != nil {
		return err
	}
	b.host = serveHost(ln, b.p.tlsConfig(), s, &b.p.options)

	setup := new(pb.SetupReply)
	err = b.call(ctx, methodSetup, &pb.SetupRequest{BrokerId: broker, Config: s.Config, BackendUuid: s.BackendUUID}, setup)
	if err != nil {
		return err
	}
	if setup.Error != "" {
		return &RemoteError{Message: setup.Error}
	}
	kind := new(pb.TypeReply)
	if err := b.call(ctx, methodType, noReply, kind); err != nil {
		return err
	}
	b.typ = Type(kind.Type)
	paths := new(pb.SpecialPathsReply)
	if err := b.call(ctx, methodSpecialPaths, noReply, paths); err != nil {
		return err
	}
	b.paths = pathsFromWire(paths.Paths)
	version := new(pb.VersionReply)
	if err := b.call(ctx, methodVersion, noReply, version); err != nil && !unimplemented(err) {
		return err
	}
	b.version = version.Version
	return nil
}

// listen opens a socket that the plugin is told of.
func (p *Process) listen(ctx context.Context, broker uint32) (net.Listener, error) {
	type result struct {
		ln  net.Listener
		err error
	}
	done := make(chan result)
	go func() { // blocks as long as the plugin likes, but not longer than it lives
		ln, err := p.broker.Accept(broker)
		select {
		case done <- result{ln, err}:
		case <-ctx.Done():
			if err == nil {
				ln.Close()
			}
		}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, p.failed(ctx, "Setup", status.Error(codes.Unavailable, r.err.Error()))
		}
		return r.ln, nil
	case <-p.child.Exited():
		return nil, p.exited()
	case <-ctx.Done():
		return nil, p.failed(ctx, "Setup", ctx.Err())
	}
}

// call calls the plugin.
func (b *Backend) call(ctx context.Context, method string, request, reply proto.Message) error {
	if b.ended.Err() != nil {
		return b.endError()
	}
	ctx, cancel := context.WithTimeout(ctx, b.p.options.CallTimeout)
	defer cancel()
	ctx, cancelCall := context.WithCancel(ctx)
	defer cancelCall()
	defer context.AfterFunc(b.ended, cancelCall)()
	callCtx := metadata.AppendToOutgoingContext(ctx, multiplexKey, b.id)
	err := b.p.conn.Invoke(callCtx, method, request, reply)
	switch {
	case err == nil:
		return nil
	case b.ended.Err() != nil:
		return b.endError()
	}
	return b.p.failed(ctx, shortName(method), err)
}

func shortName(method string) string {
	for i := len(method) - 1; i >= 0; i-- {
		if method[i] == '/' {
			return method[i+1:]
		}
	}
	return method
}

func (b *Backend) endError() error {
	if b.p.child.Dead() {
		return b.p.exited()
	}
	return fmt.Errorf("plugin %s: %w", b.p.options.Name, ErrClosed)
}

// failed says what an error of gRPC means.
func (p *Process) failed(ctx context.Context, what string, err error) error {
	code := status.Code(err)
	if code == codes.Unavailable { // the connection is gone, mostly because the process is
		select {
		case <-p.child.Exited():
		case <-ctx.Done():
		case <-time.After(exitGrace):
		}
	}
	text := child.Printable(status.Convert(err).Message())
	const most = 1000
	if len(text) > most {
		text = text[:most] + "..."
	}
	switch {
	case p.child.Dead():
		return fmt.Errorf("plugin %s: %s: %w", p.options.Name, what, ErrExited)
	case errors.Is(ctx.Err(), context.DeadlineExceeded), (code == codes.Canceled || code == codes.DeadlineExceeded) && isOver(ctx):
		return fmt.Errorf("plugin %s: %s: %w: %w", p.options.Name, what, ErrTimeout, context.DeadlineExceeded)
	case ctx.Err() != nil:
		return ctx.Err()
	case code == codes.DeadlineExceeded, code == codes.Canceled, code == codes.Unavailable:
		return fmt.Errorf("plugin %s: %s: %w: %s", p.options.Name, what, ErrTimeout, text)
	case code == codes.Unknown: // an error that the plugin returned
		return &RemoteError{Message: text}
	case code == codes.Unimplemented:
		return fmt.Errorf("plugin %s: %s: %w: %w", p.options.Name, what, ErrProtocol, errUnimplemented)
	}
	return fmt.Errorf("plugin %s: %s: %w: %s", p.options.Name, what, ErrProtocol, text)
}

var errUnimplemented = errors.New("it has no such method")

func unimplemented(err error) bool { return errors.Is(err, errUnimplemented) }

// Type is the type of the backend.
func (b *Backend) Type() Type { return b.typ }

// Version is what the plugin says about its version, for example "v0.25.0"; often empty.
func (b *Backend) Version() string { return b.version }

// SpecialPaths are those of the backend.
func (b *Backend) SpecialPaths() Paths { return b.paths }

// Initialize tells the backend that it is mounted. It is called once, before requests.
func (b *Backend) Initialize(ctx context.Context) error {
	reply := new(pb.InitializeReply)
	err := b.call(ctx, methodInitialize, new(pb.InitializeRequest), reply)
	switch {
	case unimplemented(err):
		return nil
	case err != nil:
		return err
	}
	return errorFromWire(reply.Error)
}

// HandleRequest has the backend answer a request. The response may be nil. It may also
// be there together with a [*RemoteError], and then has the text for the caller.
func (b *Backend) HandleRequest(ctx context.Context, r *Request) (*Response, error) {
	request, err := requestToWire(r)
	if err != nil {
		return nil, err
	}
	reply := new(pb.HandleReply)
	if err := b.call(ctx, methodRequest, &pb.HandleRequest{Request: request}, reply); err != nil {
		return nil, err
	}
	response, err := responseFromWire(reply.Response)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", b.p.options.Name, err)
	}
	return response, errorFromWire(reply.Error)
}

// HandleExistenceCheck asks whether the object of a write exists, by which the caller
// chooses between create and update. Where found is false the path has no check, and
// the operation is update.
func (b *Backend) HandleExistenceCheck(ctx context.Context, r *Request) (found, exists bool, err error) {
	request, err := requestToWire(r)
	if err != nil {
		return false, false, err
	}
	reply := new(pb.ExistenceReply)
	if err := b.call(ctx, methodExistence, &pb.ExistenceRequest{Request: request}, reply); err != nil {
		return false, false, err
	}
	if err := errorFromWire(reply.Error); err != nil {
		return false, false, err
	}
	return reply.Found, reply.Exists, nil
}

// InvalidateKey tells the backend that a key of its storage was changed by others.
func (b *Backend) InvalidateKey(ctx context.Context, key string) error {
	return b.call(ctx, methodInvalidateKey, &pb.InvalidateKeyRequest{Key: key}, new(pb.Empty))
}

// Close has the backend clean up, and ends what is served to it. Other backends of the
// process go on. When ctx ends first, or after Options.StopTimeout, it does not wait for
// the plugin any more. Further calls do nothing.
func (b *Backend) Close(ctx context.Context) {
	b.closing.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, b.p.options.StopTimeout)
		defer cancel()
		select {
		case <-b.opened:
			if b.host != nil && ctx.Err() == nil {
				if err := b.call(ctx, methodCleanup, noReply, new(pb.Empty)); err != nil {
					b.p.options.Logger.Debug("cleaning up failed", "error", err)
				}
			}
		case <-ctx.Done():
		}
	})
	b.end()
}

// end ends everything but the backend in the plugin.
func (b *Backend) end() {
	b.ending.Do(func() {
		b.endCtx()
		<-b.opened
		if b.host != nil {
			b.host.stop()
		}
		b.p.mu.Lock()
		delete(b.p.backends, b)
		b.p.single = len(b.p.backends) > 0
		b.p.mu.Unlock()
	})
}

// isOver says whether the time of ctx is over, or all but: the other side has the same deadline,
// and its clock may be the first to tell.
func isOver(ctx context.Context) bool {
	end, limited := ctx.Deadline()
	return limited && time.Until(end) < 100*time.Millisecond
}
