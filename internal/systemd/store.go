package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// ErrNoStore says that the service manager keeps no descriptors, or no further ones:
// FileDescriptorStoreMax= of the unit says how many.
var ErrNoStore = errors.New("the service manager keeps no more descriptors")

// Store lets the service manager hold a connection beside this process. When the
// process ends, however it ends, the connection stays open, and the one that is started
// in its place finds it under its name with [Service.TakeStored]. The name must be
// unique, of at most 255 printable ASCII characters without ":". A connection that is closed must be removed
// first. The error wraps [ErrNoStore] when there is no room.
func (s *Service) Store(name string, conn syscall.Conn) error {
	if len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
		return fmt.Errorf("store a descriptor: %.300q is no name for it", name)
	}
	if !s.reserve() {
		return ErrNoStore
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		// FDPOLL=0: what a peer sent before it went away is still to be read.
		controlErr := raw.Control(func(fd uintptr) {
			err = s.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, int(fd))
		})
		err = errors.Join(err, controlErr)
	}
	if err != nil {
		s.release()
		return fmt.Errorf("store a descriptor: %w", err)
	}
	return nil
}

// Remove takes the descriptor of that name out of the store.
func (s *Service) Remove(name string) error {
	if err := s.send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		return err
	}
	s.release()
	return nil
}

// HasStore says whether the service manager keeps descriptors at all.
func (s *Service) HasStore() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.room > 0
}

func (s *Service) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room <= 0 {
		return false
	}
	s.room--
	return true
}

func (s *Service) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room++
}

// Barrier returns when the service manager has read all that it was sent before. After
// it a process may end without what it sent being lost.
func (s *Service) Barrier(ctx context.Context) error {
	if s.socket == "" {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	defer r.Close()
	// The service manager closes the other end when it comes to this message.
	err = s.send("BARRIER=1", int(w.Fd()))
	w.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for systemd: %w", errors.Join(err, context.Cause(ctx)))
	}
	return nil
}
