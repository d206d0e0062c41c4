package app

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// systemd is the supervisor that started the process, if there is one that wants
// to be told: the protocol of sd_notify(3). The zero value tells nobody.
type systemd struct {
	socket   string        // path or, beginning with "@", abstract name
	watchdog time.Duration // the longest silence; 0: not watched
}

// newSystemd reads the environment that systemd sets.
func newSystemd(getenv func(string) string) systemd {
	s := systemd{socket: getenv("NOTIFY_SOCKET")}
	if pid := getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if n, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && n > 0 {
			s.watchdog = time.Duration(n) * time.Microsecond
		}
	}
	return s
}

// notify sends one message such as "READY=1".
func (s systemd) notify(message string) error {
	if s.socket == "" {
		return nil
	}
	// net turns a leading "@" into the NUL byte of an abstract name.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	_, err = conn.Write([]byte(message))
	if err = cmp.Or(err, conn.Close()); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// watch tells the watchdog until ctx ends that the program is alive, as long as
// alive says so.
func (s systemd) watch(ctx context.Context, alive func() bool) {
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
				s.notify("WATCHDOG=1") // a failure shows as the watchdog's own message
			}
		}
	}
}
