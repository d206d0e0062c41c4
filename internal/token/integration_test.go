package token

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/journal"
)

func openJournal(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	return j
}

func openReal(t testing.TB, j *journal.Journal, adjust ...func(*Config)) *testStore {
	t.Helper()
	kv, err := j.State(t.Context(), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	s := &testStore{t: t, log: newLog()}
	c := Config{Bucket: kv, Key: testKey, RootToken: "root", Changed: s.log.changed, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range adjust {
		f(&c)
	}
	if s.Store, err = Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestTwoNodes(t *testing.T) {
	t.Parallel()
	j := openJournal(t, t.TempDir())
	one, two := openReal(t, j), openReal(t, j)
	var seen, ended []time.Duration
	for range 30 {
		begin := time.Now()
		value, e := one.create(Request{Policies: []string{"p"}, TTL: time.Hour})
		eventually(t, "the other node has it", func() bool { runtime.Gosched(); return two.alive(e.ID) })
		seen = append(seen, time.Since(begin))
		if found, err := two.Lookup(value); err != nil || found.Accessor != e.Accessor {
			t.Fatal(found, err)
		}
		begin = time.Now()
		wantErr(t, "revoke", two.Revoke(t.Context(), e.ID), nil)
		c := one.log.ends(t, e.ID)[e.ID]
		ended = append(ended, time.Since(begin))
		if c.End != Revoked || c.Local || one.alive(e.ID) {
			t.Errorf("on the other node: %+v", c)
		}
	}
	slices.Sort(seen)
	slices.Sort(ended)
	t.Logf("created until seen by the other: median %v, most %v; revoked until told there: median %v, most %v", seen[15], seen[29], ended[15], ended[29])
	if ended[29] > time.Second {
		t.Errorf("a revocation took %v", ended[29])
	}
}

func TestTwoNodesShareUses(t *testing.T) {
	t.Parallel()
	j := openJournal(t, t.TempDir())
	one, two := openReal(t, j), openReal(t, j)
	_, e := one.create(Request{NumUses: 100})
	eventually(t, "the other node has it", func() bool { return two.alive(e.ID) })
	var used, refused atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				switch err := []*testStore{one, two}[i%2].Use(t.Context(), e.ID); {
				case err == nil:
					used.Add(1)
				case errors.Is(err, ErrNotFound):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want(t, "uses", used.Load(), 100)
	want(t, "refusals", refused.Load(), 60)
	want(t, "end", two.log.ends(t, e.ID)[e.ID].End, UsedUp)
}

func TestTwoNodesExpire(t *testing.T) {
	t.Parallel()
	j := openJournal(t, t.TempDir())
	one, two := openReal(t, j), openReal(t, j)
	var ids []ID
	for i := range 10 {
		_, e := one.create(Request{TTL: time.Second + time.Duration(i)*20*time.Millisecond})
		ids = append(ids, e.ID)
	}
	a, z := one.log.ends(t, ids...), two.log.ends(t, ids...)
	now := time.Now()
	twice := 0
	for _, id := range ids {
		if a[id].End != Expired || z[id].End != Expired || !a[id].Local && !z[id].Local {
			t.Errorf("%v and %v, local %t and %t", a[id].End, z[id].End, a[id].Local, z[id].Local)
		}
		if a[id].Local && z[id].Local {
			twice++ // as may be when the disk is slower than claimPatience
		}
	}
	late := now.Sub(a[ids[9]].Last.Expires)
	t.Logf("the last was told %v late at both; %d were told twice as local", late, twice)
	if late > 200*time.Millisecond {
		t.Errorf("the last ended %v late", late)
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir)
	s := openReal(t, j)
	value, e := s.create(Request{Policies: []string{"p"}})
	child, _ := s.create(Request{Parent: e.ID})
	revoked, r := s.create(Request{})
	wantErr(t, "revoke", s.Revoke(t.Context(), r.ID), nil)
	used, u := s.create(Request{NumUses: 2})
	wantErr(t, "use", s.Use(t.Context(), u.ID), nil)
	root, _ := s.Lookup("root")
	wantErr(t, "revoke the root token", s.Revoke(t.Context(), root.ID), nil)
	// The journal goes first, which is not the order in which it should be done.
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _, _, err := s.Create(t.Context(), Request{})
	wantErr(t, "create without a journal", err, ErrUnavailable)
	_ = s.Close()

	s = openReal(t, openJournal(t, dir))
	for v, alive := range map[string]bool{value: true, child: true, used: true, revoked: false, "root": false} {
		if _, err := s.Lookup(v); (err == nil) != alive {
			t.Errorf("after a restart: %v, want alive %t", err, alive)
		}
	}
	wantErr(t, "the last use", s.Use(t.Context(), u.ID), nil)
	wantErr(t, "one more", s.Use(t.Context(), u.ID), ErrNotFound)
	wantErr(t, "revoke", s.Revoke(t.Context(), e.ID), nil)
	if _, err := s.Lookup(child); !errors.Is(err, ErrNotFound) {
		t.Error("child:", err)
	}
}

// TestNothingForThieves looks for tokens in all that is on the disk: as they are, and
// as whatever can be computed of them without the key.
func TestNothingForThieves(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir)
	s := openReal(t, j, func(c *Config) { c.RootToken = "the-root-token-of-this-test" })
	random, e := s.create(Request{DisplayName: "findable"})
	own, _ := s.create(Request{Value: "a-token-of-my-own-choice-7351", NumUses: 2, Parent: e.ID})
	root, err := s.Lookup("the-root-token-of-this-test")
	if err != nil {
		t.Fatal(err)
	}
	ofRoot, o := s.create(Request{Parent: root.ID})
	if _, _, err := s.Renew(t.Context(), e.ID, time.Hour); err != nil {
		t.Fatal(err)
	}
	scan := func() {
		t.Helper()
		var all []byte
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			all = append(all, path...)
			b, err := os.ReadFile(path)
			all = append(all, b...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(all, []byte("findable")) || !bytes.Contains(all, []byte(e.ID.String())) {
			t.Fatal("the search finds nothing at all")
		}
		for _, value := range []string{random, strings.TrimPrefix(random, Prefix), own, ofRoot, "the-root-token-of-this-test"} {
			v := []byte(value)
			h1, h256, h5 := sha1.Sum(v), sha256.Sum256(v), md5.Sum(v)
			for name, secret := range map[string][]byte{"value": v, "half": v[:len(v)/2+2], "MD5": h5[:], "SHA-1": h1[:], "SHA-256": h256[:]} {
				for form, text := range map[string][]byte{
					"raw": secret, "hex": []byte(hex.EncodeToString(secret)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(secret))),
					"base64": []byte(base64.RawStdEncoding.EncodeToString(secret)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(secret)),
				} {
					if bytes.Contains(all, text) {
						t.Errorf("%s of %.8s... is on the disk (%s)", name, value, form)
					}
				}
			}
		}
		if bytes.Contains(all, testKey) {
			t.Error("the key is on the disk")
		}
	}
	scan()
	wantErr(t, "revoke", s.Revoke(t.Context(), o.ID), nil)
	wantErr(t, "revoke", s.Revoke(t.Context(), root.ID), nil)
	scan()
}

// natsServer is a server without a listener that can be restarted under a
// connection, as the journal does it.
type natsServer struct {
	t       testing.TB
	dir     string
	current atomic.Pointer[server.Server]
	js      jetstream.JetStream
}

func startNATS(t testing.TB) *natsServer {
	t.Helper()
	n := &natsServer{t: t, dir: t.TempDir()}
	n.start()
	nc, err := nats.Connect("", nats.InProcessServer(n), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		n.stop()
	})
	if n.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *natsServer) start() {
	n.t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: n.dir})
	if err != nil {
		n.t.Fatal(err)
	}
	s.Start()
	for !s.ReadyForConnections(10 * time.Second) {
		n.t.Fatal("the server does not start")
	}
	n.current.Store(s)
}

func (n *natsServer) stop() {
	if s := n.current.Swap(nil); s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// InProcessConn implements nats.InProcessConnProvider.
func (n *natsServer) InProcessConn() (net.Conn, error) {
	s := n.current.Load()
	if s == nil {
		return nil, errors.New("down")
	}
	return s.InProcessConn()
}

func (n *natsServer) bucket(limit time.Duration) jetstream.KeyValue {
	n.t.Helper()
	kv, err := n.js.CreateOrUpdateKeyValue(n.t.Context(), jetstream.KeyValueConfig{Bucket: "tokens", History: 1, LimitMarkerTTL: limit})
	if err != nil {
		n.t.Fatal(err)
	}
	return kv
}

// TestServerRestarts takes the server away under two stores.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	b := &kvBucket{kv: n.bucket(time.Hour), markers: time.Hour}
	one, two := openFake(t, b), openFake(t, b)
	for round := range 3 {
		value, e := one.create(Request{})
		_, r := one.create(Request{})
		eventually(t, "the other store has both", func() bool { return two.alive(r.ID) })
		n.stop()
		if _, err := one.Lookup(value); err != nil {
			t.Error("while the server is away:", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		wantErr(t, "revoke while the server is away", one.Revoke(ctx, r.ID), ErrUnavailable)
		cancel()
		n.start()
		eventually(t, "one is revoked", func() bool { return !one.alive(r.ID) || one.Revoke(t.Context(), r.ID) == nil })
		begin := time.Now()
		two.log.ends(t, r.ID)
		t.Logf("round %d: told to the other %v after the revocation", round, time.Since(begin))
		_, later := two.create(Request{})
		eventually(t, "a new one is seen", func() bool { return one.alive(later.ID) })
		eventually(t, "both are healthy", func() bool { return one.Health() == nil && two.Health() == nil })
		if !one.alive(e.ID) || !two.alive(e.ID) {
			t.Error("a token was lost")
		}
	}
}

// TestNothingIsLeft has many short lives, after which the bucket is empty: the
// server has removed its delete markers.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	kv := n.bucket(time.Second)
	b := &kvBucket{kv: kv, markers: time.Second}
	s := openFake(t, b)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 30 {
				_, e, _, err := s.Create(t.Context(), Request{TTL: 300 * time.Millisecond, NumUses: 1})
				if err != nil {
					t.Error(err)
					return
				}
				switch i % 3 {
				case 0:
					_ = s.Revoke(t.Context(), e.ID)
				case 1:
					_ = s.Use(t.Context(), e.ID)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "all are removed", func() bool { return s.Stats() == Stats{Tokens: 1} })
	n.stop() // the server remembers over a restart which markers are to go
	n.start()
	eventually(t, "the bucket is empty", func() bool {
		status, err := kv.Status(t.Context())
		return err == nil && status.Values() == 0
	})
	eventually(t, "the store is healthy", func() bool { return s.Health() == nil })
}

// TestOpenChoosesMarkers checks that Open knows whether delete markers go away.
func TestOpenChoosesMarkers(t *testing.T) {
	n := startNATS(t)
	for limit, markers := range map[time.Duration]time.Duration{0: 0, time.Hour: markerTTL} {
		kv, err := n.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: fmt.Sprintf("b%d", limit), LimitMarkerTTL: limit})
		if err != nil {
			t.Fatal(err)
		}
		b, err := openBucket(t.Context(), kv)
		if err != nil || b.markers != markers {
			t.Errorf("%v, %v", b, err)
		}
	}
	s := openReal(t, openJournal(t, t.TempDir()))
	want(t, "markers in a bucket of the journal", s.bucket.(*kvBucket).markers, markerTTL)
}
