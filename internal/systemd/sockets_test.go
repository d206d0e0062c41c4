package systemd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/systemd"
	"github.com/tocsin-events/tocsin/internal/systemd/systemdtest"
)

// A program that is started as a service says what it got.
func TestMain(m *testing.M) {
	if os.Getenv("TOCSIN_TEST_SERVICE") == "" {
		os.Exit(m.Run())
	}
	s, err := systemd.FromEnvironment()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "FDSTORE"} {
		if v, set := os.LookupEnv(name); set {
			fmt.Println(name, "is still", v)
		}
	}
	// A child has none of the sockets.
	out, err := exec.Command("/bin/sh", "-c", "ls -l /proc/self/fd 2>/dev/null | grep -c socket").Output()
	fmt.Printf("child: %s (%v)\n", strings.TrimSpace(string(out)), err)
	unused, err := s.CloseUnused()
	fmt.Println("unused:", strings.Join(unused, ", "), err)
	again, err := systemd.FromEnvironment()
	left, _ := again.CloseUnused()
	fmt.Println("again:", len(left), err)
	s.Notify("READY=1")
	os.Exit(0)
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestEnvironment(t *testing.T) {
	m := systemdtest.New(t, 0)
	path := socketPath(t)
	m.Hold("audit", listen(t, "unix", path).(*net.UnixListener))
	tcp := listen(t, "tcp", "127.0.0.1:0").(*net.TCPListener)
	m.Hold("web.socket", tcp)
	cmd := m.Command(os.Args[0])
	cmd.Env = append(cmd.Env, "TOCSIN_TEST_SERVICE=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err, string(out))
	}
	want := fmt.Sprintf("child: 0 (exit status 1)\nunused: audit (unix:%s), web.socket (tcp:%s) <nil>\nagain: 0 <nil>\n", path, tcp.Addr())
	if string(out) != want {
		t.Errorf("the service says\n%swant\n%s", out, want)
	}
	m.Await("READY=1", 0)
}

func service(t *testing.T, m *systemdtest.Manager) *systemd.Service {
	t.Helper()
	const first = 400
	s, err := systemd.FromVariables(m.Variables(first), first)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.CloseUnused() })
	return s
}

func TestTake(t *testing.T) {
	m := systemdtest.New(t, 0)
	path := socketPath(t)
	m.Hold("one", listen(t, "unix", path).(*net.UnixListener))
	tcp := listen(t, "tcp", "127.0.0.1:0").(*net.TCPListener)
	m.Hold("two.socket", tcp)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	m.Hold("three", udp)
	s := service(t, m)
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	for _, no := range [][2]string{
		{"unix", path + "x"}, {"unixgram", path}, {"tcp", "127.0.0.1:1"}, {"tcp", "127.0.0.2:" + port}, {"tcp", ":" + port},
		{"tcp", "0.0.0.0:" + port}, {"systemd", "four"}, {"systemd", "two.sock"}, {"tcp", "nonsense"},
	} {
		if got := s.Take(no[0], no[1]); got != nil {
			t.Errorf("%v: %v", no, got)
		}
	}
	for _, yes := range [][2]string{{"unix", path}, {"systemd", "two"}, {"udp", udp.LocalAddr().String()}} {
		socket := s.Take(yes[0], yes[1])
		if socket == nil {
			t.Fatalf("%v: none", yes)
		}
		if s.Take(yes[0], yes[1]) != nil {
			t.Errorf("%v: given away twice", yes)
		}
		if yes[0] == "udp" {
			c, err := socket.Packets()
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			continue
		}
		l, err := socket.Listener()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		l.Close()
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file of a socket that is held by another was removed: %v", err)
	}
}

func TestTakeByName(t *testing.T) {
	m := systemdtest.New(t, 0)
	tcp := listen(t, "tcp", "[::]:0").(*net.TCPListener)
	m.Hold("", tcp)
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	if service(t, m).Take("tcp", "127.0.0.1:"+port) != nil {
		t.Error("every interface is not the same as loopback")
	}
	socket := service(t, m).Take("tcp", "0.0.0.0:"+port)
	if socket == nil {
		t.Fatal("every interface is every interface")
	}
	socket.Close()
}

// A connection that is stored stays open while its service is gone, and what its peer
// sent meanwhile, even if the peer has ended, is there for the next one.
func TestStore(t *testing.T) {
	m := systemdtest.New(t, 2)
	l := listen(t, "unix", socketPath(t))
	connect := func() (client, server net.Conn) {
		t.Helper()
		client, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if server, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		return client, server
	}
	first := service(t, m)
	client, server := connect()
	if err := first.Store("conn.a.1", server.(*net.UnixConn)); err != nil {
		t.Fatal(err)
	}
	otherClient, other := connect()
	defer otherClient.Close()
	if err := first.Store("conn.b.1", other.(*net.UnixConn)); err != nil {
		t.Fatal(err)
	}
	if err := first.Store("conn.c", other.(*net.UnixConn)); !errors.Is(err, systemd.ErrNoStore) {
		t.Errorf("a third one: %v", err)
	}
	if err := first.Remove("conn.b.1"); err != nil {
		t.Fatal(err)
	}
	other.Close()
	if err := first.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Close()
	fmt.Fprintln(client, "hello")
	client.Close()

	second := service(t, m)
	if got := second.TakeStored("conn.b"); len(got) != 0 {
		t.Errorf("%v were removed", got)
	}
	got := second.TakeStored("conn.a.")
	if len(got) != 1 || got[0].Name != "conn.a.1" || !got[0].Connected {
		t.Fatalf("stored: %v", got)
	}
	conn, err := got[0].Conn()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		t.Errorf("read %q, %v", line, err)
	}
	// What nobody takes does not stay in the store.
	third := service(t, m)
	if unused, err := third.CloseUnused(); len(unused) != 1 || err != nil {
		t.Errorf("unused: %v, %v", unused, err)
	}
	m.Await("FDSTOREREMOVE=1 FDNAME=conn.a.1", 0)
	if names := m.Stored(); len(names) != 0 {
		t.Errorf("still stored: %v", names)
	}
}

func TestBarrierIsBounded(t *testing.T) {
	path := socketPath(t)
	silent, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s, err := systemd.FromVariables(func(name string) string { return map[string]string{"NOTIFY_SOCKET": path}[name] }, 400)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Barrier(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestWrongVariables(t *testing.T) {
	pid := fmt.Sprint(os.Getpid())
	for name, env := range map[string]map[string]string{
		"not a number":   {"LISTEN_PID": pid, "LISTEN_FDS": "many"},
		"too many":       {"LISTEN_PID": pid, "LISTEN_FDS": "99999999"},
		"negative":       {"LISTEN_PID": pid, "LISTEN_FDS": "-1"},
		"closed sockets": {"LISTEN_PID": pid, "LISTEN_FDS": "2"},
	} {
		if _, err := systemd.FromVariables(func(n string) string { return env[n] }, 600); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, env := range map[string]map[string]string{
		"another process": {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
		"nothing":         {},
	} {
		s, err := systemd.FromVariables(func(n string) string { return env[n] }, 600)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.Notify("READY=1"); err != nil {
			t.Error(err)
		}
		if unused, err := s.CloseUnused(); len(unused) != 0 || err != nil {
			t.Errorf("%s: %v, %v", name, unused, err)
		}
	}
}
