package access

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// elsewhere is a provider.
type elsewhere struct {
	recheck, patience time.Duration

	mu       sync.Mutex
	delay    time.Duration // of each answer
	known    map[string]External
	err      error // instead of an answer
	asked    int
	now, max int // being asked
}

func (p *elsewhere) Recognises(value, _ string) bool { return strings.HasPrefix(value, "ext.") }
func (p *elsewhere) Recheck() time.Duration          { return p.recheck }
func (p *elsewhere) Patience() time.Duration         { return p.patience }

func (p *elsewhere) Authenticate(ctx context.Context, value, namespace string) (*External, error) {
	p.mu.Lock()
	p.asked++
	p.now++
	p.max = max(p.max, p.now)
	delay := p.delay
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.now--
		p.mu.Unlock()
	}()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	x, ok := p.known[namespace+value]
	if !ok {
		return nil, fmt.Errorf("elsewhere: %w", ErrDenied)
	}
	x.Provider = "elsewhere"
	return &x, nil
}

func (p *elsewhere) set(key string, x External) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = make(map[string]External)
	}
	p.known[key] = x
}

func (p *elsewhere) forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, key)
}

func (p *elsewhere) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *elsewhere) slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

// questions returns how often it was asked since the last call.
func (p *elsewhere) questions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.asked
	p.asked = 0
	return n
}
