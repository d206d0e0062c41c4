package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit/receiver"
	"github.com/tocsin-events/tocsin/internal/systemd"
	"github.com/tocsin-events/tocsin/internal/systemd/systemdtest"
	"github.com/tocsin-events/tocsin/test/device"
)

// receivingOptions is a hub with a source of each kind, all of one server.
func receivingOptions(t *testing.T) (o Options, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "app")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "audit.sock")
	o = options(t)
	add := func(name string, kind config.SourceType, address string) {
		s := config.DefaultSource()
		s.Name, s.Type, s.Address, s.Server = name, kind, address, "vault"
		s.Spool.MaxBytes, s.Spool.ReserveBytes = 16<<20, 8<<20
		o.Config.Sources = append(o.Config.Sources, s)
	}
	add("local", config.VaultAuditSocket, "unix:"+socket)
	add("web", config.VaultAuditHTTP, "tcp:127.0.0.1:0")
	add("log", config.VaultAuditSyslog, "udp:127.0.0.1:0")
	return o, socket
}

// Entries come over every device, each once in the journal, whatever device it took.
func TestReceivers(t *testing.T) {
	t.Parallel()
	o, socket := receivingOptions(t)
	a, stop := start(t, o)
	s := subscribe(t, a, client.Options{Format: client.FormatCloudEvents}, "audit/*")
	local := &device.Socket{Network: "unix", Address: socket}
	defer local.Close()
	web := &device.HTTP{URL: "http://" + a.receivers["web"].Addr().String() + "/ingest"}
	udp, err := net.Dial("udp", a.receivers["log"].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	expect := func(n uint64) {
		t.Helper()
		m, what := next(t, s)
		if id, _ := m.Event.Metadata.Text("request_id"); id != device.ID(n) {
			t.Errorf("%s of request %s, want number %d", what, id, n)
		}
	}
	if err := local.Write(device.Entry(1, 300)); err != nil {
		t.Fatal(err)
	}
	expect(1)
	if err := web.Write(t.Context(), device.Entry(1, 300)); err != nil { // the same again
		t.Fatal(err)
	}
	if err := web.Write(t.Context(), device.Entry(2, 300)); err != nil {
		t.Fatal(err)
	}
	expect(2)
	fmt.Fprintf(udp, "<38>Nov 21 01:49:29 openbao[29483]: %s", device.Entry(3, 300))
	expect(3)
	web.Client.CloseIdleConnections()

	response, err := http.Get(a.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`tocsin_receiver_up{name="local"} 1`, `tocsin_receiver_lines_total{name="local"} 1`, `tocsin_receiver_connections{name="local"} 1`,
		`tocsin_receiver_http_answers_total{code="204",name="web"} 2`, `tocsin_receiver_lines_total{name="log"} 1`,
		`tocsin_receiver_incidents_total{incident="torn_line",name="local"} 0`, `tocsin_spool_dropped_lines_total{name="local"} 0`,
		`tocsin_spool_oldest_seconds{name="web"}`, `tocsin_spool_file_bytes{name="web"}`,
	} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	stop()
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A second hub for the same socket does not start, and does not touch the data.
func TestSocketInUse(t *testing.T) {
	o, _ := receivingOptions(t)
	start(t, o)
	other := options(t)
	other.Config.Sources = o.Config.Sources[:1]
	if _, err := New(t.Context(), other); !errors.Is(err, receiver.ErrInUse) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(other.Config.DataDir, "jetstream")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a journal was made: %v", err)
	}
}

// What a server sends while the hub is down is taken by the next one, from the socket
// that systemd holds.
func TestSentBetweenTwoHubs(t *testing.T) {
	o, socket := receivingOptions(t)
	o.Config.Sources = o.Config.Sources[:1]
	m := systemdtest.New(t, 10)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	m.Hold("audit", l.(*net.UnixListener))
	l.Close()
	d := &device.Socket{Network: "unix", Address: socket}
	defer d.Close()
	const rounds, each = 3, 20
	n := uint64(0)
	for range rounds {
		for range each {
			if err := d.Write(device.Entry(n, 300)); err != nil {
				t.Fatal(err)
			}
			n++
		}
		const first = 310
		if o.Systemd, err = systemd.FromVariables(m.Variables(first), first); err != nil {
			t.Fatal(err)
		}
		a, stop := start(t, o)
		until(t, func() bool { return a.Stats().Events >= each })
		stop()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	j, err := journal.Open(ctx, journal.Config{Dir: o.Config.DataDir})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(ctx)
	seen := make(map[uint64]int)
	r := j.Read(journal.Position{})
	for at, end := (journal.Position{}), j.End(); at.Compare(end) < 0; {
		b, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			if id, ok := b.Event(i).Metadata.Text("request_id"); ok {
				if n, ok := device.Number(id); ok {
					seen[n]++
				}
			}
		}
		at = b.End()
	}
	for i := range n {
		if seen[i] != 1 {
			t.Errorf("entry %d is there %d times", i, seen[i])
		}
	}
}

// What a source has received stays visible when it is removed or gets another name, until it
// was read under the old one or somebody removes it.
func TestLeftSpool(t *testing.T) {
	o, socket := receivingOptions(t)
	o.Config.Sources = o.Config.Sources[:1]
	hub := func() *App {
		t.Helper()
		a, err := New(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	end := func(a *App) {
		t.Helper()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	left := func(a *App) (text string) {
		for _, c := range a.health.Report().Checks {
			if c.Name == "spool local" {
				return c.Reason
			}
		}
		return ""
	}
	a := hub() // that reads nothing
	d := &device.Socket{Network: "unix", Address: socket}
	for n := range uint64(3) {
		if err := d.Write(device.Entry(n, 300)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, func() bool { return a.receivers["local"].Stats().Lines == 3 })
	d.Close()
	end(a)

	o.Config.Sources[0].Name = "renamed"
	a = hub()
	if text := left(a); !strings.Contains(text, "3 lines") || !strings.Contains(text, "named local") {
		t.Errorf("health says %q", text)
	}
	dir := filepath.Join(o.Config.DataDir, "spool")
	if err := os.Rename(filepath.Join(dir, "local"), filepath.Join(dir, "aside")); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "local.handover"))
	if text := left(a); text != "" {
		t.Errorf("health says %q", text)
	}
	end(a)
	if err := os.Rename(filepath.Join(dir, "aside"), filepath.Join(dir, "local")); err != nil {
		t.Fatal(err)
	}
	o.Config.Sources[0].Name = "local"
	a, stop := start(t, o)
	until(t, func() bool { return a.Stats().Events >= 3 })
	stop()
	o.Config.Sources[0].Name = "renamed"
	a = hub()
	if text := left(a); text != "" {
		t.Errorf("health says %q", text)
	}
	end(a)
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 20 s")
		}
	}
}
