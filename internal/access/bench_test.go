package access

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

// A usual large installation: sets of policies, rules in each, and those who are
// connected.
const (
	benchSets      = 50
	benchRules     = 20
	benchFollowers = 10_000
)

func benchText(set, round int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# %d\npath \"sys/events/subscribe/*\" { capabilities = [\"read\"] }\n", round)
	for rule := range benchRules {
		fmt.Fprintf(&text, "path \"secret/data/team-%d/app-%d/*\" { capabilities = [\"list\", \"subscribe\"] subscribe_event_types = [\"kv*\"] }\n", set, rule)
	}
	return text.String()
}

// crowd makes the sets and tokens, and has each followed as a subscription does. told
// counts what followers were told.
func crowd(b *testing.B, a *Authority, told *atomic.Int64) (entries []*token.Entry) {
	for set := range benchSets {
		put(b, a, "", fmt.Sprintf("team-%d", set), benchText(set, 0))
	}
	for i := range benchFollowers {
		_, e, _, err := a.tokens.Create(b.Context(), token.Request{Policies: []string{"default", fmt.Sprintf("team-%d", i%benchSets)}})
		if err != nil {
			b.Fatal(err)
		}
		id, err := a.Identify(e)
		if err != nil {
			b.Fatal(err)
		}
		stop := a.Follow(id, func() {
			if !id.MayConnect("", "kv*") {
				b.Error("the right to connect is gone")
			}
			told.Add(1)
		}, func(Ended) { told.Add(1) })
		b.Cleanup(stop)
		entries = append(entries, e)
	}
	return entries
}

// BenchmarkPolicyChange changes a policy that one set in fifty has, and one that all
// have, with 10,000 followers. compile-ms is how long it takes until the new rights
// are in effect, follow-ms from then until the last follower has checked its own, and
// store-ms what it takes to store a policy that nobody has.
func BenchmarkPolicyChange(b *testing.B) {
	var effect time.Time
	a := open(b, func(c *Config) {
		c.Changed = func(any) {
			if effect.IsZero() {
				effect = time.Now()
			}
		}
	})
	var told atomic.Int64
	crowd(b, a, &told)
	for _, tt := range []struct {
		name, policy string
		followers    int64
		text         func(round int) string
	}{
		{"one set", "team-7", benchFollowers / benchSets, func(round int) string { return benchText(7, round) }},
		{"all sets", "default", benchFollowers, func(round int) string { return fmt.Sprintf("%s# %d\n", DefaultPolicy, round) }},
	} {
		b.Run(tt.name, func(b *testing.B) {
			var store, compile, follow time.Duration
			before := told.Load()
			round := 0
			for b.Loop() {
				round++
				start := time.Now()
				put(b, a, "", "nobody", fmt.Sprintf("# %s %d %d", tt.name, round, start.UnixNano()))
				stored := time.Now()
				effect = time.Time{}
				put(b, a, "", tt.policy, tt.text(int(start.UnixNano())))
				store += stored.Sub(start)
				compile += effect.Sub(stored)
				follow += time.Since(effect)
			}
			if n := told.Load() - before; n != tt.followers*int64(round) {
				b.Errorf("%d followers were told, want %d", n, tt.followers*int64(round))
			}
			ms := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(round) }
			b.ReportMetric(ms(store), "store-ms")
			b.ReportMetric(ms(compile-store), "compile-ms")
			b.ReportMetric(ms(follow), "follow-ms")
		})
	}
}

// BenchmarkRevoke ends tokens one by one, each with a follower.
func BenchmarkRevoke(b *testing.B) {
	a := open(b)
	var told atomic.Int64
	entries := crowd(b, a, &told)
	revoked := int64(0)
	for b.Loop() {
		if len(entries) == 0 {
			b.StopTimer()
			entries = crowd(b, a, &told)
			b.StartTimer()
		}
		if err := a.Tokens().Revoke(b.Context(), entries[0].ID); err != nil {
			b.Fatal(err)
		}
		entries = entries[1:]
		revoked++
	}
	if told.Load() != revoked {
		b.Errorf("%d followers were told of %d ends", told.Load(), revoked)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	a := open(b)
	put(b, a, "", "team-0", benchText(0, 0))
	value, _ := issue(b, a, with("team-0"))
	kept := authenticate(b, a, value)
	b.Run("issued here", func(b *testing.B) {
		b.ReportAllocs()
		r := request(value)
		for b.Loop() {
			if _, err := a.Authenticate(r, ""); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unknown", func(b *testing.B) {
		b.ReportAllocs()
		r := request(value + "x")
		for b.Loop() {
			if _, err := a.Authenticate(r, ""); err == nil {
				b.Fatal("known")
			}
		}
	})
	b.Run("MaySee", func(b *testing.B) {
		b.ReportAllocs()
		e := eventAt("", "secret/data/team-0/app-3/x", "kv-v2/data-write")
		for b.Loop() {
			if !kept.MaySee(e) {
				b.Fatal("not seen")
			}
		}
	})
	b.Run("Allows", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !kept.Allows(policy.Read, "auth/token/lookup-self", nil) {
				b.Fatal("not allowed")
			}
		}
	})
}
