package hubplugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/plugin"
)

const (
	// firstTime is how long opening a stream waits for the hub. It goes on without it then.
	firstTime = 3 * time.Second
	// A subscription that was refused is tried again, less and less often.
	minRefused, maxRefused = time.Second, time.Minute
	// chunkBytes is about how much is handed over at once, and chunks how many are under way: the
	// hub waits when all are full.
	chunkBytes = 128 << 10
	chunks     = 3
)

// chunk is events in a row.
type chunk struct {
	bytes     []byte // payloads
	positions []byte
	marks     []mark
	next      int // the first of marks that was not handed over
}

// keepBytes is what a chunk may have to be kept for others.
const keepBytes = 16 * chunkBytes

// mark is one of them.
type mark struct {
	payload, position int // where they end
	at                time.Time
}

func (c *chunk) reset() {
	if cap(c.bytes) > keepBytes {
		c.bytes = nil
	}
	c.bytes, c.positions, c.marks, c.next = c.bytes[:0], c.positions[:0], c.marks[:0], 0
}

func (c *chunk) add(payload, position []byte, at time.Time) {
	c.bytes, c.positions = append(c.bytes, payload...), append(c.positions, position...)
	c.marks = append(c.marks, mark{len(c.bytes), len(c.positions), at})
}

// stream is a stream of events of a hub. A goroutine of its own reads the subscription, since a
// read that is interrupted is the end of a connection.
type stream struct {
	plugin    *hubPlugin
	config    Config
	follow    bool
	transport *http.Transport
	saved     *positionFile // nil: there is none
	log       *slog.Logger

	life   context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
	full   chan *chunk
	free   chan *chunk
	err    error // of the goroutine; read after done

	// Of NextBatch.
	current *chunk
	given   []byte // position of what was handed over

	// Of the goroutine.
	filling   *chunk
	began     time.Time
	tried     bool // there was an attempt to connect
	since     string
	position  []byte // of what was read
	connected bool
	noted     time.Time // when trouble was logged last
	trouble   string    // and which; "" when all is well
	refused   bool      // since it was connected
	gapped    time.Time // when a gap was told
}

// Open implements [plugin.Opener].
func (p *hubPlugin) Open(ctx context.Context, text string, resume []byte) (plugin.Stream, error) {
	c, follow, err := parseParams(text, p.config)
	if err != nil {
		return nil, err
	}
	s := &stream{
		plugin: p, config: c, follow: follow, log: slog.With("hub", c.Address), began: time.Now(), since: c.Since,
		done: make(chan struct{}), full: make(chan *chunk, chunks), free: make(chan *chunk, chunks),
	}
	for range chunks {
		s.free <- new(chunk)
	}
	if s.transport, err = c.transport(); err != nil {
		return nil, err
	}
	if c.PositionFile != "" {
		s.saved = &positionFile{path: c.PositionFile}
		position, err := s.saved.read()
		if err != nil {
			return nil, err
		}
		s.position = []byte(position)
	}
	if resume != nil {
		s.position = bytes.Clone(resume)
	}
	s.life, s.cancel = context.WithCancel(context.Background())
	first, stop := context.WithTimeoutCause(ctx, firstTime, fmt.Errorf("no answer within %v", firstTime))
	defer stop()
	subscription, err := s.subscribe(first)
	if err != nil && (final(err) || ctx.Err() != nil) {
		s.cancel()
		s.transport.CloseIdleConnections()
		return nil, fmt.Errorf("subscribe to the hub at %s: %w", c.Address, err)
	}
	if err != nil {
		s.warn("The hub cannot be reached. It is tried again until it can.", err)
	}
	go s.read(subscription)
	return s, nil
}

// final says whether an error is one that trying again soon does not help against.
func final(err error) bool {
	return errors.Is(err, client.ErrPermission) || errors.Is(err, client.ErrBadRequest) || errors.Is(err, client.ErrNotFound) || errors.Is(err, errSetting)
}

// errSetting is wrapped by errors about the config.
var errSetting = errors.New("the config cannot be used")

// subscribe makes a subscription behind what was read. What a position that the hub does not know
// any more stood for is a gap.
func (s *stream) subscribe(ctx context.Context) (*client.Subscription, error) {
	want, err := s.config.subscription()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSetting, err)
	}
	o := &want.options
	o.NoFollow, o.Notify = !s.follow, s.notice
	o.HTTPClient = &http.Client{Transport: s.transport}
	o.Since = s.from()
	subscription, err := client.Subscribe(ctx, want.eventType, *o)
	if err != nil && len(s.position) > 0 && (errors.Is(err, client.ErrBadRequest) || errors.Is(err, client.ErrNotFound)) {
		unknown := err
		o.Since = "oldest"
		if subscription, err = client.Subscribe(ctx, want.eventType, *o); err == nil {
			s.position = nil
			s.gap("The hub does not know the position up to which events were read; it goes on with the oldest.", unknown)
		}
	}
	if err != nil {
		return nil, err
	}
	s.plugin.counts.connects.Add(1)
	s.connect(true)
	s.refused = false
	return subscription, nil
}

// startSlack is how much earlier a later attempt begins, so that the time that it takes loses
// nothing.
const startSlack = time.Second

// from is where the next subscription begins. What is relative to now moves into the past.
func (s *stream) from() string {
	tried := s.tried
	s.tried = true
	if len(s.position) > 0 {
		return string(s.position)
	}
	back := time.Duration(0)
	if s.since != "" {
		d, err := time.ParseDuration(s.since)
		if err != nil {
			return s.since
		}
		back = d
	}
	if !tried {
		return s.since
	}
	return (back + time.Since(s.began) + startSlack).Round(time.Millisecond).String()
}

func (s *stream) connect(is bool) {
	if is != s.connected {
		s.connected = is
		if is {
			s.plugin.counts.connected.Add(1)
		} else {
			s.plugin.counts.connected.Add(-1)
		}
	}
}

// warn logs what happens again and again: at once, and then each minute.
func (s *stream) warn(message string, err error) {
	if now := time.Now(); s.trouble != message || now.Sub(s.noted) >= time.Minute {
		s.noted, s.trouble = now, message
		s.log.Warn(message, "reason", err)
	}
}

// notice is told by the subscription, in the goroutine.
func (s *stream) notice(n client.Notice) {
	switch n.Kind {
	case client.Disconnected:
		s.connect(false)
		s.warn("The connection to the hub has ended. It is tried again until it is there.", n.Err)
	case client.Reconnected:
		s.plugin.counts.connects.Add(1)
		s.connect(true)
		s.trouble = ""
		s.log.Info("The hub is connected again; its events go on behind the last one.")
	case client.Gap:
		s.gap("Events are missing: the hub does not have them any more.", n.Err)
		// The next attempt follows at once, which must not be for ever.
		if now := time.Now(); now.Sub(s.gapped) > minGap {
			s.gapped = now
		} else {
			s.sleep(minGap)
		}
	}
}

// Types of the events that the plugin itself adds to a stream.
const (
	TypeGap     = "tocsin/subscription-gap"
	TypeRefused = "tocsin/subscription-refused"
)

func (s *stream) gap(message string, err error) {
	s.plugin.counts.gaps.Add(1)
	s.log.Error(message, "reason", err)
	s.own(TypeGap, message, err)
	s.flush() // on a quiet hub nothing may follow for long
}

// minGap is how far gaps are apart, at least, but for the first two.
const minGap = time.Second

// own adds an event of the plugin itself.
func (s *stream) own(eventType, message string, err error) {
	now := time.Now()
	e := &event.Event{ID: event.NewID(), Type: eventType, Source: "plugin://" + Name, Path: "subscription", Time: now}
	e.Metadata.Set("message", message)
	e.Metadata.Set("reason", err.Error())
	if s.begin() {
		s.filling.add(event.AppendCloudEvent(nil, e, ""), nil, now)
	}
}

// begin makes sure that there is a chunk to fill. It returns false when the stream is closed.
func (s *stream) begin() bool {
	if s.filling != nil {
		return true
	}
	select {
	case s.filling = <-s.free:
		s.filling.reset()
		return true
	case <-s.life.Done():
		return false
	}
}

// read reads subscriptions until the stream is closed, or has ended.
func (s *stream) read(subscription *client.Subscription) {
	defer close(s.done)
	defer s.transport.CloseIdleConnections()
	defer s.connect(false)
	defer func() {
		if subscription != nil {
			subscription.Close()
		}
	}()
	failures := 0
	for s.flush() {
		var err error
		if subscription == nil {
			if subscription, err = s.subscribe(s.life); err == nil && s.trouble != "" {
				s.trouble = ""
				s.log.Info("The hub is connected.")
			}
		} else if err = subscription.NextRaw(s.life, s.take); err != nil {
			subscription.Close()
			subscription = nil
			s.connect(false)
		} else {
			failures = 0
		}
		switch {
		case s.life.Err() != nil:
			return
		case err == nil:
			continue
		case err == io.EOF:
			s.flush()
			s.err = io.EOF
			return
		case errors.Is(err, client.ErrTooLarge):
			s.position, s.since, s.tried = nil, "", false
			s.gap("Events are missing: one is larger than max_event_bytes, and it goes on with those that come now.", err)
		case final(err):
			s.plugin.counts.refused.Add(1)
			s.warn("The hub refuses the subscription. It is tried again, with the token that the token_file has then.", err)
			if !s.refused {
				s.refused = true
				s.own(TypeRefused, "The hub refuses the subscription.", err)
			}
		default:
			s.warn("The hub cannot be reached. It is tried again until it can.", err)
		}
		if !s.flush() || !s.pause(failures, err) {
			return
		}
		failures++
	}
}

// pause waits before the next attempt. It returns false when the stream is closed.
func (s *stream) pause(failures int, err error) bool {
	d := min(maxRefused/4, minRefused/4<<min(failures, 10))
	if final(err) {
		d = min(maxRefused, minRefused<<min(failures, 10))
	}
	return s.sleep(d/2 + rand.N(d/2+1))
}

// sleep returns false when the stream is closed meanwhile.
func (s *stream) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.life.Done():
		return false
	}
}

// take takes one event of the hub, until there are enough to hand over.
func (s *stream) take(r client.Raw) bool {
	payload := bytes.TrimSpace(r.Message)
	if len(payload) < 2 || payload[0] != '{' || payload[len(payload)-1] != '}' {
		s.warn("The hub has sent what is no event, which is left out.", errors.New("it is no JSON object"))
		return true
	}
	if !s.begin() {
		return false
	}
	var at time.Time
	if at.UnmarshalText(r.Time) != nil {
		at = time.Now()
	}
	s.filling.add(payload, r.Position, at)
	s.position = append(s.position[:0], r.Position...)
	return len(s.filling.bytes) < chunkBytes
}

// flush hands over what was taken. It returns false when the stream is closed.
func (s *stream) flush() bool {
	if c := s.filling; c != nil {
		s.filling = nil
		s.plugin.counts.events.Add(uint64(len(c.marks)))
		s.plugin.counts.bytes.Add(uint64(len(c.bytes)))
		s.full <- c // there is room for all
	}
	return s.life.Err() == nil
}

// NextBatch implements [plugin.Stream].
func (s *stream) NextBatch(ctx context.Context, b *plugin.Batch) error {
	// Who asks for more has taken what was handed over.
	if s.saved != nil && len(s.given) > 0 {
		s.saved.note(string(s.given), s.log)
	}
	for !b.Full() {
		if s.current == nil {
			if err := s.wait(ctx, b.Len() == 0); err != nil || s.current == nil {
				return err
			}
		}
		s.handOver(b)
	}
	return nil
}

// wait waits for a chunk, or only looks whether there is one.
func (s *stream) wait(ctx context.Context, wait bool) error {
	select {
	case s.current = <-s.full:
		return nil
	default:
	}
	if !wait {
		return nil
	}
	select {
	case s.current = <-s.full:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
	}
	select {
	case s.current = <-s.full:
		return nil
	default:
		return s.err
	}
}

// handOver adds events of the chunk until the batch is full.
func (s *stream) handOver(b *plugin.Batch) {
	c := s.current
	payload, position := 0, 0
	if c.next > 0 {
		payload, position = c.marks[c.next-1].payload, c.marks[c.next-1].position
	}
	given := 0
	for ; c.next < len(c.marks) && !b.Full(); c.next++ {
		m := &c.marks[c.next]
		b.Add(plugin.Event{Time: m.at, Data: c.bytes[payload:m.payload]})
		if m.position > position {
			s.given = append(s.given[:0], c.positions[position:m.position]...)
			given++
		}
		payload, position = m.payload, m.position
	}
	if given > 0 {
		b.SetPosition(s.given)
	}
	if c.next == len(c.marks) {
		s.current = nil
		s.free <- c
	}
}

// Close implements [plugin.Stream].
func (s *stream) Close() error {
	s.cancel()
	<-s.done
	if s.saved != nil {
		return s.saved.close()
	}
	return nil
}
