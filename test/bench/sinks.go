package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/store"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/sink/file"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/sink/webhook"
)

// What the rows about sinks deliver.
const (
	fileEvents    = 300_000
	webhookEvents = 60_000
	webhookLanes  = 8
	sinkEvents    = 60_000 // to each of many
	healthySinks  = 48
)

// filledJournal has n events of 700 bytes on 1,000 paths.
func filledJournal(ctx context.Context, s settings, n int) (*journal.Journal, func(), error) {
	j, done, err := openJournal(ctx, s.dir)
	if err != nil {
		return nil, nil, err
	}
	var last *journal.Receipt
	for i := range n {
		e := sample()
		e.Path = fmt.Sprintf("bench/%d", i%1000)
		e.Metadata.Set(event.MetadataPath, e.Path)
		if last, err = j.Submit(ctx, e); err != nil {
			break
		}
	}
	if err == nil {
		_, err = last.Wait(ctx)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return j, done, nil
}

// delivering is a delivery that runs, with its state in the journal.
type delivering struct {
	*deliver.Delivery
	stop func() error
}

func startDelivery(ctx context.Context, j *journal.Journal, name string, sink deliver.Sink, p deliver.Policy) delivering {
	d := deliver.New(deliver.Options{
		Name: name, Sink: sink, Policy: p, From: deliver.FromStart,
		Journal: store.FromJournal(j), Store: store.New(store.Options{Journal: j, Sink: name, MaxBytes: 64 << 20}),
	})
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(running) }()
	return delivering{d, func() error {
		cancel()
		return <-ended
	}}
}

// await returns when so many events are delivered.
func (d delivering) await(ctx context.Context, events uint64) error {
	for start := time.Now(); d.Status().Delivered < events; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil || time.Since(start) > 2*time.Minute {
			return fmt.Errorf("%d of %d events were delivered; %v", d.Status().Delivered, events, d.Health())
		}
	}
	return nil
}

// fileSink brings a journal into a file, and compares with a copy of that file by one
// buffered writer, both synced at the end: bytes per second, of some turns of both.
func fileSink(ctx context.Context, s settings) (ours, against float64, err error) {
	j, done, err := filledJournal(ctx, s, fileEvents)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	var size int64
	var delivering, copying time.Duration
	for turn := range 3 {
		path := filepath.Join(s.dir, fmt.Sprintf("sink-%d.jsonl", turn))
		took, err := deliverToFile(ctx, j, path)
		if err != nil {
			return 0, 0, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return 0, 0, err
		}
		copied, err := bufferedCopy(path, filepath.Join(s.dir, "copy.jsonl"))
		if err = errors.Join(err, os.Remove(path)); err != nil {
			return 0, 0, err
		}
		size, delivering, copying = size+info.Size(), delivering+took, copying+copied
	}
	return float64(size) / delivering.Seconds(), float64(size) / copying.Seconds(), nil
}

// deliverToFile delivers the journal to a new file.
func deliverToFile(ctx context.Context, j *journal.Journal, path string) (took time.Duration, err error) {
	sink, err := file.New(file.Options{Path: path, Format: format.CloudEvents})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	d := startDelivery(ctx, j, name, sink, deliver.Policy{MaxEvents: 500, MaxBytes: 1 << 20})
	err = errors.Join(d.await(ctx, fileEvents), d.stop()) // stop syncs
	return time.Since(start), err
}

// bufferedCopy copies a file through one buffered writer.
func bufferedCopy(from, to string) (took time.Duration, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	start := time.Now()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer os.Remove(to)
	w := bufio.NewWriter(out)
	for r := bufio.NewReader(in); ; {
		line, readErr := r.ReadSlice('\n')
		if _, err := w.Write(line); err != nil {
			return 0, err
		}
		if readErr != nil {
			if readErr != io.EOF {
				err = readErr
			}
			break
		}
	}
	err = errors.Join(err, w.Flush(), out.Sync(), out.Close())
	return time.Since(start), err
}

// received is what a server got.
type received struct {
	bytes atomic.Int64 // of bodies
	last  atomic.Pointer[http.Header]
}

// header returns the headers of the last request that say something about its event.
func (r *received) header() http.Header {
	h := r.last.Load().Clone()
	for _, name := range []string{"Content-Length", "Accept-Encoding"} { // set by clients themselves
		h.Del(name)
	}
	return h
}

// receiverServer is an HTTP server that takes everything.
func receiverServer() (url string, got *received, stop func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, nil, err
	}
	got = new(received)
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		got.bytes.Add(n)
		got.last.Store(&r.Header)
	})}
	go server.Serve(l)
	return "http://" + l.Addr().String() + "/hook", got, server.Close, nil
}

func localWebhook(url string) (*webhook.Sink, error) {
	guard, err := outbound.NewGuard("127.0.0.1")
	if err != nil {
		return nil, err
	}
	return webhook.New(webhook.Options{URL: url, Connection: outbound.Options{Guard: guard, Concurrency: webhookLanes}})
}

// webhookSink sends one event per request to a local endpoint, and compares with a bare loop
// of as many clients that post the same: as many bytes with the same headers. Requests per
// second.
func webhookSink(ctx context.Context, s settings) (ours, against float64, err error) {
	j, done, err := filledJournal(ctx, s, webhookEvents)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	url, got, stop, err := receiverServer()
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	sink, err := localWebhook(url)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	d := startDelivery(ctx, j, "webhook", sink, deliver.Policy{MaxEvents: 1, Concurrency: webhookLanes})
	if err := errors.Join(d.await(ctx, webhookEvents), d.stop()); err != nil {
		return 0, 0, err
	}
	ours = webhookEvents / time.Since(start).Seconds()
	took, err := barePosts(ctx, url, webhookEvents, got.header(), int(got.bytes.Load()/webhookEvents))
	return ours, webhookEvents / took.Seconds(), err
}

// barePosts posts n bodies of so many bytes with a client of net/http in some goroutines.
func barePosts(ctx context.Context, url string, n int, headers http.Header, size int) (time.Duration, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: webhookLanes}}
	defer client.CloseIdleConnections()
	body := bytes.Repeat([]byte("x"), size)
	var left atomic.Int64
	left.Store(int64(n))
	failed := make(chan error, webhookLanes)
	var group sync.WaitGroup
	start := time.Now()
	for range webhookLanes {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
				if err != nil {
					failed <- err
					return
				}
				for name, values := range headers {
					r.Header[name] = values
				}
				answer, err := client.Do(r)
				if err != nil {
					failed <- err
					return
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
			}
		})
	}
	group.Wait()
	close(failed)
	return time.Since(start), <-failed
}

// deadAndSlow measures how fast 48 sinks get the same events, with two more beside them, one
// whose endpoint is down and one that takes 200 ms for each event, and without these two:
// events per second to all 48. Both are measured twice, in the order ABBA: what gets slower or
// faster meanwhile, such as the disk that takes what was written before, concerns both alike.
func deadAndSlow(ctx context.Context, s settings) (ours, against float64, err error) {
	j, done, err := filledJournal(ctx, s, sinkEvents)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	dead := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		return 0, 0, err
	}
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(200 * time.Millisecond) })}
	go server.Serve(l)
	defer server.Close()
	others := map[string]string{"dead": dead, "slow": "http://" + l.Addr().String()}
	if _, err = manySinks(ctx, s, j, "first", nil); err != nil { // reads the journal from the disk
		return 0, 0, err
	}
	var beside, alone time.Duration
	for i, with := range []bool{true, false, false, true} {
		urls, total := map[string]string(nil), &alone
		if with {
			urls, total = others, &beside
		}
		took, err := manySinks(ctx, s, j, fmt.Sprint("turn", i), urls)
		if err != nil {
			return 0, 0, err
		}
		*total += took
	}
	const events = 2 * healthySinks * sinkEvents
	return events / beside.Seconds(), events / alone.Seconds(), nil
}

// manySinks delivers to 48 files, and to webhooks that are not waited for.
func manySinks(ctx context.Context, s settings, j *journal.Journal, name string, webhooks map[string]string) (took time.Duration, err error) {
	dir, err := os.MkdirTemp(s.dir, "sinks")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	var all []delivering
	defer func() {
		for _, d := range all {
			_ = d.stop()
		}
	}()
	for other, url := range webhooks {
		sink, err := localWebhook(url)
		if err != nil {
			return 0, err
		}
		all = append(all, startDelivery(ctx, j, other+"-"+name, sink, deliver.Policy{MaxEvents: 1, Concurrency: webhookLanes}))
	}
	start := time.Now()
	for i := range healthySinks {
		sink, err := file.New(file.Options{Path: filepath.Join(dir, fmt.Sprint(i)), Format: format.CloudEvents, Sync: file.SyncNever})
		if err != nil {
			return 0, err
		}
		all = append(all, startDelivery(ctx, j, fmt.Sprintf("%s-%d", name, i), sink, deliver.Policy{MaxEvents: 500}))
	}
	for _, d := range all[len(webhooks):] {
		if err := d.await(ctx, sinkEvents); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}
