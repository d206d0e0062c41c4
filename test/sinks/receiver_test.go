package sinks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// receiver is an endpoint of webhooks, whose requests have one CloudEvent, or an array of
// them.
type receiver struct {
	*testing.T
	hub     *hub
	address string
	server  *http.Server

	mu       sync.Mutex
	refuses  func(id string) bool // answered with 400
	moods    int                  // of 1000 requests so many are dealt with badly, in each way
	status   int                  // of every answer, 0: as it should be
	requests int
	arrived  []arrival
	has      map[string]bool
}

func newReceiver(t *testing.T, refuses func(id string) bool) *receiver {
	t.Helper()
	r := &receiver{T: t, address: "127.0.0.1:0", refuses: refuses, has: make(map[string]bool)}
	r.listen()
	t.Cleanup(r.close)
	return r
}

// listen begins to take requests, at the same address as before.
func (r *receiver) listen() {
	r.Helper()
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		r.Fatal(err)
	}
	r.address = l.Addr().String()
	r.server = &http.Server{Handler: r}
	go r.server.Serve(l)
}

// close ends that, and all connections.
func (r *receiver) close() { _ = r.server.Close() }

func (r *receiver) url() string { return "http://" + r.address + "/hook" }

// set changes how it answers.
func (r *receiver) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// arrivals returns what was stored so far.
func (r *receiver) arrivals() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.arrived)
}

// hasAll says whether these have all arrived.
func (r *receiver) hasAll(ids []string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(ids, func(id string) bool { return !r.has[id] })
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return // the hub was killed, or has given up
	}
	var events []arrival
	if len(body) > 0 && body[0] == '[' {
		err = json.Unmarshal(body, &events)
	} else {
		events = make([]arrival, 1)
		err = json.Unmarshal(body, &events[0])
	}
	if err != nil {
		r.Errorf("a body that is no event: %v: %.200q", err, body)
		return
	}
	r.mu.Lock()
	mood, status := rand.IntN(1000), r.status
	if r.moods > 0 {
		mood /= r.moods
	} else {
		mood = 1000
	}
	r.requests++
	r.mu.Unlock()
	hangUp := func() {
		if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
			c.Close()
		}
	}
	switch {
	case status != 0:
	case mood == 0:
		status = http.StatusInternalServerError
	case mood == 1:
		w.Header().Set("Retry-After", "0")
		status = http.StatusTooManyRequests
	case mood == 2:
		status = http.StatusServiceUnavailable
	case mood == 3: // nothing comes, until the sink has enough of it
		select {
		case <-q.Context().Done():
		case <-time.After(patience):
		}
		return
	case mood == 4:
		hangUp()
		return
	}
	if status != 0 {
		http.Error(w, "not now", status)
		return
	}
	if !r.store(events, q.Header.Get("Tocsin-Redriven") == "true") {
		http.Error(w, "not this one", http.StatusBadRequest)
		return
	}
	if mood == 5 { // the answer is lost
		hangUp()
	}
}

// store stores events, or says that it refuses one.
func (r *receiver) store(events []arrival, redriven bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(events, func(e arrival) bool { return r.refuses(e.ID) }) {
		return false
	}
	for _, e := range events {
		e.at, e.redriven = time.Now(), redriven
		if r.hub != nil {
			e.start = int(r.hub.running.Load())
		}
		r.arrived = append(r.arrived, e)
		r.has[e.ID] = true
	}
	return true
}

// broker is a NATS server with a stream of all that is sold.
type broker struct {
	*testing.T
	options natsserver.Options
	server  *natsserver.Server
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{T: t, options: natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(), AuthTimeout: 60,
	}}
	b.start()
	t.Cleanup(b.stop)
	b.use(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "SHOP", Subjects: []string{"tocsin.shop.>"}, Duplicates: time.Hour, MaxAge: 2 * time.Hour})
		return err
	})
	return b
}

// start starts the server, on the port that it had.
func (b *broker) start() {
	b.Helper()
	options := b.options
	s, err := natsserver.NewServer(&options)
	if err != nil {
		b.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(patience) {
		b.Fatal("the NATS server does not start")
	}
	b.server, b.options.Port = s, s.Addr().(*net.TCPAddr).Port
}

func (b *broker) stop() {
	b.server.Shutdown()
	b.server.WaitForShutdown()
}

func (b *broker) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", b.options.Port) }

func (b *broker) use(do func(context.Context, jetstream.JetStream) error) {
	b.Helper()
	c, err := nats.Connect("", nats.InProcessServer(b.server), nats.NoReconnect())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	js, err := jetstream.New(c)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := do(ctx, js); err != nil {
		b.Fatal(err)
	}
}

// messages is how many there are in the stream.
func (b *broker) messages() (n uint64) {
	b.Helper()
	b.use(func(ctx context.Context, js jetstream.JetStream) error {
		s, err := js.Stream(ctx, "SHOP")
		if err == nil {
			n = s.CachedInfo().State.Msgs
		}
		return err
	})
	return n
}

// arrivals returns the messages of the stream.
func (b *broker) arrivals() (all []arrival) {
	b.Helper()
	n := b.messages()
	b.use(func(ctx context.Context, js jetstream.JetStream) error {
		c, err := js.OrderedConsumer(ctx, "SHOP", jetstream.OrderedConsumerConfig{})
		if err != nil || n == 0 {
			return err
		}
		messages, err := c.Messages()
		if err != nil {
			return err
		}
		defer messages.Stop()
		for uint64(len(all)) < n {
			m, err := messages.Next(jetstream.NextContext(ctx))
			if err != nil {
				return err
			}
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			a := arrival{at: meta.Timestamp}
			if err := json.Unmarshal(m.Data(), &a); err != nil {
				return err
			}
			all = append(all, a)
		}
		return nil
	})
	return all
}

// readFiles returns the lines of a file and of those that were moved away, compressed or
// not, the oldest first.
func readFiles(t *testing.T, path string) (all []arrival, compressed int) {
	t.Helper()
	names, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names) // by their times
	for i, name := range append(names, path) {
		if strings.HasSuffix(name, ".part") || i > 0 && name == names[i-1]+".gz" {
			t.Errorf("%s was left behind", name)
			continue
		}
		f, err := os.Open(name)
		if name == path && errors.Is(err, fs.ErrNotExist) {
			continue // it was just moved away
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var text []byte
		if strings.HasSuffix(name, ".gz") {
			z, err := gzip.NewReader(f)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			text, err = io.ReadAll(z)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			compressed++
		} else if text, err = io.ReadAll(f); err != nil {
			t.Fatal(err)
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			t.Errorf("%s does not end with a newline: %.200q", name, text[max(0, len(text)-200):])
		}
		for line := range strings.Lines(string(text)) {
			var a arrival
			if err := json.Unmarshal([]byte(line), &a); err != nil || a.ID == "" || a.Sequence == "" {
				t.Errorf("%s has a line that is no event: %v: %.200q", name, err, line)
				continue
			}
			all = append(all, a)
		}
	}
	return all, compressed
}

// wholeLines returns the ids of events in files and those that were moved away from them,
// while they are written to.
func wholeLines(paths ...string) (ids []string) {
	for _, path := range paths {
		names, _ := filepath.Glob(path + "*")
		for _, name := range names {
			text, _ := os.ReadFile(name)
			for line := range strings.Lines(string(text)) {
				var a arrival
				if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &a) == nil {
					ids = append(ids, a.ID)
				}
			}
		}
	}
	return ids
}
