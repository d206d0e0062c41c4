package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// What the rows about publishing over HTTP send.
const (
	publishConnections = 8
	publishBatch       = 100 // events of eventBytes per request
)

// publishBesideServer publishes batches to the real program, which answers when they are durable,
// and compares with a bare HTTP server that gets the same requests, decodes them with
// encoding/json into maps, and stores nothing: events per second.
func publishBesideServer(ctx context.Context, s settings) (ours, against float64, err error) {
	p, token, err := startPublishing(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	hub, err := newPublishers(p.address, token, fmt.Sprintf(`{"accepted":%d,"duplicates":0}`+"\n", publishBatch))
	if err != nil {
		return 0, 0, err
	}
	defer hub.close()
	address, done, err := bareServer()
	if err != nil {
		return 0, 0, err
	}
	defer done()
	bare, err := newPublishers(address, token, "")
	if err != nil {
		return 0, 0, err
	}
	defer bare.close()
	return alternate(s.window, hub.publish, bare.publish)
}

// publishBesideWanted compares with the events per second that are wanted.
func publishBesideWanted(ctx context.Context, s settings) (ours, against float64, err error) {
	p, token, err := startPublishing(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	hub, err := newPublishers(p.address, token, fmt.Sprintf(`{"accepted":%d,"duplicates":0}`+"\n", publishBatch))
	if err != nil {
		return 0, 0, err
	}
	defer hub.close()
	start := time.Now()
	n, err := hub.publish(s.window)
	return n / time.Since(start).Seconds(), 100_000, err
}

// startPublishing starts the program and makes a token that may publish.
func startPublishing(ctx context.Context, s settings) (_ *process, token string, err error) {
	p, err := startProcess(ctx, s.dir)
	if err != nil {
		return nil, "", err
	}
	var made struct {
		Auth struct {
			Token string `json:"client_token"`
		}
	}
	err = p.vault(ctx, "sys/policies/acl/publisher", map[string]any{"policy": `path "sys/events/publish/shop/*" { capabilities = ["create"] }`}, nil)
	if err == nil {
		err = p.vault(ctx, "auth/token/create", map[string]any{"policies": []string{"publisher"}}, &made)
	}
	if err != nil {
		p.stop()
		return nil, "", err
	}
	return p, made.Auth.Token, nil
}

// bareServer answers every POST after it has decoded its body.
func bareServer() (address string, done func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		var events []map[string]any
		_, err := io.ReadFull(r.Body, body)
		if err == nil {
			err = json.Unmarshal(body, &events)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(ln) })
	return ln.Addr().String(), func() { server.Close(); serving.Wait() }, nil
}

// publishers are connections that send ready-made requests, so that they do not become what
// is measured.
type publishers struct {
	conns []*publisherConn
	want  string // answer
}

type publisherConn struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
	ids     [][]byte // places of the ids in the request
	next    int      // number of the next event
}

func newPublishers(address, token, want string) (*publishers, error) {
	p := &publishers{want: want}
	for i := range publishConnections {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			p.close()
			return nil, err
		}
		c := &publisherConn{conn: conn, r: bufio.NewReader(conn), next: i << 40}
		body := []byte{'['}
		for j := range publishBatch {
			e := sampleOrder()
			if j > 0 {
				body = append(body, ',')
			}
			body = event.AppendCloudEvent(body, e, "")
		}
		body = append(body, ']')
		c.request = fmt.Appendf(nil, "POST /api/v1/events HTTP/1.1\r\nHost: bench\r\nX-Vault-Token: %s\r\nContent-Type: application/cloudevents-batch+json\r\nContent-Length: %d\r\n\r\n%s",
			token, len(body), body)
		mark := []byte(`"id":"`)
		for rest := c.request; ; {
			at := bytes.Index(rest, mark)
			if at < 0 {
				break
			}
			rest = rest[at+len(mark):]
			c.ids = append(c.ids, rest[:16])
		}
		p.conns = append(p.conns, c)
	}
	return p, nil
}

// sampleOrder is an event of eventBytes bytes with a JSON payload that does not compress.
func sampleOrder() *event.Event {
	e := &event.Event{ID: "0123456789abcdef", Type: "shop/order-made", Source: "https://shop.example/1", Path: "orders/17", Time: time.Now(), DataContentType: "application/json"}
	data := []byte(`{"order":17,"lines":[{"article":"a-1","count":2}],"note":"`)
	data = append(data, noise(eventBytes-e.Size()-len(data)-len(`"}`))...)
	e.Data = append(data, `"}`...)
	return e
}

func (p *publishers) close() {
	for _, c := range p.conns {
		c.conn.Close()
	}
}

// publish sends requests on all connections for about d and returns how many events were
// acknowledged.
func (p *publishers) publish(d time.Duration) (float64, error) {
	var n atomic.Int64
	start := time.Now()
	err := parallel(len(p.conns), len(p.conns), func(i int) error {
		for time.Since(start) < d {
			if err := p.conns[i].send(p.want); err != nil {
				return err
			}
			n.Add(publishBatch)
		}
		return nil
	})
	return float64(n.Load()), err
}

func (c *publisherConn) send(want string) error {
	for _, id := range c.ids {
		for i, v := len(id)-1, c.next; i >= 0; i, v = i-1, v>>4 {
			id[i] = "0123456789abcdef"[v&15]
		}
		c.next++
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	response, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || string(answer) != want {
		return fmt.Errorf("answer %s: %s", response.Status, answer)
	}
	return nil
}
