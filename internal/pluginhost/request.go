package pluginhost

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// Access is what a path within a mount needs.
type Access struct {
	Sudo bool // as well as the capability for the operation
	Open bool // no token
}

// Access returns what a path needs. It starts nothing, but waits for the first start of
// the mount, because only the plugin knows. The error is a [*DownError], [ErrClosed] or
// that of ctx.
func (m *Mount) Access(ctx context.Context, path string) (Access, error) {
	s := m.paths.Load()
	if s == nil {
		inst, err := m.acquire(ctx)
		if err != nil {
			return Access{}, err
		}
		m.done(inst)
		s = m.paths.Load()
	}
	return Access{Sudo: s.root.match(path), Open: s.open.match(path)}, nil
}

// Exists says whether the object of a write exists; a path without a check counts as one
// that does. Errors are those of [Mount.Handle].
func (m *Mount) Exists(ctx context.Context, r *vaultplugin.Request) (exists bool, err error) {
	m.address(r)
	_, err = m.ask(ctx, func(ctx context.Context, b Backend) (*vaultplugin.Response, error) {
		found, there, err := b.HandleExistenceCheck(ctx, r)
		exists = there || !found
		return nil, err
	})
	return exists, err
}

// Handle has the plugin answer a request, which gets what belongs to the mount. When the
// process ends meanwhile the request is repeated once. The error is a
// [*vaultplugin.RemoteError], a [*DownError], one that wraps [vaultplugin.ErrTimeout], or
// that of ctx.
func (m *Mount) Handle(ctx context.Context, r *vaultplugin.Request) (*vaultplugin.Response, error) {
	m.address(r)
	response, err := m.ask(ctx, func(ctx context.Context, b Backend) (*vaultplugin.Response, error) {
		return b.HandleRequest(ctx, r)
	})
	m.host.metrics.requests.WithLabelValues(m.Record().Full(), outcome(err)).Inc()
	return response, err
}

// address adds to a request what belongs to the mount.
func (m *Mount) address(r *vaultplugin.Request) {
	record := m.Record()
	r.MountPoint, r.MountType, r.MountAccessor = record.Path, record.Plugin, record.Accessor
}

// ask calls the backend, again and again while it warms up.
func (m *Mount) ask(ctx context.Context, do func(context.Context, Backend) (*vaultplugin.Response, error)) (response *vaultplugin.Response, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.host.config.RequestTimeout)
	defer cancel()
	for begin := time.Now(); ; {
		err = m.call(ctx, func(b Backend) error {
			response, err = do(ctx, b)
			return err
		})
		if !warmingUp(response, err) || time.Since(begin) > warmUpTime || !m.isFresh() {
			return response, err
		}
		select {
		case <-time.After(warmUpPause):
		case <-ctx.Done():
			return response, err
		}
	}
}

// isFresh says whether the backend was started moments ago.
func (m *Mount) isFresh() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current != nil && time.Since(m.current.started) < warmUpTime
}

// A kv plugin of version 2 refuses requests for the first moments after its start, while it
// looks whether it has data of version 1. Such requests are repeated here.
const (
	warmUpTime  = 10 * time.Second
	warmUpPause = 20 * time.Millisecond
)

func warmingUp(response *vaultplugin.Response, err error) bool {
	const text = "Upgrading from non-versioned to versioned"
	if remote, ok := errors.AsType[*vaultplugin.RemoteError](err); ok && strings.HasPrefix(remote.Message, text) {
		return true
	}
	message, ok := response.ErrorText()
	return ok && strings.HasPrefix(message, text)
}

// call calls the backend, and once more when it is gone after that.
func (m *Mount) call(ctx context.Context, do func(Backend) error) error {
	for attempt := 0; ; attempt++ {
		inst, err := m.acquire(ctx)
		if err != nil {
			return err
		}
		err = do(inst.backend)
		m.done(inst)
		switch {
		case gone(err):
			if errors.Is(err, vaultplugin.ErrExited) {
				m.died(inst)
			}
			if attempt == 0 {
				continue
			}
			return &DownError{Mount: m.Record().Full(), Cause: err, RetryAfter: time.Second}
		case errors.Is(err, vaultplugin.ErrTimeout):
			m.host.running.Go(func() { m.probe(inst) })
		}
		return err
	}
}

// probe ends a process that does not even answer a simple question.
func (m *Mount) probe(inst *instance) {
	ctx, cancel := context.WithTimeout(m.host.ctx, probeTimeout)
	defer cancel()
	if err := inst.backend.InvalidateKey(ctx, ""); err == nil || m.host.ctx.Err() != nil || gone(err) {
		return
	}
	m.host.log.Error("A plugin does not answer any more and is ended.", "mount", m.Record().Full(), "pid", inst.process.PID())
	inst.process.Kill()
	m.died(inst)
}

// Hash returns what stands for a token towards the plugin of the mount: always the same,
// other than for every other mount, and nothing by which tokens can be tried out.
func (m *Mount) Hash(token string) string {
	if token == "" {
		return ""
	}
	h := hmac.New(sha256.New, m.host.hashKey)
	h.Write([]byte(m.Record().UUID + "\x00" + token))
	return "hmac-sha256:" + hex.EncodeToString(h.Sum(nil))
}

// outcome is the label of a result.
func outcome(err error) string {
	remote, isRemote := errors.AsType[*vaultplugin.RemoteError](err)
	switch {
	case err == nil:
		return "ok"
	case isRemote && remote.HTTPStatus() < 500:
		return "refused"
	case errors.Is(err, vaultplugin.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, ErrDown), errors.Is(err, ErrClosed):
		return "down"
	}
	return "error"
}
