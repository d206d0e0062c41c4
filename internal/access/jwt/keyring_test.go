package jwt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// library is where the keys of a keyring under test come from.
type library struct {
	loads int
	took  time.Duration // how long a load takes
	err   error
	ids   []string
}

func (l *library) load(ctx context.Context) ([]key, error) {
	l.loads++
	select {
	case <-time.After(l.took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.err != nil {
		return nil, l.err
	}
	keys := make([]key, 0)
	for _, id := range l.ids {
		keys = append(keys, key{id: id})
	}
	return keys, nil
}

func (l *library) keyring() *keyring {
	r := &keyring{
		load: l.load, timeout: 5 * time.Second, refresh: 5 * time.Minute, patience: time.Hour, interval: minInterval,
		log: slog.New(slog.DiscardHandler),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func TestKeyring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &library{ids: []string{"1"}, took: time.Second}
		r := l.keyring()
		defer r.close()
		// check asks for keys and compares what comes, how many loads there have
		// been by then, and how long it took.
		check := func(what string, get func(context.Context) ([]key, error), want string, loads int, took time.Duration) {
			t.Helper()
			start := time.Now()
			keys, err := get(t.Context())
			got := ""
			for _, k := range keys {
				got += k.id
			}
			if keys == nil {
				got = "none"
			}
			if err != nil {
				got += " with error"
			}
			spent := time.Since(start)
			synctest.Wait() // a load in the background has begun
			if got != want || l.loads != loads || spent != took {
				t.Errorf("%s: got %s, %d loads, in %s; want %s, %d, %s (%v)", what, got, l.loads, spent, want, loads, took, err)
			}
		}
		check("first", r.current, "1", 1, time.Second)
		check("known", r.current, "1", 1, 0)
		check("just loaded", r.newest, "1", 1, 0)
		l.ids = []string{"2"}
		time.Sleep(minInterval)
		check("still known", r.current, "1", 1, 0)
		check("newest", r.newest, "2", 2, time.Second)
		time.Sleep(5 * time.Minute)
		check("old", r.current, "2", 3, time.Second)

		// From now on the issuer does not answer.
		l.took = time.Hour
		time.Sleep(5 * time.Minute)
		check("first after the last answer", r.current, "2", 4, 5*time.Second)
		for range 3 {
			check("further ones do not wait", r.current, "2", 4, 0)
		}
		check("newest cannot be had", r.newest, "2 with error", 4, 0)
		time.Sleep(minInterval)
		check("another load in the background", r.current, "2", 5, 0)
		check("who needs the newest waits for it", r.newest, "2 with error", 5, 5*time.Second)
		time.Sleep(time.Hour)
		check("too old", r.current, "none with error", 6, 5*time.Second)
		check("too old, at once", r.current, "none with error", 6, 0)

		l.took, l.ids = 0, []string{"3"}
		time.Sleep(minInterval)
		check("back", r.current, "3", 7, 0)
		l.took = 4 * time.Second
		time.Sleep(minInterval)
		r.interval = time.Second // shorter than the load takes
		check("slow", r.newest, "3", 8, 4*time.Second)
		l.err = errors.New("broken")
		time.Sleep(time.Minute)
		check("broken", r.newest, "3 with error", 9, 4*time.Second)
	})
}

// TestKeyringBound is the promise of Config.KeyRefresh: a key is not given out any
// more when it was removed KeyRefresh ago, however often or seldom keys are needed.
func TestKeyringBound(t *testing.T) {
	for _, pause := range []time.Duration{time.Second, 7 * time.Second, time.Minute, 5 * time.Minute, 50 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			l := &library{ids: []string{"1"}}
			r := l.keyring()
			defer r.close()
			if _, err := r.current(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(pause / 2)
			removed := time.Now()
			l.ids = nil
			for range 1000 {
				time.Sleep(pause)
				keys, err := r.current(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if since := time.Since(removed); len(keys) > 0 && since > r.refresh {
					t.Fatalf("with a pause of %s, given out %s after its removal", pause, since)
				} else if len(keys) == 0 {
					return
				}
			}
			t.Error("never noticed")
		})
	}
}

func TestKeyringLoadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &library{ids: []string{"1"}, took: time.Second}
		r := l.keyring()
		defer r.close()
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				get := r.current
				if i%2 == 0 {
					get = r.newest
				}
				if keys, err := get(t.Context()); len(keys) != 1 || err != nil {
					t.Errorf("got %v, %v", keys, err)
				}
			})
		}
		// Who goes away does not take the load along.
		ctx, cancel := context.WithCancel(t.Context())
		group.Go(func() {
			if _, err := r.current(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		group.Wait()
		if l.loads != 1 {
			t.Errorf("%d loads", l.loads)
		}
	})
}

func TestKeyringClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &library{took: time.Hour}
		r := l.keyring()
		r.timeout = time.Hour
		done := make(chan error)
		go func() {
			_, err := r.current(t.Context())
			done <- err
		}()
		synctest.Wait()
		r.close()
		if err := <-done; !errors.Is(err, errClosed) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := r.newest(t.Context()); !errors.Is(err, errClosed) || l.loads != 1 {
			t.Errorf("got %v after %d loads", err, l.loads)
		}
		r.close()
	})
}

// TestKeyringRefreshKeepsUp: in constant use keys are loaded once per refresh.
func TestKeyringRefreshKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &library{ids: []string{"1"}}
		r := l.keyring()
		defer r.close()
		for range 3600 {
			if _, err := r.current(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if want := 12; l.loads < want-1 || l.loads > want {
			t.Errorf("%d loads in an hour, want about %d", l.loads, want)
		}
		// When it fails, once per interval.
		l.loads, l.err = 0, fmt.Errorf("away")
		for range 3000 {
			if _, err := r.current(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if l.loads > 300 || l.loads < 250 {
			t.Errorf("%d loads in 50 minutes", l.loads)
		}
	})
}
