package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestCacheRemembers(t *testing.T) {
	c := newCache()
	const n = 1000
	key := func(i int) (string, string, string) { return "ns/", fmt.Sprint("secret/data/", i), "kv-v2/data-write" }
	// A few rounds, since the cache grows as it is needed.
	for range 4 {
		for i := range n {
			ns, path, typ := key(i)
			h, ok := c.hash(ns, path, typ)
			if !ok {
				t.Fatal("a short key is not remembered")
			}
			if _, known := c.get(h, ns, path, typ); !known {
				c.put(h, ns, path, typ, i%3 == 0)
			}
		}
	}
	found := 0
	for i := range n {
		ns, path, typ := key(i)
		h, _ := c.hash(ns, path, typ)
		may, known := c.get(h, ns, path, typ)
		if known {
			found++
			if may != (i%3 == 0) {
				t.Fatalf("%s: remembered %v", path, may)
			}
		}
	}
	if found < n*9/10 {
		t.Errorf("only %d of %d decisions are remembered", found, n)
	}
	// Different keys are told apart even if their hashes are equal.
	for _, k := range [][3]string{{"nt/", "secret/data/0", "kv-v2/data-write"}, {"ns/", "secret/data/1", "kv-v2/data-write"}, {"ns/", "secret/data/0", "kv-v2/data-writf"},
		{"", "ns/secret/data/0", "kv-v2/data-write"}, {"ns/", "secret/data/0kv", "-v2/data-write"}, {"ns/s", "ecret/data/0", "kv-v2/data-write"}} {
		own, _ := c.hash(key(0))
		if _, known := c.get(own, k[0], k[1], k[2]); known {
			t.Errorf("%q is taken for another key", k)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	for i := range 20_000 {
		path := fmt.Sprint(i, strings.Repeat("x", i%900))
		if h, ok := c.hash("", path, "t"); ok {
			c.put(h, "", path, "t", true)
		}
	}
	g := c.generation.Load()
	if len(g.keys) > cacheBytes || len(g.slots) > cacheBytes/bytesPerSlot {
		t.Errorf("%d bytes of keys, %d slots", len(g.keys), len(g.slots))
	}
	if _, ok := c.hash("", strings.Repeat("x", cacheKeyBytes), ""); ok {
		t.Error("a long key is remembered")
	}
	// The longest possible key fits the bits of a slot.
	ns := strings.Repeat("n", cacheKeyBytes-3)
	h, _ := c.hash(ns, "p", "t")
	c.put(h, ns, "p", "t", true)
	if may, known := c.get(h, ns, "p", "t"); !may || !known {
		t.Error("the longest key is not remembered")
	}
	a := acl(t, `path "*" { capabilities = ["subscribe"] subscribe_event_types = ["*"] }`)
	if long := strings.Repeat("x", 1<<20); !a.MaySee("", long, "t") || a.MaySee("", long, "") != a.Decide("", long, "") {
		t.Error("a long path is decided wrongly")
	}
}

func TestCacheAllocatesNothing(t *testing.T) {
	a, paths := distributions[0].acl(t, 100)
	see := func() { a.MaySee("ns1/", paths[0], "kv-v2/data-write") }
	see()
	if n := testing.AllocsPerRun(100, see); n != 0 {
		t.Errorf("a remembered decision allocates %v times", n)
	}
}
