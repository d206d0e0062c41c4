package sinks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// publisher publishes events over HTTP, batch by batch, and sends one again until it is
// acknowledged.
type publisher struct {
	hub   *hub
	name  int
	batch int           // events in a request
	pause time.Duration // between requests
	paths int           // on so many paths

	mu           sync.Mutex
	next         int
	acknowledged []string
	published    map[string]time.Time // when it was first sent

	ending, ended chan struct{}
	end           sync.Once
}

// publish starts a publisher, which ends with the test.
func publish(h *hub, name, batch, paths int, pause time.Duration) *publisher {
	p := &publisher{hub: h, name: name, batch: batch, paths: paths, pause: pause, published: make(map[string]time.Time), ending: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	h.Cleanup(p.abort)
	return p
}

// abort ends without waiting for what is not acknowledged.
func (p *publisher) abort() {
	p.end.Do(func() { close(p.ending) })
	<-p.ended
}

// stop ends when everything is acknowledged. The hub must run.
func (p *publisher) stop() []string {
	p.hub.Helper()
	p.abort()
	await(p.hub.T, "the last batch is acknowledged", func() bool { return len(p.acks()) == p.next || p.sendAgain() }, func() string { return "it is not" })
	return p.acks()
}

func (p *publisher) acks() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acknowledged[:len(p.acknowledged):len(p.acknowledged)]
}

// padding makes lines long, so that files are rotated, and writes are in the middle of one
// when the hub is killed.
var padding = strings.Repeat("0123456789abcdef", 128)

func (p *publisher) run() {
	defer close(p.ended)
	for {
		first := p.next
		p.next += p.batch
		for !p.send(first) {
			select {
			case <-p.ending:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
		select {
		case <-p.ending:
			return
		case <-time.After(p.pause):
		}
	}
}

func (p *publisher) sendAgain() bool { return p.send(p.next - p.batch) }

// send publishes a batch and says whether it was acknowledged.
func (p *publisher) send(first int) bool {
	var events []map[string]any
	for n := first; n < first+p.batch; n++ {
		id := fmt.Sprintf("%d-%d", p.name, n)
		events = append(events, map[string]any{
			"specversion": "1.0", "id": id, "source": "/shop", "type": "shop/sold",
			"subject": fmt.Sprintf("shop/%d/%d", p.name, n%p.paths), "data": padding[:rand.IntN(len(padding))],
		})
		p.mu.Lock()
		if _, again := p.published[id]; !again {
			p.published[id] = time.Now()
		}
		p.mu.Unlock()
	}
	text, err := json.Marshal(events)
	if err != nil {
		panic(err)
	}
	if err := p.post(text); err != nil {
		if refused := (*refusal)(nil); errors.As(err, &refused) {
			p.hub.Error(err)
		}
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		p.acknowledged = append(p.acknowledged, e["id"].(string))
	}
	return true
}

// refusal is an answer that no event should get.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

func (p *publisher) post(events []byte) error {
	where := p.hub.address()
	if where == "" {
		return errors.New("the hub does not run")
	}
	r, err := http.NewRequest("POST", where+"/api/v1/events", bytes.NewReader(events))
	if err != nil {
		return err
	}
	r.Header.Set("X-Vault-Token", root)
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	response, err := p.hub.client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusServiceUnavailable:
		return fmt.Errorf("%d %s", response.StatusCode, answer)
	case response.StatusCode != http.StatusOK:
		return &refusal{fmt.Sprintf("publish: %d %s", response.StatusCode, answer)}
	}
	return nil
}
