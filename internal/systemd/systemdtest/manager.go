// Package systemdtest is a service manager for tests: it holds sockets, takes messages
// and stores descriptors as systemd does.
package systemdtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Manager is the service manager. It ends with the test.
type Manager struct {
	t      testing.TB
	path   string
	conn   *net.UnixConn
	most   int // of the store
	ending sync.WaitGroup

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when something arrives
	held     []descriptor
	stored   []descriptor
	messages []string
}

type descriptor struct {
	name string
	file *os.File
}

// New returns a manager that stores at most so many descriptors.
func New(t testing.TB, store int) *Manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	m := &Manager{t: t, path: filepath.Join(dir, "notify"), most: store, changed: make(chan struct{})}
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	m.ending.Go(m.receive)
	t.Cleanup(func() {
		m.conn.Close()
		m.ending.Wait()
		for _, d := range append(m.held, m.stored...) {
			d.file.Close()
		}
		os.RemoveAll(dir)
	})
	return m
}

// Socket is a listener or a socket for datagrams.
type Socket interface{ File() (*os.File, error) }

// Hold takes a socket over; the caller closes its own.
func (m *Manager) Hold(name string, socket Socket) {
	m.t.Helper()
	f, err := socket.File()
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = append(m.held, descriptor{name, f})
}

// Command returns a command that starts a program as a service.
func (m *Manager) Command(program string, args ...string) *exec.Cmd {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Only the shell knows its process id, which is that of the program then.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, program}, args...)...)
	cmd.Env = os.Environ()
	files, variables := m.give()
	cmd.ExtraFiles = files // from descriptor 3 on
	for name, value := range variables {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// Variables are what a service within this process reads with FromVariables: as its
// environment, and the number of its first descriptor, which must be free.
func (m *Manager) Variables(first int) func(string) string {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	files, variables := m.give()
	for i, f := range files {
		if err := unix.Dup2(int(f.Fd()), first+i); err != nil {
			m.t.Fatal(err)
		}
		unix.CloseOnExec(first + i)
		unix.SetNonblock(first+i, true) // Fd has set it to block
	}
	variables["LISTEN_PID"] = strconv.Itoa(os.Getpid())
	return func(name string) string { return variables[name] }
}

func (m *Manager) give() (files []*os.File, variables map[string]string) {
	var names []string
	for _, d := range append(append([]descriptor{}, m.held...), m.stored...) {
		files, names = append(files, d.file), append(names, d.name)
	}
	variables = map[string]string{
		"NOTIFY_SOCKET": m.path, "LISTEN_FDS": strconv.Itoa(len(files)), "LISTEN_FDNAMES": strings.Join(names, ":"),
	}
	if m.most > 0 {
		variables["FDSTORE"] = strconv.Itoa(m.most)
	}
	return files, variables
}

// receive takes messages until the test ends.
func (m *Manager) receive() {
	message, rights := make([]byte, 4096), make([]byte, 4096)
	for {
		n, r, _, _, err := m.conn.ReadMsgUnix(message, rights)
		if err != nil {
			return
		}
		m.take(string(message[:n]), descriptors(rights[:r]))
	}
}

func descriptors(rights []byte) (fds []int) {
	messages, _ := unix.ParseSocketControlMessage(rights)
	for _, message := range messages {
		got, _ := unix.ParseUnixRights(&message)
		for _, fd := range got {
			unix.CloseOnExec(fd)
		}
		fds = append(fds, got...)
	}
	return fds
}

func (m *Manager) take(message string, fds []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fields := make(map[string]string)
	for line := range strings.Lines(message) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		fields[name] = value
	}
	name := fields["FDNAME"]
	switch {
	case fields["FDSTORE"] == "1" && len(fds) == 1 && len(m.stored) < m.most:
		m.stored = append(m.stored, descriptor{name, os.NewFile(uintptr(fds[0]), name)})
		fds = nil
	case fields["FDSTOREREMOVE"] == "1":
		kept := m.stored[:0]
		for _, d := range m.stored {
			if d.name == name {
				d.file.Close()
			} else {
				kept = append(kept, d)
			}
		}
		m.stored = kept
	}
	for _, fd := range fds { // of a barrier, too
		syscall.Close(fd)
	}
	m.messages = append(m.messages, strings.ReplaceAll(message, "\n", " "))
	close(m.changed)
	m.changed = make(chan struct{})
}

// Await waits until a message that begins so has arrived after the first skip
// messages, and returns how many there are up to it.
func (m *Manager) Await(prefix string, skip int) int {
	m.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		m.mu.Lock()
		changed := m.changed
		for i := skip; i < len(m.messages); i++ {
			if strings.HasPrefix(m.messages[i], prefix) {
				m.mu.Unlock()
				return i + 1
			}
		}
		m.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			m.t.Fatalf("the service manager was not told %q after message %d: %s", prefix, skip, m)
		}
	}
}

// Messages returns how many messages there were.
func (m *Manager) Messages() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.messages)
}

// Stored returns the names of what is stored.
func (m *Manager) Stored() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.stored {
		names = append(names, d.name)
	}
	return names
}

func (m *Manager) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("%d messages, %d stored: %q", len(m.messages), len(m.stored), m.messages)
}
