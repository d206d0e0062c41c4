package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// faultEvents is the environment variable that says how many events each producer
// publishes.
const faultEvents = "TOCSIN_FAULT_EVENTS"

// TestPublishOverRestarts: a producer of each kind publishes while the hub is stopped or
// killed and started again three times. After that every event is in the journal, once.
func TestPublishOverRestarts(t *testing.T) {
	t.Parallel()
	total := 20_000
	if text := os.Getenv(faultEvents); text != "" {
		var err error
		if total, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for name, publish := range map[string]func(*producer){
		"http": (*producer).overHTTP, "grpc": (*producer).overGRPC, "sdk": (*producer).withSDK, "cli": (*producer).withCLI,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &producer{killed: newKilled(t), name: name, total: total}
			p.listenOn(freeAddress(t))
			p.start()
			restarted := make(chan struct{})
			published := make(chan struct{})
			go func() {
				defer close(restarted)
				p.restart(published)
			}()
			begin := time.Now()
			publish(p)
			close(published)
			<-restarted
			if t.Failed() {
				return
			}
			t.Logf("%d events in %v, %d restarts", total, time.Since(begin).Round(time.Millisecond), p.restarts)
			if p.restarts != 3 {
				t.Errorf("the hub was restarted %d times", p.restarts)
			}
			p.stop()
			p.count()
		})
	}
}

// producer publishes events with the ids 0 to total-1 to a hub that is restarted.
type producer struct {
	*killed
	name     string
	total    int
	progress atomic.Int64 // events that are certainly durable, or about to be
	restarts int
}

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// listenOn gives the hub an address that stays the same.
func (p *producer) listenOn(address string) {
	config := fmt.Sprintf("data_dir: %s\njournal: {max_bytes: 0}\nlisten: {address: %q, failed_logins: {max: 0}}\n", filepath.Join(p.dir, "data"), address)
	if err := os.WriteFile(filepath.Join(p.dir, "tocsin.yaml"), []byte(config), 0o600); err != nil {
		p.Fatal(err)
	}
}

// restart ends the hub and starts it again after each quarter.
func (p *producer) restart(published <-chan struct{}) {
	for quarter := 1; quarter <= 3; quarter++ {
		for p.progress.Load() < int64(p.total*quarter/4) {
			select {
			case <-published:
				return
			case <-time.After(time.Millisecond):
			}
		}
		if quarter == 2 {
			p.stop()
		} else {
			p.kill()
		}
		p.start()
		p.restarts++
	}
}

// stop ends the hub in an orderly way.
func (p *producer) stop() {
	p.Helper()
	if err := p.process.Process.Signal(syscall.SIGTERM); err != nil {
		p.Fatal(err)
	}
	if err := p.process.Wait(); err != nil {
		p.Errorf("the hub ended with %v:\n%s", err, p.said)
	}
	p.process = nil
}

// count looks whether each event is in the journal once.
func (p *producer) count() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	j, err := journal.Open(ctx, journal.Config{Dir: filepath.Join(p.dir, "data"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.Fatal(err)
	}
	defer j.Close(ctx)
	seen := make([]int, p.total)
	r := j.Read(journal.Position{})
	for at, end := (journal.Position{}), j.End(); at.Compare(end) < 0; {
		b, err := r.Next(ctx)
		if err != nil {
			p.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			if e := b.Event(i); e.Type == p.eventType() {
				n, err := strconv.Atoi(e.ID)
				if err != nil || n < 0 || n >= p.total {
					p.Fatalf("an event that nobody published: %q", e.ID)
				}
				seen[n]++
			}
		}
		at = b.End()
	}
	lost, doubled := 0, 0
	for _, n := range seen {
		switch {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	if lost+doubled > 0 {
		p.Errorf("of %d events %d are lost and %d doubled", p.total, lost, doubled)
	}
}

func (p *producer) eventType() string { return "restart/" + p.name }

func (p *producer) event(n int) *event.Event {
	e := &event.Event{ID: strconv.Itoa(n), Source: "/restart/" + p.name, Type: p.eventType(), Time: time.Now(),
		Data: fmt.Appendf(nil, `{"number":%d}`, n), DataContentType: "application/json"}
	e.Metadata.Set("number", strconv.Itoa(n))
	return e
}

// batchSize is how many events are in a request.
const batchSize = 500

// patient is how long a producer tries.
const patient = 2 * time.Minute

// overHTTP posts batches on four connections, each again until it is answered.
func (p *producer) overHTTP() {
	var posting sync.WaitGroup
	next := atomic.Int64{}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for range 4 {
		posting.Go(func() {
			for {
				from := int(next.Add(batchSize)) - batchSize
				if from >= p.total {
					return
				}
				upTo := min(from+batchSize, p.total)
				body := []byte{'['}
				for n := from; n < upTo; n++ {
					if n > from {
						body = append(body, ',')
					}
					body = event.AppendCloudEvent(body, p.event(n), "")
				}
				if !p.post(client, append(body, ']')) {
					return
				}
				p.progress.Add(int64(upTo - from))
			}
		})
	}
	posting.Wait()
}

func (p *producer) post(client *http.Client, body []byte) bool {
	for deadline := time.Now().Add(patient); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		// The address is that of the configuration; url is written by whoever restarts.
		r, err := http.NewRequest("POST", p.address()+"/api/v1/events", bytes.NewReader(body))
		if err != nil {
			p.Error(err)
			return false
		}
		r.Header.Set("X-Vault-Token", root)
		r.Header.Set("Content-Type", "application/cloudevents-batch+json")
		response, err := client.Do(r)
		if err != nil {
			continue
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		switch {
		case err != nil, response.StatusCode == http.StatusServiceUnavailable, response.StatusCode == http.StatusTooManyRequests:
		case response.StatusCode == http.StatusOK:
			return true
		default:
			p.Errorf("%d %s", response.StatusCode, answer)
			return false
		}
	}
	p.Error("a batch was not answered in time")
	return false
}

// address returns the URL of the hub.
func (p *producer) address() string {
	text, err := os.ReadFile(filepath.Join(p.dir, "tocsin.yaml"))
	if err != nil {
		p.Error(err)
		return ""
	}
	_, rest, _ := strings.Cut(string(text), `address: "`)
	address, _, _ := strings.Cut(rest, `"`)
	return "http://" + address
}

// overGRPC sends requests on a stream without waiting, and on a new one from the first
// that was not acknowledged.
func (p *producer) overGRPC() {
	conn, err := grpc.NewClient(strings.TrimPrefix(p.address(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.Error(err)
		return
	}
	defer conn.Close()
	publisher := tocsinv1.NewPublisherClient(conn)
	for deadline := time.Now().Add(patient); int(p.progress.Load()) < p.total; {
		before := p.progress.Load()
		err := p.stream(publisher)
		if p.progress.Load() > before {
			deadline = time.Now().Add(patient)
		}
		if time.Now().After(deadline) {
			p.Errorf("the events were not acknowledged in time: %v", err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (p *producer) stream(publisher tocsinv1.PublisherClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	stream, err := publisher.PublishStream(metadata.AppendToOutgoingContext(ctx, "x-vault-token", root))
	if err != nil {
		return err
	}
	first := int(p.progress.Load())
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel()
	sending.Go(func() {
		for from := first; from < p.total; from += batchSize {
			r := &tocsinv1.PublishStreamRequest{Sequence: uint64(min(from+batchSize, p.total))}
			for n := from; n < min(from+batchSize, p.total); n++ {
				e := p.event(n)
				r.Events = append(r.Events, &tocsinv1.Event{Id: e.ID, Source: e.Source, Type: e.Type, Data: e.Data, DataContentType: e.DataContentType})
			}
			if stream.Send(r) != nil {
				return // Recv tells why
			}
		}
		_ = stream.CloseSend()
	})
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(response.Refused) > 0 {
			p.Errorf("refused: %v", response.Refused[0])
		}
		p.progress.Store(int64(response.AcknowledgedSequence))
	}
}

// withSDK sends in the background, as fast as the queue takes it.
func (p *producer) withSDK() {
	publisher, err := client.NewPublisher(client.PublisherOptions{Address: p.address(), Token: root,
		Notify: func(n client.Notice) {
			if errors.Is(n.Err, client.ErrBadRequest) || errors.Is(n.Err, client.ErrPermission) {
				p.Errorf("%v", n.Err)
			}
		}})
	if err != nil {
		p.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*patient)
	defer cancel()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for watching.Err() == nil {
			stats := publisher.Stats()
			p.progress.Store(int64(stats.Acknowledged))
			time.Sleep(time.Millisecond)
		}
	}()
	for n := range p.total {
		if err := publisher.Queue(ctx, p.event(n)); err != nil {
			p.Errorf("event %d: %v", n, err)
			return
		}
	}
	if err := errors.Join(publisher.Flush(ctx), publisher.Close(ctx)); err != nil {
		p.Error(err)
	}
}

// withCLI pipes events into the command.
func (p *producer) withCLI() {
	cmd := exec.Command(filepath.Join(programDir, "tocsin"), "events", "publish", "--cloudevents", "--wait", patient.String(), "--format", "json")
	cmd.Env = append(os.Environ(), "TOCSIN_ADDR="+p.address(), "TOCSIN_TOKEN="+root)
	in, err := cmd.StdinPipe()
	if err != nil {
		p.Error(err)
		return
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		p.Error(err)
		return
	}
	line := []byte{}
	for n := range p.total {
		line = append(event.AppendCloudEvent(line[:0], p.event(n), ""), '\n')
		if _, err := in.Write(line); err != nil {
			p.Error(err)
			break
		}
		p.progress.Store(int64(n + 1))
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		p.Errorf("%v\n%s\n%s", err, out.Bytes(), said.Bytes())
	}
}
