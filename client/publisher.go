package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/address"
	"github.com/tocsin-events/tocsin/internal/spool"
)

// Bounds of a publisher unless [PublisherOptions] say otherwise.
const (
	DefaultMaxQueueBytes  = 64 << 20
	DefaultMaxQueueEvents = 200_000
	DefaultMaxBatchBytes  = 512 << 10
	DefaultMaxBatchEvents = 5_000
	DefaultMaxSpoolBytes  = 1 << 30
)

// PublisherOptions say where a [Publisher] publishes and what it may take. Address is
// required.
type PublisherOptions struct {
	// Address is the URL of the hub, as in [Options].
	Address string
	// Token is sent in the header X-Vault-Token, never in the URL.
	Token string
	// TokenFunc is asked for the token of each request instead, so that it can be
	// renewed. It should answer from memory and fetch a new one when the old has
	// expired. Its error is treated like a hub that cannot be reached. It may be nil.
	TokenFunc func(context.Context) (string, error)
	// Namespace is that of the request; empty for root. It is the namespace of events
	// that have none of their own.
	Namespace string
	// Source is the CloudEvents source of events that have none: the URI-reference of
	// who tells. Empty means "tocsin-client://HOST/PROGRAM", with the name of the
	// machine and of the executable. The hub tells repeats by source and id together.
	Source string
	// MaxQueueBytes and MaxQueueEvents bound what waits in memory, counted as encoded.
	// 0 means DefaultMaxQueueBytes and DefaultMaxQueueEvents. One event, however large,
	// always fits into an empty queue.
	MaxQueueBytes  int
	MaxQueueEvents int
	// MaxBatchBytes and MaxBatchEvents bound one request. 0 means DefaultMaxBatchBytes
	// and DefaultMaxBatchEvents. A larger event makes a request of its own.
	MaxBatchBytes  int
	MaxBatchEvents int
	// Connections is how many requests may be under way at once; 0 means 1. With one,
	// the hub stores the events in the order in which they were sent. With more it need
	// not. While a request is under way the next fills, so one is enough for most: on
	// one connection a hub takes in more than 100,000 small events per second.
	Connections int
	// Spool keeps the events on disk until they are delivered; nil keeps them in memory
	// only.
	Spool *Spool
	// HTTPClient makes the requests, for example with a private CA or a client
	// certificate, as in [Options]. Nil means one with the defaults of net/http.
	HTTPClient *http.Client
	// Notify is called about refused events and about outages, by one goroutine at a
	// time. Nothing is sent on its connection while it runs, and it must not call Close. It
	// may be nil.
	Notify func(Notice)
}

// Spool says where a [Publisher] keeps events until the hub has them, so that they
// survive an outage of the hub that is longer than the memory lasts, and the end of this
// process. Dir is required.
type Spool struct {
	// Dir belongs to one publisher: another process, or another publisher of this one, is
	// refused. It is made if it does not exist, readable by this user only. What a former process
	// left in it is published first.
	Dir string
	// MaxBytes bounds what is kept on the disk; 0 means DefaultMaxSpoolBytes. Space is
	// freed in steps of at most 1/16 of it.
	MaxBytes int64
}

// Publisher publishes events to a hub. It takes them at once, sends them in the
// background, many in one request, and repeats what may have been lost on the way; the hub
// recognises repeats by their ids. A publisher gives an event up only when the hub
// says of this event that it does not want it, which [PublisherOptions.Notify], Stats
// and Publish tell.
//
// In all else it is patient. As long as there is no connection, the hub has
// no room, or the token is not valid, it keeps the events, up to the bounds of its queue,
// and tries again: after a random time that grows up to 15 seconds, and not before the
// Retry-After of the hub.
//
// Its methods are safe for concurrent use. It has goroutines, which Close ends.
type Publisher struct {
	options PublisherOptions
	target  string
	timing  publishTiming
	http    *http.Client
	spool   *spool.Spool // nil without

	// The events that a publisher takes are numbered from 0, with those that were in the
	// spool first.
	mu          sync.Mutex
	fill        batch      // where the next event goes
	ready       []batch    // full ones, oldest first
	free        [][]byte   // buffers to be used again
	busy        bool       // the last batch became full, so the next may as well
	memEvents   int        // that are only in memory
	memBytes    int        // theirs
	spoolBytes  int64      // on disk
	spooling    bool       // a batch is being written to the spool
	spoolFailed bool       // the last attempt to write to it failed
	accepted    uint64     // number of the next event
	taken       uint64     // number of the next event to be sent
	flights     []*flight  // what is being sent
	waiters     []*waiter  // of Publish, by the number of their first event
	barriers    []*barrier // of Flush and Sync
	work        sync.Cond  // there is something to send, or it is over
	spoolWork   sync.Cond  // there is something to spool, or it is over
	room        sync.Cond  // there may be room in the queue, or it is over
	closed      bool       // takes nothing more
	stopping    bool       // sends nothing more
	stats       Stats      // but for what follows from the fields above
	backlog     int        // events that were in the spool

	loading   sync.Mutex // held by the connection whose turn it is to take events; before mu
	notifying sync.Mutex // never taken while mu is held
	failing   bool       // the last attempt failed; under notifying

	running context.Context // ends with the publisher
	stop    context.CancelFunc
	group   sync.WaitGroup
	closing sync.Once
	ended   chan struct{} // closed when Close has done its work
	endErr  error         // what Close returned
}

// publishTiming is how patient a publisher is.
type publishTiming struct {
	minBackoff, maxBackoff time.Duration // as those of timing
	attempt                time.Duration // bounds one request
	spoolRetry             time.Duration // between attempts to write to a disk that failed
}

var defaultPublishTiming = publishTiming{
	minBackoff: 250 * time.Millisecond,
	maxBackoff: 15 * time.Second,
	attempt:    time.Minute,
	spoolRetry: time.Second,
}

// publishLimits refuse what no hub can be configured to take. What is below, the hub
// decides.
var publishLimits = event.Limits{
	MaxTypeBytes:     64 << 10,
	MaxMetadataKeys:  64 << 10,
	MaxMetadataBytes: 8 << 20,
	MaxEventBytes:    8 << 20,
}

// NewPublisher returns a publisher. It does not connect before there is something to
// send. Errors are those of the options and of the spool.
func NewPublisher(o PublisherOptions) (*Publisher, error) {
	return newPublisher(o, defaultPublishTiming)
}

func newPublisher(o PublisherOptions, t publishTiming) (*Publisher, error) {
	u, err := address.Parse(o.Address)
	if err != nil {
		return nil, err
	}
	if min(o.MaxQueueBytes, o.MaxQueueEvents, o.MaxBatchBytes, o.MaxBatchEvents, o.Connections) < 0 {
		return nil, errors.New("the bounds of a publisher cannot be negative")
	}
	o.MaxQueueBytes = cmp.Or(o.MaxQueueBytes, DefaultMaxQueueBytes)
	o.MaxQueueEvents = cmp.Or(o.MaxQueueEvents, DefaultMaxQueueEvents)
	o.MaxBatchBytes = cmp.Or(o.MaxBatchBytes, DefaultMaxBatchBytes)
	o.MaxBatchEvents = cmp.Or(o.MaxBatchEvents, DefaultMaxBatchEvents)
	o.Connections = cmp.Or(o.Connections, 1)
	o.Source = cmp.Or(o.Source, defaultSource())
	if err := publishLimits.Check(&event.Event{ID: "x", Type: "x", Source: o.Source, Time: time.Now()}); err != nil {
		return nil, fmt.Errorf("the source of a publisher: %w", err)
	}
	u.Path += "/api/v1/events"
	u.RawQuery = "partial=true"
	p := &Publisher{options: o, target: u.String(), timing: t, http: publishClient(&o), ended: make(chan struct{})}
	p.work.L, p.spoolWork.L, p.room.L = &p.mu, &p.mu, &p.mu
	p.running, p.stop = context.WithCancel(context.Background())
	if o.Spool != nil {
		if err := p.openSpool(); err != nil {
			p.stop()
			return nil, err
		}
	}
	for range o.Connections {
		p.group.Go(p.send)
	}
	return p, nil
}

// defaultSource names this program.
func defaultSource() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	return (&url.URL{Scheme: "tocsin-client", Host: host, Path: "/" + filepath.Base(program)}).String()
}

// publishClient is the client of the options, which follows redirects with care, or one
// that keeps a connection for each request that may be under way.
func publishClient(o *PublisherOptions) *http.Client {
	var c http.Client
	if o.HTTPClient != nil {
		c = *o.HTTPClient
	} else if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t = t.Clone()
		t.MaxIdleConnsPerHost = o.Connections
		t.DisableCompression = true // answers are short
		c.Transport = t
	}
	if c.CheckRedirect == nil {
		c.CheckRedirect = checkRedirect
	}
	return &c
}

// SendEvent sends a notification that metadata tells completely: pairs of key and
// value, as [event.NewNotification] takes them. It returns at once; see
// [Publisher.SendEvent] for its errors. A nil publisher returns [event.ErrNoEvents], so
// that a program can go on without events. It does not matter whether the context has ended.
func SendEvent(_ context.Context, p *Publisher, eventType string, metadata ...string) error {
	if p == nil {
		return event.ErrNoEvents
	}
	e := notifications.Get().(*event.Event)
	defer notifications.Put(e)
	e.SetNotification(eventType, metadata...)
	e.Source = p.options.Source
	if err := publishLimits.Check(e); err != nil {
		return err
	}
	return p.add(e)
}

// notifications are events that SendEvent uses again, as nobody keeps them.
var notifications = sync.Pool{New: func() any { return new(event.Event) }}

// SendEvent takes an event over and returns at once, without waiting for the hub or a
// disk. It keeps nothing of e, which may lack ID, Source and Time. It does not matter
// whether the context has ended: what happened has happened.
//
// The error is an *[event.InvalidError] or *[event.LimitError] for an event that no hub
// takes, a [*QueueFullError], ErrPublisherClosed, or [event.ErrNoEvents] of a nil Publisher; then the
// event is not sent. What becomes of it later is told to [PublisherOptions.Notify].
func (p *Publisher) SendEvent(_ context.Context, e *event.Event) error {
	if p == nil {
		return event.ErrNoEvents
	}
	complete, err := p.complete(e)
	if err != nil {
		return err
	}
	return p.add(&complete)
}

// complete returns a copy of e with everything that it needs.
func (p *Publisher) complete(e *event.Event) (c event.Event, err error) {
	if e == nil {
		return c, errors.New("the event is nil")
	}
	c = *e
	if c.Source == "" {
		c.Source = p.options.Source
	}
	c.Complete(time.Now())
	return c, publishLimits.Check(&c)
}

// Queue is SendEvent for those who rather wait than lose: while the queue is full it
// waits until ctx ends. It returns before the events are sent. An event that no hub takes
// is refused with an error that begins with its index, before any is queued. Of an error of ctx, the number of those that were queued
// is told by the [*QueueFullError] that it comes with.
func (p *Publisher) Queue(ctx context.Context, events ...*event.Event) error {
	return p.queue(ctx, nil, events)
}

// queue adds events for a waiter, which may be nil.
func (p *Publisher) queue(ctx context.Context, w *waiter, events []*event.Event) error {
	if p == nil {
		return event.ErrNoEvents
	}
	complete := make([]event.Event, len(events))
	for i, e := range events {
		var err error
		if complete[i], err = p.complete(e); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
	}
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.room.Broadcast()
	})()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range complete {
		err := p.addLocked(&complete[i])
		for ; errors.Is(err, ErrQueueFull); err = p.addLocked(&complete[i]) {
			if ctx.Err() != nil {
				full, _ := errors.AsType[*QueueFullError](err)
				full.Cause, full.Queued = context.Cause(ctx), i
				return full
			}
			p.room.Wait()
		}
		if err != nil {
			return err
		}
		if w != nil {
			p.await(w, i)
		}
	}
	return nil
}

// Publish publishes events and returns when all are durable in the hub, or why they
// are not:
//
//   - an error for an event that no hub takes, which begins with its index; then none
//     was sent;
//   - a [*RefusedError] when the hub does not take some of them; the others are
//     durable;
//   - an error of ctx. The events that wait are still sent later, unless the publisher
//     is closed; publishing the same events again is safe if they have IDs, because the hub
//     recognises them.
//
// It waits while the queue is full. A large number of events takes several requests, and events that
// other goroutines publish at the same time share them.
func (p *Publisher) Publish(ctx context.Context, events ...*event.Event) error {
	if len(events) == 0 {
		return nil
	}
	w := &waiter{events: len(events), done: make(chan struct{})}
	err := p.queue(ctx, w, events)
	if err == nil {
		select {
		case <-w.done:
		case <-ctx.Done():
			err = p.gaveUp(context.Cause(ctx))
		case <-p.ended:
			err = ErrPublisherClosed
		}
	}
	if p == nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(w)
	switch {
	case err != nil && w.settled < len(events):
		return err
	case len(w.refused) > 0:
		return &RefusedError{Refused: w.refused}
	}
	return nil
}

// gaveUp adds to the error of a context why the hub did not answer.
func (p *Publisher) gaveUp(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stats.LastError != nil {
		return fmt.Errorf("%w while events wait (%w)", err, p.stats.LastError)
	}
	return fmt.Errorf("%w while events wait", err)
}

// Flush waits until the hub has answered for all events that were sent before the call,
// or ctx ends; the error is then that of ctx, with the reason. Some of them may have been refused.
func (p *Publisher) Flush(ctx context.Context) error {
	return p.wait(ctx, p.settledBefore)
}

// Sync waits until all events that were sent before the call survive the end of this
// process and of the machine, or ctx ends: they are in the spool or the hub has answered. Without a spool it
// is Flush.
func (p *Publisher) Sync(ctx context.Context) error {
	return p.wait(ctx, p.safeBefore)
}

// wait waits until reached, called under mu, is the number of the next event of now.
func (p *Publisher) wait(ctx context.Context, reached func() uint64) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	b := &barrier{number: p.accepted, reached: reached, done: make(chan struct{})}
	p.barriers = append(p.barriers, b)
	p.passBarriers()
	p.mu.Unlock()
	var err error
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		err = p.gaveUp(context.Cause(ctx))
	case <-p.ended:
		err = ErrPublisherClosed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.passed {
		return nil
	}
	p.dropBarrier(b)
	return err
}

// Close takes no more events, delivers what is queued until ctx ends, and frees
// everything. It returns an [*UndeliveredError] when events were not delivered: those
// in the spool are published by the next process, others are lost. A request that ctx
// interrupts may have arrived. A second Close waits for the first and returns the same.
func (p *Publisher) Close(ctx context.Context) error {
	if p == nil {
		return nil
	}
	p.closing.Do(func() { p.endErr = p.close(ctx); close(p.ended) })
	<-p.ended
	return p.endErr
}

func (p *Publisher) close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.room.Broadcast()
	p.mu.Unlock()
	err := p.Flush(ctx)
	p.mu.Lock()
	p.stopping = true
	p.work.Broadcast()
	p.spoolWork.Broadcast()
	p.mu.Unlock()
	p.stop()
	p.group.Wait() // the spooler writes what is left
	if p.options.HTTPClient == nil {
		p.http.CloseIdleConnections()
	}
	if p.spool != nil {
		p.spool.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.unsettled()
	if left == 0 {
		return nil
	}
	if err == nil {
		err = p.stats.LastError
	}
	return &UndeliveredError{Lost: p.memEvents, Spooled: left - p.memEvents, Cause: err}
}
