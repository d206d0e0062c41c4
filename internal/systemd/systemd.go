// Package systemd speaks with the service manager that started the process, if there
// is one: it tells it that the program is ready, stops or lives (sd_notify(3)), takes
// over the sockets that it holds (sd_listen_fds(3)), and lets it keep connections over
// a restart (its file descriptor store).
//
// Nothing here needs systemd's libraries, and whatever speaks the same protocols, such
// as a test, can be in its place.
package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Service is the connection to the service manager. The zero value is that of a
// process which none has started: it tells nobody and has no sockets. It is safe for
// concurrent use.
type Service struct {
	socket   string        // path or, beginning with "@", abstract name
	watchdog time.Duration // the longest silence; 0: not watched

	mu      sync.Mutex
	sockets []*Socket // that nobody has taken
	room    int       // descriptors that the store still takes
}

// firstDescriptor is where the inherited ones begin (SD_LISTEN_FDS_START).
const firstDescriptor = 3

// variables are all that the service manager tells its services.
var variables = []string{
	"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "FDSTORE",
}

// FromEnvironment takes over what the service manager gave to this process. It removes
// the variables that say so from the environment, and children do not inherit the
// sockets: what is for this process is not taken for theirs. A second call finds
// nothing any more.
func FromEnvironment() (*Service, error) {
	s, err := FromVariables(os.Getenv, firstDescriptor)
	for _, name := range variables {
		err = errors.Join(err, os.Unsetenv(name))
	}
	return s, err
}

// FromVariables is [FromEnvironment] with variables from elsewhere, and with the number
// of the first descriptor; it changes no environment.
func FromVariables(getenv func(string) string, first int) (*Service, error) {
	s := &Service{socket: getenv("NOTIFY_SOCKET")}
	mine := func(pid string) bool { return pid == strconv.Itoa(os.Getpid()) }
	if pid := getenv("WATCHDOG_PID"); pid == "" || mine(pid) {
		if n, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && n > 0 {
			s.watchdog = time.Duration(n) * time.Microsecond
		}
	}
	if n, err := strconv.Atoi(getenv("FDSTORE")); err == nil && s.socket != "" {
		s.room = max(0, n)
	}
	if !mine(getenv("LISTEN_PID")) {
		return s, nil
	}
	return s, s.inherit(getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"), first)
}

// Notify sends one message such as "READY=1".
func (s *Service) Notify(message string) error { return s.send(message) }

// notifyTimeout bounds how long a message waits for a service manager that is busy.
const notifyTimeout = 2 * time.Second

// send sends a message with descriptors.
func (s *Service) send(message string, descriptors ...int) error {
	if s.socket == "" {
		return nil
	}
	// net turns a leading "@" into the NUL byte of an abstract name.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	err = cmp.Or(conn.SetWriteDeadline(time.Now().Add(notifyTimeout)), write(conn, message, descriptors))
	if err = cmp.Or(err, conn.Close()); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// write is what WriteMsgUnix would be if it took connected sockets.
func write(conn *net.UnixConn, message string, descriptors []int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var rights []byte
	if len(descriptors) > 0 {
		rights = unix.UnixRights(descriptors...)
	}
	waitErr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte(message), rights, nil, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return cmp.Or(waitErr, err)
}

// Watch tells the watchdog until ctx ends that the program is alive, as long as
// alive says so.
func (s *Service) Watch(ctx context.Context, alive func() bool) {
	if s.socket == "" || s.watchdog == 0 {
		return
	}
	ticker := time.NewTicker(s.watchdog / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if alive() {
				s.Notify("WATCHDOG=1") // a failure shows as the watchdog's own message
			}
		}
	}
}
