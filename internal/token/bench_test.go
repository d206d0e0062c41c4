package token

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

func BenchmarkLookup(b *testing.B) {
	s := openFake(b, newFake())
	known, _ := s.create(Request{Policies: []string{"default"}})
	for name, value := range map[string]string{"known": known, "unknown": Prefix + randomText(valueChars), "root": "root"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = s.Lookup(value)
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_, _ = s.Lookup(known)
			}
		})
	})
}

// BenchmarkRevoke revokes tokens one by one from eight goroutines, each write synced
// to the disk. Run it with -benchtime=10000x.
func BenchmarkRevoke(b *testing.B) {
	s := openReal(b, openJournal(b, b.TempDir()))
	ids := make(chan ID, b.N)
	eight(func() {
		for len(ids) < b.N {
			_, e, _, err := s.Create(context.Background(), Request{Policies: []string{"default"}})
			if err != nil {
				b.Error(err)
				return
			}
			select {
			case ids <- e.ID:
			default:
			}
		}
	})
	close(ids)
	b.ResetTimer()
	eight(func() {
		for id := range ids {
			if err := s.Revoke(context.Background(), id); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "revocations/s")
}

func eight(do func()) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(do)
	}
	wg.Wait()
}

func BenchmarkCreate(b *testing.B) {
	s := openReal(b, openJournal(b, b.TempDir()))
	for b.Loop() {
		if _, _, _, err := s.Create(b.Context(), Request{Policies: []string{"default"}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen opens a store over 100,000 tokens.
func BenchmarkOpen(b *testing.B) {
	const tokens = 100_000
	n := startNATS(b)
	kv := n.bucket(time.Hour)
	h := hasher{key: testKey}
	now := time.Now().UTC()
	pending := make(chan int, 64)
	go func() {
		defer close(pending)
		for i := range tokens {
			pending <- i
		}
	}()
	eight(func() {
		for i := range pending {
			v := content{by: "somebody", entry: &Entry{
				ID: h.id(fmt.Sprint(i)), Accessor: randomText(accessorChars), Created: now, TTL: time.Hour, Expires: now.Add(time.Hour), Renewable: true,
				Policies: []string{"default", fmt.Sprint("team-", i%50)}, DisplayName: "token-worker", Path: "auth/token/create",
				Meta: map[string]string{"team": fmt.Sprint(i % 50)},
			}}
			raw, err := v.encode(now)
			if err != nil {
				b.Error(err)
			}
			if _, err := kv.Put(context.Background(), v.entry.ID.String(), raw); err != nil {
				b.Error(err)
			}
		}
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		s, err := Open(b.Context(), Config{Bucket: kv, Key: testKey, Changed: func([]Change) {}})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		want(b, "tokens", s.Stats().Tokens, tokens)
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		_ = s.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tokens, "heap-bytes/token")
}
