package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// tocsinPlugin builds the plugin for Falco and starts it in a process of its own.
func tocsinPlugin(ctx context.Context, s settings, address string) (p sourceplugin.Plugin, stop func() error, err error) {
	library := filepath.Join(s.dir, "libtocsin.so")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildmode=c-shared", "-o", library, "./cmd/falco-plugin-tocsin")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("build the plugin: %w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	config, err := json.Marshal(map[string]string{"address": address})
	if err != nil {
		return nil, nil, err
	}
	process, err := pluginprocess.Launch(ctx, pluginprocess.Options{Name: "tocsin", Command: self, Args: []string{pluginHost, library}, Logger: slog.New(slog.DiscardHandler)}, string(config))
	if err != nil {
		return nil, nil, err
	}
	return process, func() error { return process.Close(context.WithoutCancel(ctx)) }, nil
}

// startHistory is a hub with so many events, each of which is a CloudEvent of eventBytes bytes.
func startHistory(ctx context.Context, dir string, count int) (address string, stop func(), err error) {
	j, closeJournal, err := openJournal(ctx, dir)
	if err != nil {
		return "", nil, err
	}
	var last *journal.Receipt
	for range count {
		e := notification(time.Now())
		e.Metadata.Set("filler", "")
		e.Metadata.Set("filler", string(noise(max(0, eventBytes-len(event.AppendCloudEvent(nil, e, j.End().String()))))))
		if last, err = j.Submit(ctx, e); err != nil {
			closeJournal()
			return "", nil, err
		}
	}
	if _, err := last.Wait(ctx); err != nil {
		closeJournal()
		return "", nil, err
	}
	h := hub.New(hub.Options{Journal: hub.FromJournal(j)})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		closeJournal()
		return "", nil, err
	}
	var serving sync.WaitGroup
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handshake, err := websocket.Check(r, websocket.Options{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s, err := h.Subscribe(hub.Request{Selection: hub.Selection{Type: "*", Namespaces: hub.Namespaces("", nil)},
			Format: hub.CloudEvents, Sequence: true, Allow: func(*event.Event) bool { return true }, AccessKey: true})
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
	return "http://" + ln.Addr().String(), func() {
		server.Close()
		h.Shutdown(context.WithoutCancel(ctx))
		serving.Wait()
		closeJournal()
	}, nil
}

// startFeeder serves frames as a hub writes them, each a CloudEvent of eventBytes bytes, without
// end: nothing is done for an event but to count it up.
func startFeeder() (address string, stop func(), err error) {
	const inWrite = 128
	const digits = "0000000000000000000000000"
	e := notification(time.Now())
	e.Metadata.Set("filler", "")
	e.Metadata.Set("filler", string(noise(max(0, eventBytes-len(event.AppendCloudEvent(nil, e, digits))))))
	frame := websocket.BeginFrame(nil)
	frame = websocket.EndFrame(append(event.AppendCloudEvent(frame, e, digits), '\n'), 0, websocket.Text)
	end := bytes.Index(frame, []byte(digits)) + len(digits)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	var serving sync.WaitGroup
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handshake, err := websocket.Check(r, websocket.Options{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		conn, err := handshake.Accept(w)
		if err != nil {
			return
		}
		defer conn.Close()
		frames := bytes.Repeat(frame, inWrite)
		for n := uint64(1); ; {
			for i := end; i < len(frames); i += len(frame) {
				for d, rest := i-1, n; rest > 0; d, rest = d-1, rest/10 {
					frames[d] = '0' + byte(rest%10)
				}
				n++
			}
			if _, err := conn.Write(frames); err != nil {
				return
			}
		}
	})}
	serving.Go(func() { server.Serve(ln) })
	return "http://" + ln.Addr().String(), func() {
		server.Close()
		serving.Wait()
	}, nil
}

// tocsinFed measures how many events per second come out of the plugin for Falco, in the host of
// native plugins, when it gets as many as it can take.
func tocsinFed(ctx context.Context, s settings) (ours, against float64, err error) {
	address, done, err := startFeeder()
	if err != nil {
		return 0, 0, err
	}
	defer done()
	p, stop, err := tocsinPlugin(ctx, s, address)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	n, took, err := streamed(ctx, p, s.window, "")
	return float64(n) / took.Seconds(), 500_000, err
}

// tocsinReads compares how many events per second come out of it when it reads the history of a
// hub, with what somebody gets who reads the same and only counts. The plugin is a process of its
// own.
func tocsinReads(ctx context.Context, s settings) (ours, against float64, err error) {
	const count = 300_000
	address, done, err := startHistory(ctx, s.dir, count)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	p, stop, err := tocsinPlugin(ctx, s, address)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return alternate(s.window, func(time.Duration) (float64, error) {
		stream, err := p.Open(ctx, sourceplugin.Open{Params: `{"since":"oldest"}`})
		if err != nil {
			return 0, err
		}
		var b sourceplugin.Batch
		for n := 0; n < count && err == nil; n += b.Count {
			err = stream.Next(ctx, &b)
		}
		return count, errors.Join(err, stream.Close(ctx))
	}, func(time.Duration) (float64, error) {
		conn, r, err := dialWebSocket(strings.TrimPrefix(address, "http://"), "/", nil)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		frames := frameReader{r}
		for n := 0; n < count; {
			op, size, err := frames.header()
			if err == nil {
				_, err = frames.r.Discard(size)
			}
			if err != nil {
				return 0, err
			}
			if op <= 2 {
				n++
			}
		}
		return count, nil
	})
}
