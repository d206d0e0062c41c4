package systemd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// listenNotify is the supervisor's end of the protocol.
func listenNotify(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func fromVariables(t *testing.T, getenv func(string) string) *Service {
	t.Helper()
	s, err := FromVariables(getenv, firstDescriptor)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func environment(m map[string]string) func(string) string {
	return func(name string) string { return m[name] }
}

func TestNotify(t *testing.T) {
	for name, socket := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": "@tocsin-test-" + strconv.Itoa(os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			conn := listenNotify(t, socket)
			s := fromVariables(t, environment(map[string]string{"NOTIFY_SOCKET": socket}))
			if err := s.Notify("READY=1"); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, conn); got != "READY=1" {
				t.Errorf("received %q", got)
			}
		})
	}
	if err := fromVariables(t, environment(nil)).Notify("READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	if err := fromVariables(t, environment(map[string]string{"NOTIFY_SOCKET": "/nowhere"})).Notify("READY=1"); err == nil {
		t.Error("a socket that does not exist is no error")
	}
}

func TestWatchdog(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn := listenNotify(t, socket)
	s := fromVariables(t, environment(map[string]string{
		"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": strconv.Itoa(os.Getpid()),
	}))
	ctx, cancel := context.WithCancel(t.Context())
	var alive atomic.Bool
	alive.Store(true)
	done := make(chan struct{})
	go func() { defer close(done); s.Watch(ctx, alive.Load) }()
	for range 3 {
		if got := receive(t, conn); got != "WATCHDOG=1" {
			t.Errorf("received %q", got)
		}
	}
	alive.Store(false)
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	buf := make([]byte, 100)
	for n := 0; ; n++ { // one may have been on its way
		if _, err := conn.Read(buf); err != nil {
			break
		}
		if n > 0 {
			t.Fatal("the watchdog is fed although the program is not alive")
		}
	}
	cancel()
	<-done

	for name, env := range map[string]map[string]string{
		"not watched":     {"NOTIFY_SOCKET": socket},
		"another process": {"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": "1"},
		"nonsense":        {"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": "-5"},
	} {
		if s := fromVariables(t, environment(env)); s.watchdog != 0 {
			t.Errorf("%s: interval %v", name, s.watchdog)
		}
		fromVariables(t, environment(env)).Watch(t.Context(), func() bool { return true }) // returns
	}
}
