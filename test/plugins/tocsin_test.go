//go:build linux && amd64

package plugins

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
	"github.com/tocsin-events/tocsin/plugin/plugintest"
)

// tocsinLibrary is the plugin for Falco.
func tocsinLibrary(t testing.TB) string {
	return shared(t, "../../cmd/falco-plugin-tocsin", "-trimpath", "-ldflags=-s -w")
}

// hubConfig writes the configuration of a hub that always listens at the same address, and reads
// an audit log.
func hubConfig(t *testing.T) (file, url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	dir := t.TempDir()
	audit, err := os.ReadFile("../../internal/auditlog/testdata/openbao-audit-small.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "tocsin.yaml")
	for name, text := range map[string]string{
		"audit.log": string(audit), "token": "t0ken\n",
		"tocsin.yaml": fmt.Sprintf("listen: {address: %q}\ndata_dir: %s/data\nauth: {root_token: {file: %s/token}}\nsources: [{name: bao, type: vault_audit_file, path: %s/audit.log}]\n", address, dir, dir, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file, "http://" + address
}

// history returns what a hub has.
func history(t *testing.T, url, eventType string) (list [][]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := client.Subscribe(ctx, eventType, client.Options{Address: url, Token: "t0ken", Namespaces: []string{"*"}, Since: "oldest", NoFollow: true, Format: client.FormatCloudEvents})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		m, err := s.Next(ctx)
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, bytes.TrimSpace(m.Raw))
	}
}

// The library that is loaded in Falco does in our host all that a plugin must, with events of a
// real hub, while garbage is collected all the time.
func TestTocsinInFalco(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and takes seconds")
	}
	hub, library := hubProgram(t), tocsinLibrary(t)
	config, url := hubConfig(t)
	s := start(t, hub, config, t.TempDir())
	var all [][]byte
	await(t, "the audit log is read", s.log, func() bool { all = history(t, url, "audit/*"); return len(all) == 479 })
	own, err := json.Marshal(map[string]any{"address": url, "token": "t0ken", "namespaces": []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	first, err := event.ParseCloudEvent(all[0])
	if err != nil {
		t.Fatal(err)
	}
	plugintest.RunProgram(t, plugintest.Program{Command: hub, Args: []string{"plugin-host", library}, Env: []string{"GOGC=1"}}, plugintest.Options{
		Config: string(own), BadConfigs: []string{`{"address":"ftp://x"}`, `{"addresses":"x"}`, `{"token":"a","token_file":"b"}`},
		Params: `{"types":["audit/*"],"since":"oldest","follow":false}`, BadParams: []string{"audit/*", `{"token":"wr0ng"}`, `{"since":"yesterday"}`},
		Events: len(all),
		Check: func(t testing.TB, events []plugin.Event) {
			for i, e := range events {
				if !bytes.Equal(e.Data, all[i]) {
					t.Fatalf("event %d is %s instead of %s", i, e.Data, all[i])
				}
			}
		},
		Values: map[string][]string{"event.id": {first.ID}, "event.type": {first.Type}, "event.data[/none]": {"<NA>"}},
		Feed:   []plugin.Event{{Data: []byte("{}")}, {Data: nil}, {Data: []byte(strings.Repeat("[", 100_000))}},
	})
	t.Run("fields", func(t *testing.T) { sameFields(t, hub, library, all) })
	// The rules that come with the program raise the same alerts about what comes by this way.
	t.Run("rules", func(t *testing.T) {
		run := func(args ...string) string {
			command := exec.Command(hub, append([]string{"rules", "run", "builtin:vault", "--time-zone", "UTC"}, args...)...)
			var errs bytes.Buffer
			command.Stderr = &errs
			out, err := command.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, &errs)
			}
			return string(out)
		}
		want := run("--audit", "../../internal/auditlog/testdata/openbao-audit-small.jsonl", "--audit-name", "bao")
		got := run("--plugin", library, "--config", string(own), "--open", `{"since":"oldest","follow":false}`)
		if got != want || strings.Count(want, "\n") < 5 {
			t.Errorf("%s\ninstead of\n%s", got, want)
		}
	})
}

// sameFields compares fields that the library extracts, with no hub, with those of the hub's own
// rules.
func sameFields(t *testing.T, hub, library string, all [][]byte) {
	p, err := pluginprocess.Launch(t.Context(), pluginprocess.Options{Command: hub, Args: []string{"plugin-host", library}, Logger: slog.New(slog.DiscardHandler)}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	requests := field.NewRequests(eventfields.Fields(falcoevent.EventSource))
	for i := range p.Describe().Fields {
		f := &p.Describe().Fields[i]
		if !f.Arg.Required {
			_, err = requests.Add(f.Name, "", false)
		} else {
			_, err = requests.Add(f.Name, "operation", true)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := requests.Add("audit.request.data", "/options/cas", true); err != nil {
		t.Fatal(err)
	}
	var list []sourceplugin.FieldRequest
	for _, r := range requests.List() {
		q, err := fieldtext.Parse(r.Text, p.Describe().Fields)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, q)
	}
	row, err := eventfields.NewReader(falcoevent.EventSource, requests.List(), eventfields.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer row.Close()
	var asked []sourceplugin.Event
	for i, b := range all {
		asked = append(asked, sourceplugin.Event{Event: scapevent.Append(nil, falcoevent.PluginID, 1, b), Number: uint64(i + 1), Source: "tocsin"})
	}
	v, err := p.Extract(t.Context(), asked, list)
	if err != nil {
		t.Fatal(err)
	}
	values := 0
	for i, b := range all {
		e, err := event.ParseCloudEvent(b)
		if err != nil {
			t.Fatal(err)
		}
		row.Event(t.Context(), e)
		for k, r := range requests.List() {
			want := row.Values(k)
			if int(v.Counts[0]) != len(want) {
				t.Errorf("event %d: %s has %d values instead of %d", i, r.Text, v.Counts[0], len(want))
			}
			for n := range int(v.Counts[0]) {
				got := v.Bytes[:v.Lengths[n]]
				v.Bytes = v.Bytes[len(got):]
				if n >= len(want) {
					continue
				}
				switch values++; r.Field.Type {
				case sourceplugin.String, sourceplugin.IPAddr, sourceplugin.IPNet:
					if string(got) != want[n].Text {
						t.Errorf("event %d: %s is %q instead of %q", i, r.Text, got, want[n].Text)
					}
				default:
					number := uint64(0)
					for k := range got {
						number |= uint64(got[k]) << (8 * k)
					}
					if number != want[n].Number {
						t.Errorf("event %d: %s is %d instead of %d", i, r.Text, number, want[n].Number)
					}
				}
			}
			v.Lengths, v.Counts = v.Lengths[v.Counts[0]:], v.Counts[1:]
		}
	}
	if values < 20*len(all) {
		t.Errorf("%d values of %d events", values, len(all))
	}
}

// However often the hub is killed while the plugin reads, each event of its journal comes out once
// and in order.
func TestTocsinInFalcoOverRestarts(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and takes seconds")
	}
	hub, library := hubProgram(t), tocsinLibrary(t)
	config, url := hubConfig(t)
	s := start(t, hub, config, t.TempDir())
	log := new(safeBuffer)
	p, err := pluginprocess.Launch(t.Context(), pluginprocess.Options{
		Command: hub, Args: []string{"plugin-host", library}, Logger: slog.New(slog.NewTextHandler(log, nil)),
	}, fmt.Sprintf(`{"address":%q,"token":"t0ken","types":["app/*"]}`, url))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	stream, err := p.Open(t.Context(), sourceplugin.Open{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close(context.Background())

	publisher, err := client.NewPublisher(client.PublisherOptions{Address: url, Token: "t0ken"})
	if err != nil {
		t.Fatal(err)
	}
	publishing, stop := context.WithCancel(t.Context())
	published := make(chan int, 1)
	go func() {
		n := 0
		for ; publishing.Err() == nil; n++ {
			e := event.NewNotification("app/n", "n", fmt.Sprint(n))
			e.ID, e.Source = fmt.Sprint("id-", n), "test"
			if err := publisher.Queue(publishing, e); err != nil {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		published <- n
	}()
	var got [][]byte
	var batch sourceplugin.Batch
	read := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := stream.Next(ctx, &batch); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v\n%s", err, log)
		}
		for rest := bytes.Clone(batch.Events); len(rest) > 0; {
			var e scapevent.Event
			var err error
			if e, rest, err = scapevent.Next(rest); err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Data())
		}
	}
	for range 6 {
		before := len(got)
		await(t, "events come", log, func() bool { read(); return len(got) > before+200 })
		s.kill()
		read()
		s = start(t, hub, config, t.TempDir())
	}
	stop()
	n := <-published
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := publisher.Close(ctx); err != nil {
		t.Fatal(err)
	}
	want := history(t, url, "app/*")
	if len(want) < n-1 { // the last one may have been given up
		t.Errorf("%d events were published, and the hub has %d", n, len(want))
	}
	await(t, "all has come", log, func() bool { read(); return len(got) >= len(want) })
	read()
	if len(got) != len(want) {
		t.Errorf("%d events instead of %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("event %d is %s instead of %s", i, got[i], want[i])
		}
	}
	if !strings.Contains(log.String(), "The hub is connected") {
		t.Errorf("nothing is said about connections:\n%s", log)
	}
	t.Logf("%d events", len(got))
}
