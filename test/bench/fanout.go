package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// fanOutWindow is how many messages may be in flight to a subscriber: two of
// the bare loop's writes of 64.
const fanOutWindow = 128

// liveHub is a journal with a hub that serves WebSocket subscribers on a
// loopback port, with the packages and in the way of the real program.
type liveHub struct {
	journal *journal.Journal
	address string
	close   func()
}

func startHub(ctx context.Context, dir string) (*liveHub, error) {
	j, closeJournal, err := openJournal(ctx, dir)
	if err != nil {
		return nil, err
	}
	h := hub.New(hub.Options{Journal: hub.FromJournal(j)})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		closeJournal()
		return nil, err
	}
	var serving sync.WaitGroup
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handshake, err := websocket.Check(r, websocket.Options{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s, err := h.Subscribe(hub.Request{Selection: hub.Selection{Type: "kv-v2/*", Namespaces: hub.Namespaces("", nil)},
			Format: hub.VaultJSON, After: h.End(), Allow: func(*event.Event) bool { return true }, AccessKey: true})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		conn, err := handshake.Accept(w)
		if err != nil {
			s.Cancel()
			return
		}
		serving.Go(func() { s.Serve(conn) })
	})}
	serving.Go(func() { server.Serve(ln) })
	return &liveHub{journal: j, address: ln.Addr().String(), close: func() {
		server.Close()
		h.Shutdown(context.WithoutCancel(ctx))
		serving.Wait()
		closeJournal()
	}}, nil
}

// notification returns an event whose JSON message has eventBytes bytes. The
// digits of the sending time are in its note.
func notification(now time.Time) *event.Event {
	e := &event.Event{ID: event.NewID(), Type: "kv-v2/data-write", Source: "vault://bench", Path: "secret/data/app/db", Time: now,
		Note: strconv.FormatInt(now.UnixNano(), 10), Plugin: &event.PluginInfo{MountClass: "secret", MountAccessor: "kv_5dc4d18e", MountPath: "secret/", Plugin: "kv", Version: "2"}}
	e.Metadata.Set(event.MetadataPath, e.Path)
	e.Metadata.Set("filler", "")
	e.Metadata.Set("filler", string(noise(max(0, eventBytes-len(event.AppendVaultJSON(nil, e, ""))))))
	return e
}

// subscribers connects n readers that count messages.
func (l *liveHub) subscribers(ctx context.Context, n, window int) (*fan, error) {
	f := newFan(n, window)
	for i := range n {
		conn, r, err := dialWebSocket(l.address, "/", nil)
		if err != nil {
			f.close()
			return nil, err
		}
		frames := frameReader{r}
		f.reader(i, conn, func(count func(int)) error {
			f.ready.Done()
			for {
				op, size, err := frames.header()
				if err != nil {
					return err
				}
				if _, err := frames.r.Discard(size); err != nil {
					return err
				}
				if op <= 2 {
					count(1)
				}
			}
		})
	}
	return f, f.awaitReady(ctx)
}

// fanOut publishes to n subscribers through the durable journal: deliveries per
// second.
func fanOut(ctx context.Context, s settings, n int) (float64, error) {
	l, err := startHub(ctx, s.dir)
	if err != nil {
		return 0, err
	}
	defer l.close()
	f, err := l.subscribers(ctx, n, fanOutWindow)
	if err != nil {
		return 0, err
	}
	defer f.close()
	events := make([]*event.Event, 512)
	for i := range events {
		events[i] = notification(time.Now())
	}
	next := 0
	return f.drive(ctx, s.window, func(k int) error {
		for range k {
			if _, err := l.journal.Submit(ctx, events[next%len(events)]); err != nil {
				return err
			}
			next++
		}
		return nil
	})
}

func fanOutBesideLoop(n int) func(context.Context, settings) (float64, float64, error) {
	return func(ctx context.Context, s settings) (ours, against float64, err error) {
		if ours, err = fanOut(ctx, s, n); err != nil {
			return 0, 0, err
		}
		against, err = bareFrames(n, s.window)
		return ours, against, err
	}
}

func fanOutBesideNATS(n int) func(context.Context, settings) (float64, float64, error) {
	return func(ctx context.Context, s settings) (ours, against float64, err error) {
		if ours, err = fanOut(ctx, s, n); err != nil {
			return 0, 0, err
		}
		against, err = natsWebSocket(ctx, n, fanOutWindow, s.window)
		return ours, against, err
	}
}

// latency appends 1,000 events per second one by one and measures the time from
// just before the append to the moment when a subscriber has the message, over
// all of 100 subscribers: the 99th percentile in milliseconds, beside the 10 ms
// that are allowed.
func latency(ctx context.Context, s settings) (ours, against float64, err error) {
	const subscribers, rate = 100, 1000
	l, err := startHub(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer l.close()
	f := newFan(subscribers, 1)
	defer f.close()
	took := make([][]time.Duration, subscribers)
	for i := range subscribers {
		conn, r, err := dialWebSocket(l.address, "/", nil)
		if err != nil {
			return 0, 0, err
		}
		frames := frameReader{r}
		f.reader(i, conn, func(count func(int)) error {
			f.ready.Done()
			for {
				b, err := frames.message()
				if err != nil {
					return err
				}
				at, err := sentAt(b)
				if err != nil {
					return err
				}
				took[i] = append(took[i], time.Since(at))
				count(1)
			}
		})
	}
	if err := f.awaitReady(ctx); err != nil {
		return 0, 0, err
	}
	published := int64(0)
	var unacknowledged atomic.Int64
	for start := time.Now(); time.Since(start) < s.window; time.Sleep(200 * time.Microsecond) {
		for due := int64(time.Since(start).Seconds() * rate); published < due; published++ {
			unacknowledged.Add(1)
			receipt, err := l.journal.Submit(ctx, notification(time.Now()))
			if err != nil {
				return 0, 0, err
			}
			go func() {
				if _, err := receipt.Wait(ctx); err == nil {
					unacknowledged.Add(-1)
				}
			}()
		}
	}
	for deadline := time.Now().Add(20 * time.Second); f.received() < published*subscribers; time.Sleep(time.Millisecond) {
		if err := f.failed.Load(); err != nil {
			return 0, 0, *err
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("%d of %d deliveries are missing", published*subscribers-f.received(), published*subscribers)
		}
	}
	f.close()
	if n := unacknowledged.Load(); n != 0 {
		return 0, 0, fmt.Errorf("%d events were delivered but not acknowledged", n)
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return float64(all[len(all)*99/100]) / float64(time.Millisecond), 10, nil
}

// sentAt finds the note of a notification.
func sentAt(message []byte) (time.Time, error) {
	const key = `"note":"`
	for i := 0; i+len(key)+19 <= len(message); i++ {
		if string(message[i:i+len(key)]) == key {
			n, err := strconv.ParseInt(string(message[i+len(key):i+len(key)+19]), 10, 64)
			return time.Unix(0, n), err
		}
	}
	return time.Time{}, errors.New("a message without its sending time")
}
