package vaultplugin

import (
	"context"
	"errors"
)

// Process is a running plugin. Its methods are safe for concurrent use.
type Process struct{}

// Launch starts a plugin and returns when the handshake is done. The process must be
// ended with [Process.Kill] or [Process.Stop]. ctx bounds the start only. The error
// wraps [ErrChecksum], [ErrTimeout], [ErrExited] or [ErrProtocol], and has the last lines
// that the process wrote where that helps.
//
// On Linux the process ends with the hub, also when that is killed.
func Launch(ctx context.Context, o Options) (*Process, error) { return nil, errors.ErrUnsupported }

// PID is the process id.
func (p *Process) PID() int { return 0 }

// Multiplexed says whether the process serves many backends at the same time.
func (p *Process) Multiplexed() bool { return false }

// Exited is closed when the process is gone, whatever the reason. All calls have
// returned or return [ErrExited] soon then.
func (p *Process) Exited() <-chan struct{} { return nil }

// ExitError says how the process ended, for example "exit status 2" with the last lines
// of its error output. It is nil while the process runs and when it ended by Stop or Kill.
func (p *Process) ExitError() error { return nil }

// Open makes a mount: it hands the configuration over, serves storage, system view,
// events and observations to it, and asks for type, version and special paths. The
// caller calls [Backend.Initialize] next. A failure of the plugin's own set-up is a
// [*RemoteError]; other errors are [ErrExited], [ErrTimeout], [ErrBusy] and [ErrProtocol].
func (p *Process) Open(ctx context.Context, s Setup) (*Backend, error) {
	return nil, errors.ErrUnsupported
}

// Stop closes all backends, asks the process to end, kills it when it does not before
// ctx ends, and returns when it is gone.
func (p *Process) Stop(ctx context.Context) {}

// Kill is Stop with the StopTimeout of the options.
func (p *Process) Kill() {}

// Backend is one mount of a plugin. Its methods are safe for concurrent use. Each
// returns when its context ends, at the latest after Options.CallTimeout; the errors are
// [ErrExited], [ErrTimeout], [ErrClosed], [ErrProtocol], a [*RemoteError], or that of the
// context when it was cancelled.
type Backend struct{}

// Type is the type of the backend.
func (b *Backend) Type() Type { return 0 }

// Version is what the plugin says about its version, for example "v0.25.0"; often empty.
func (b *Backend) Version() string { return "" }

// SpecialPaths are those of the backend.
func (b *Backend) SpecialPaths() Paths { return Paths{} }

// Initialize tells the backend that it is mounted. It is called once, before requests.
func (b *Backend) Initialize(ctx context.Context) error { return errors.ErrUnsupported }

// HandleRequest has the backend answer a request. The response may be nil. It may also
// be there together with a [*RemoteError], and then has the text for the caller.
func (b *Backend) HandleRequest(ctx context.Context, r *Request) (*Response, error) {
	return nil, errors.ErrUnsupported
}

// HandleExistenceCheck asks whether the object of a write exists, by which the caller
// chooses between create and update. Where found is false the path has no check, and
// the operation is update.
func (b *Backend) HandleExistenceCheck(ctx context.Context, r *Request) (found, exists bool, err error) {
	return false, false, errors.ErrUnsupported
}

// InvalidateKey tells the backend that a key of its storage was changed by others.
func (b *Backend) InvalidateKey(ctx context.Context, key string) error { return errors.ErrUnsupported }

// Close has the backend clean up, and ends what is served to it. Other backends of the
// process go on. When ctx ends first, or after Options.StopTimeout, it does not wait for
// the plugin any more. Further calls do nothing.
func (b *Backend) Close(ctx context.Context) {}
