package derivation

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// This file is a small model of a server with kv mounts: it carries out random
// calls of several callers at once, writes the audit lines as a device does, and
// says which events kv's plugin would send. Its rules are those of kv 0.25.

// run says what a model run is like.
type run struct {
	seed      uint64
	callers   int
	calls     int
	keys      int  // per mount
	hashed    bool // numbers in requests are hashed, as Vault does
	textTimes bool // timestamps stay plain, as OpenBao does
	casRate   int  // percent of the writes with check-and-set
	expiry    bool // some keys expire
	born      bool // the creation of the mounts is in the log
	text      int  // percent of the version lists sent as texts
}

type modelVersion struct {
	deleted   time.Time // zero: never
	destroyed bool
}

type modelKey struct {
	current, oldest, max uint64
	versions             map[uint64]*modelVersion
	ttl                  time.Duration
}

type modelMount struct {
	point    string
	accessor string
	ns       string
	version  int
	max      uint64
	keys     map[string]*modelKey
}

// call is one request on its way through the model.
type call struct {
	looked                  time.Time // whether the key exists
	asked, sent, done, told time.Time // formatted, line written, carried out, formatted again
	written                 time.Time // of the response line
	id                      string
	mount                   *modelMount
	operation, path         string // path in the mount
	request                 map[string]any
	key                     string
	wrap                    bool
	fail                    string
	carryOut                func(now time.Time, c *call)
	response                map[string]any // members of "response" beside mount_*
	err                     string
}

type model struct {
	run
	rnd    *rand.Rand
	mounts []*modelMount
	want   []truth
	salt   []byte
}

type line struct {
	at   time.Time
	text []byte
}

func newModel(r run) *model {
	m := &model{run: r, rnd: rand.New(rand.NewPCG(r.seed, 7)), salt: fmt.Appendf(nil, "salt-%d", r.seed)}
	for i, x := range []struct {
		point, ns string
		version   int
	}{{"secret/", "", 2}, {"team-a/kv/", "", 2}, {"ns1/data/metadata/", "ns1/", 2}, {"old/", "", 1}} {
		m.mounts = append(m.mounts, &modelMount{point: x.point, ns: x.ns, accessor: fmt.Sprintf("kv_%08x", i+1),
			version: x.version, keys: make(map[string]*modelKey)})
	}
	return m
}

func (m *model) hash(s string) string {
	h := hmac.New(sha256.New, m.salt)
	h.Write([]byte(s))
	return "hmac-sha256:" + hex.EncodeToString(h.Sum(nil))
}

// hashAll hashes what a device hashes.
func (m *model) hashAll(v any, request bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = m.hashAll(x, request)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = m.hashAll(x, request)
		}
		return out
	case string:
		return m.hash(v)
	case time.Time:
		s := v.Format(time.RFC3339Nano)
		if m.textTimes {
			return s
		}
		return m.hash(s)
	case int, int64, uint64:
		if request && m.hashed {
			return m.hash(fmt.Sprint(v))
		}
	}
	return v
}

// play runs the model and returns the log.
func (m *model) play() [][]byte {
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	var lines []line
	free := make([]time.Time, m.callers)
	for i := range free {
		free[i] = start.Add(time.Second)
	}
	micros := func(n int) time.Duration { return time.Duration(1+m.rnd.IntN(n)) * time.Microsecond }
	if m.born {
		for i, mt := range m.mounts {
			at := start.Add(time.Duration(i) * time.Millisecond)
			lines = append(lines, m.birth(mt, at)...)
		}
	}
	var calls []*call
	for n := range m.calls {
		w := n % m.callers
		c := m.pick()
		if n < len(m.mounts) { // the script looks at each mount first
			c = &call{mount: m.mounts[n], operation: "read", path: "config"}
			c.carryOut = m.readConfig
		}
		c.id = fmt.Sprintf("%08x-0000-4000-8000-%012x", n, m.seed)
		c.asked = free[w].Add(micros(2000)) // the client's part of a call takes longer than the server's
		c.sent = c.asked.Add(micros(60))
		c.done = c.sent.Add(micros(500))
		c.told = c.done.Add(micros(300))
		c.written = c.told.Add(micros(60))
		free[w] = c.written
		if n < len(m.mounts) {
			for i := range free {
				free[i] = c.written
			}
		}
		calls = append(calls, c)
	}
	// The server looks whether a key exists just before it writes the request line.
	order := slices.Clone(calls)
	slices.SortStableFunc(order, func(a, b *call) int { return a.done.Compare(b.done) })
	asks := slices.Clone(calls)
	for _, c := range asks {
		c.looked = c.asked.Add(-micros(200))
	}
	slices.SortStableFunc(asks, func(a, b *call) int { return a.looked.Compare(b.looked) })
	for _, c := range order {
		for ; len(asks) > 0 && !asks[0].looked.After(c.done); asks = asks[1:] {
			a := asks[0]
			if verb, _ := split(a.path); a.operation == "update" && (a.mount.version == 1 || verb == "data" || verb == "metadata") {
				name := a.key
				if a.mount.version == 1 {
					name = a.path
				}
				if a.mount.keys[name] == nil {
					a.operation = "create"
				}
			}
		}
		if c.fail == "" {
			c.carryOut(c.done, c)
		} else {
			c.err = c.fail
		}
		lines = append(lines, line{c.sent, m.entry(c, false)}, line{c.written, m.entry(c, true)})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	out := make([][]byte, len(lines))
	for i := range lines {
		out[i] = lines[i].text
	}
	return out
}

func (m *model) birth(mt *modelMount, at time.Time) []line {
	option := m.hash(strconv.Itoa(mt.version))
	request := map[string]any{
		"id": fmt.Sprintf("b%07x-0000-4000-8000-%012x", at.Nanosecond(), m.seed), "operation": "update",
		"mount_type": "system", "mount_point": mt.ns + "sys/", "path": "sys/mounts/" + mt.point[len(mt.ns):len(mt.point)-1],
		"client_token": m.hash("token"),
		"namespace":    namespace(mt.ns),
		"data":         map[string]any{"type": m.hash("kv"), "options": map[string]any{"version": option}},
	}
	var lines []line
	for i, kind := range []string{"request", "response"} {
		e := map[string]any{"time": at.Add(time.Duration(i) * 100 * time.Microsecond).Format(time.RFC3339Nano), "type": kind,
			"auth": map[string]any{"client_token": m.hash("token")}, "request": request}
		if i == 1 {
			e["response"] = map[string]any{"mount_type": "system"}
		}
		b, _ := json.Marshal(e)
		lines = append(lines, line{at.Add(time.Duration(i) * 100 * time.Microsecond), b})
	}
	return lines
}

func namespace(ns string) map[string]any {
	if ns == "" {
		return map[string]any{"id": "root"}
	}
	return map[string]any{"id": "x1", "path": ns}
}

func (m *model) entry(c *call, response bool) []byte {
	request := map[string]any{
		"id": c.id, "operation": c.operation, "mount_point": c.mount.point, "mount_type": "kv",
		"mount_class": "secret", "mount_running_version": "v0.25.0+builtin", "client_token": m.hash("token"),
		"namespace": namespace(c.mount.ns), "path": c.mount.point[len(c.mount.ns):] + c.path, "remote_address": "127.0.0.1",
	}
	if response || m.rnd.IntN(2) == 0 {
		request["mount_accessor"] = c.mount.accessor
	}
	if c.request != nil {
		request["data"] = m.hashAll(c.request, true)
	}
	e := map[string]any{"time": c.asked.Format(time.RFC3339Nano), "type": "request",
		"auth": map[string]any{"client_token": m.hash("token"), "accessor": m.hash("accessor"), "display_name": "token"}, "request": request}
	if c.fail == "permission denied" {
		e["error"] = c.fail
		delete(request, "mount_accessor")
	}
	if response {
		e["time"], e["type"] = c.told.Format(time.RFC3339Nano), "response"
		r := map[string]any{"mount_type": "kv", "mount_point": c.mount.point, "mount_accessor": c.mount.accessor}
		for k, v := range c.response {
			r[k] = v
			if k == "data" {
				r[k] = m.hashAll(v, false)
			}
		}
		if c.err != "" {
			e["error"] = "1 error occurred:\n\t* " + c.err + "\n\n"
			r["data"] = map[string]any{"error": m.hash(c.err)}
		}
		e["response"] = r
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return b
}

// event notes that the plugin sent one.
func (m *model) event(c *call, kind string, metadata map[string]string) {
	base := c.mount.point[len(c.mount.ns):]
	metadata["path"] = base + c.path
	metadata["modified"] = "true"
	metadata["operation"] = kind
	if d, ok := metadata["data_path"]; ok {
		metadata["data_path"] = base + d
	}
	m.want = append(m.want, truth{c.id, fmt.Sprintf("kv-v%d/%s", c.mount.version, kind), c.mount.ns, metadata, ""})
}

func text(n uint64) string { return strconv.FormatUint(n, 10) }

func (m *model) pick() *call {
	mt := m.mounts[m.rnd.IntN(len(m.mounts))]
	c := &call{mount: mt, key: fmt.Sprintf("app/k%d", m.rnd.IntN(m.keys))}
	if m.rnd.IntN(100) < 4 {
		c.fail = "permission denied"
	}
	if mt.version == 1 {
		return m.pickV1(c)
	}
	switch p := m.rnd.IntN(100); {
	case p < 30:
		m.put(c)
	case p < 36:
		m.patch(c)
	case p < 47:
		c.operation, c.path = "delete", "data/"+c.key
		c.carryOut = m.softDelete
	case p < 53:
		m.versionsCall(c, "delete")
	case p < 61:
		m.versionsCall(c, "undelete")
	case p < 66:
		m.versionsCall(c, "destroy")
	case p < 72:
		m.writeMetadata(c)
	case p < 76:
		c.operation, c.path = "delete", "metadata/"+c.key
		c.carryOut = func(_ time.Time, c *call) {
			if mt.keys[c.key] != nil {
				delete(mt.keys, c.key)
				m.event(c, "metadata-delete", map[string]string{})
			}
		}
	case p < 90:
		m.read(c)
	case p < 95:
		m.readMetadata(c)
	case p < 98:
		c.operation, c.path = "read", "config"
		c.carryOut = m.readConfig
	default:
		c.operation, c.path = "update", "config"
		n := uint64(m.rnd.IntN(4)) * 4
		c.request = map[string]any{"max_versions": n}
		if m.rnd.IntN(3) == 0 {
			c.request = map[string]any{"foo": "x"}
		}
		c.carryOut = func(_ time.Time, c *call) {
			if _, ok := c.request["max_versions"]; ok {
				mt.max = n
				m.event(c, "config-write", map[string]string{"data_path": "config"})
			}
		}
	}
	return c
}

func (m *model) readConfig(_ time.Time, c *call) {
	if c.mount.version == 2 {
		c.response = map[string]any{"data": map[string]any{"cas_required": false, "delete_version_after": "0s", "max_versions": c.mount.max}}
	}
}

func (m *model) pickV1(c *call) *call {
	c.path = c.key
	if m.rnd.IntN(4) == 0 {
		c.path = []string{"data/", "destroy/", "metadata/"}[m.rnd.IntN(3)] + c.key
	}
	switch m.rnd.IntN(3) {
	case 0:
		c.operation = "read"
		c.carryOut = func(_ time.Time, c *call) {
			if c.mount.keys[c.path] != nil {
				c.response = map[string]any{"secret": map[string]any{}, "data": map[string]any{"a": "b"}}
			}
		}
	case 1:
		c.operation = "delete"
		c.carryOut = func(_ time.Time, c *call) {
			delete(c.mount.keys, c.path)
			m.event(c, "delete", map[string]string{})
		}
	default:
		c.operation = "update"
		c.request = map[string]any{"a": "b", "data": map[string]any{"n": 1}}
		c.carryOut = func(_ time.Time, c *call) {
			c.mount.keys[c.path] = new(modelKey)
			m.event(c, "write", map[string]string{"data_path": c.path})
		}
	}
	return c
}

func (k *modelKey) live(now time.Time) bool {
	v := k.versions[k.current]
	return v != nil && !v.destroyed && !v.gone(now)
}

func (v *modelVersion) gone(now time.Time) bool { return !v.deleted.IsZero() && !v.deleted.After(now) }

// add makes a version and prunes.
func (m *model) add(mt *modelMount, k *modelKey, now time.Time, c *call) {
	k.current++
	v := new(modelVersion)
	if k.ttl > 0 {
		v.deleted = now.Add(k.ttl)
	}
	k.versions[k.current] = v
	limit := max(k.max, mt.max)
	if limit == 0 {
		limit = 10
	}
	if k.current-k.oldest >= limit {
		for i := k.oldest; i < k.current-limit+1; i++ {
			delete(k.versions, i)
		}
		k.oldest = k.current - limit + 1
	}
	if c.wrap {
		c.response = map[string]any{"wrap_info": map[string]any{"ttl": 60, "token": m.hash("wrap")}}
		return
	}
	c.response = map[string]any{"data": map[string]any{"created_time": now, "custom_metadata": nil,
		"deletion_time": timeOr(v.deleted), "destroyed": false, "version": k.current}}
}

func timeOr(t time.Time) any {
	if t.IsZero() {
		return ""
	}
	return t
}

func (m *model) put(c *call) {
	c.operation, c.path = "update", "data/"+c.key
	c.request = map[string]any{"data": map[string]any{"a": "b"}}
	cas := int64(-1)
	switch {
	case m.rnd.IntN(100) < m.casRate:
		cas = int64(m.rnd.IntN(8))
		c.request["options"] = map[string]any{"cas": cas}
	case m.rnd.IntN(40) == 0:
		c.wrap = true
	}
	c.carryOut = func(now time.Time, c *call) {
		k := c.mount.keys[c.key]
		var current uint64
		if k != nil {
			current = k.current
		}
		if cas >= 0 && uint64(cas) != current {
			c.err = "invalid request"
			return
		}
		if k == nil {
			k = &modelKey{versions: make(map[uint64]*modelVersion)}
			c.mount.keys[c.key] = k
		}
		m.add(c.mount, k, now, c)
		m.event(c, "data-write", map[string]string{"data_path": "data/" + c.key, "current_version": text(k.current), "oldest_version": text(k.oldest)})
	}
}

var status404 = map[string]any{"data": map[string]any{"http_status_code": int32(404), "http_content_type": "application/json"}}

func body404() map[string]any {
	return map[string]any{"data": map[string]any{"http_status_code": int32(404), "http_content_type": "application/json", "http_raw_body": "{}"}}
}

func (m *model) patch(c *call) {
	c.operation, c.path = "patch", "data/"+c.key
	c.request = map[string]any{"data": map[string]any{"a": "c"}}
	c.carryOut = func(now time.Time, c *call) {
		k := c.mount.keys[c.key]
		switch {
		case k == nil || k.versions[k.current] == nil:
			c.response = status404
		case !k.live(now):
			c.response = body404()
		default:
			m.add(c.mount, k, now, c)
			m.event(c, "data-patch", map[string]string{"data_path": "data/" + c.key, "current_version": text(k.current), "oldest_version": text(k.oldest)})
		}
	}
}

func (m *model) softDelete(now time.Time, c *call) {
	k := c.mount.keys[c.key]
	if k == nil || !k.live(now) {
		return
	}
	k.versions[k.current].deleted = now
	m.event(c, "data-delete", map[string]string{"current_version": text(k.current), "oldest_version": text(k.oldest)})
}

func (m *model) versionsCall(c *call, operation string) {
	c.operation, c.path = "update", operation+"/"+c.key
	var numbers []int64
	guess := int64(8)
	if k := c.mount.keys[c.key]; k != nil {
		guess = int64(k.current) + 2
	}
	for range 1 + m.rnd.IntN(2) {
		numbers = append(numbers, 1+m.rnd.Int64N(guess))
	}
	var sent []any
	asText := m.rnd.IntN(100) < m.text
	for _, n := range numbers {
		if asText {
			sent = append(sent, strconv.FormatInt(n, 10))
		} else {
			sent = append(sent, n)
		}
	}
	c.request = map[string]any{"versions": sent}
	c.carryOut = func(now time.Time, c *call) {
		k := c.mount.keys[c.key]
		if k == nil {
			return
		}
		for _, n := range numbers {
			v := k.versions[uint64(n)]
			switch {
			case v == nil || v.destroyed:
			case operation == "delete" && !v.gone(now):
				v.deleted = now
			case operation == "undelete":
				v.deleted = time.Time{}
			case operation == "destroy":
				v.destroyed = true
			}
		}
		list, _ := json.Marshal(numbers)
		x := map[string]string{"current_version": text(k.current), "oldest_version": text(k.oldest)}
		switch operation {
		case "delete":
			x["deleted_versions"] = string(list)
		case "undelete":
			x["undeleted_versions"], x["data_path"] = string(list), "data/"+c.key
		case "destroy":
			x["destroyed_versions"] = string(list)
		}
		m.event(c, operation, x)
	}
}

func (m *model) writeMetadata(c *call) {
	c.operation, c.path = "update", "metadata/"+c.key
	limit, ttl := uint64(0), time.Duration(-1)
	switch m.rnd.IntN(4) {
	case 0:
		c.request = map[string]any{"foo": "x"}
	case 1:
		limit = uint64(2 + m.rnd.IntN(6))
		c.request = map[string]any{"max_versions": limit}
	case 2:
		if m.expiry {
			ttl = 3 * time.Millisecond
			c.request = map[string]any{"delete_version_after": "3ms"}
			break
		}
		fallthrough
	default:
		c.request = map[string]any{"custom_metadata": map[string]any{"a": "b"}}
	}
	patch := m.rnd.IntN(2) == 0
	if patch {
		c.operation = "patch"
	}
	c.carryOut = func(_ time.Time, c *call) {
		k := c.mount.keys[c.key]
		switch {
		case patch && k == nil:
			c.response = status404
			return
		case !patch && c.request["foo"] != nil:
			return
		case k == nil:
			k = &modelKey{versions: make(map[uint64]*modelVersion)}
			c.mount.keys[c.key] = k
		}
		if limit > 0 {
			k.max = limit
		}
		if ttl >= 0 {
			k.ttl = ttl
		}
		kind := "metadata-write"
		if patch {
			kind = "metadata-patch"
		}
		m.event(c, kind, map[string]string{"data_path": c.path})
	}
}

func (m *model) read(c *call) {
	c.operation, c.path = "read", "data/"+c.key
	asked := uint64(0)
	if m.rnd.IntN(3) == 0 {
		asked = uint64(m.rnd.IntN(8))
		c.request = map[string]any{"version": strconv.FormatUint(asked, 10)}
	}
	c.carryOut = func(now time.Time, c *call) {
		k := c.mount.keys[c.key]
		if k == nil {
			return
		}
		n := cmp.Or(asked, k.current)
		v := k.versions[n]
		switch {
		case v == nil:
		case v.destroyed || v.gone(now):
			c.response = body404()
		default:
			c.response = map[string]any{"data": map[string]any{"data": map[string]any{"a": "b"},
				"metadata": map[string]any{"version": n, "deletion_time": timeOr(v.deleted), "destroyed": false, "created_time": now}}}
		}
	}
}

func (m *model) readMetadata(c *call) {
	c.operation, c.path = "read", "metadata/"+c.key
	c.carryOut = func(now time.Time, c *call) {
		k := c.mount.keys[c.key]
		if k == nil {
			return
		}
		versions := make(map[string]any)
		for n, v := range k.versions {
			versions[text(n)] = map[string]any{"created_time": now, "deletion_time": timeOr(v.deleted), "destroyed": v.destroyed}
		}
		c.response = map[string]any{"data": map[string]any{"cas_required": false, "current_version": k.current,
			"oldest_version": k.oldest, "max_versions": k.max, "delete_version_after": "0s", "versions": versions}}
	}
}
