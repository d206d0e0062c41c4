package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/policy"
)

// maxPolicyKey bounds the namespace and the name of a policy together, as a key.
const maxPolicyKey = 1 << 10

// policyID is where a policy is.
type policyID struct{ namespace, name string }

func (id policyID) String() string {
	if id.namespace == "" {
		return fmt.Sprintf("%q", id.name)
	}
	return fmt.Sprintf("%q of namespace %q", id.name, id.namespace)
}

// key is the key of the policy in the bucket. Different ids have different keys.
func (id policyID) key() string {
	return "n" + safeKey(id.namespace) + ".p" + safeKey(id.name)
}

// parsePolicyKey is the inverse of key.
func parsePolicyKey(key string) (id policyID, ok bool) {
	rest, ok := strings.CutPrefix(key, "n")
	if !ok {
		return id, false
	}
	namespace, name, ok := strings.Cut(rest, ".p")
	if !ok {
		return id, false
	}
	for _, part := range []*string{&namespace, &name} {
		if *part, ok = parseSafeKey(*part); !ok {
			return id, false
		}
	}
	id = policyID{namespace, name}
	return id, id.key() == key
}

// safeKey makes of any text one that is allowed in a key: bytes that are not, "." and
// "=" itself become "=" and two hexadecimal digits.
func safeKey(text string) string {
	var key strings.Builder
	for _, c := range []byte(text) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '/':
			key.WriteByte(c)
		default:
			fmt.Fprintf(&key, "=%02x", c)
		}
	}
	return key.String()
}

// parseSafeKey is the inverse of safeKey.
func parseSafeKey(key string) (text string, ok bool) {
	var b strings.Builder
	for {
		plain, rest, found := strings.Cut(key, "=")
		b.WriteString(plain)
		if !found {
			return b.String(), true
		}
		if len(rest) < 2 {
			return "", false
		}
		c, err := strconv.ParseUint(rest[:2], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		key = rest[2:]
	}
}

// policyRecord is a policy in the bucket. Namespace and Name are for people: the key
// has them as well.
type policyRecord struct {
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name"`
	Text      string    `json:"text,omitempty"`
	Written   time.Time `json:"written"`
	// Deleted marks the version that ends a policy. Unlike with a delete marker, the
	// one who writes it learns its revision.
	Deleted bool `json:"deleted,omitempty"`
}

// stored is one version of a policy. It is immutable.
type stored struct {
	text   string
	policy *policy.Policy // nil if it cannot be read
}

// policies keeps the policies of a bucket in memory, with all who have them judged by
// their newest versions. It is safe for concurrent use.
type policies struct {
	bucket jetstream.KeyValue
	grants *grants
	// changed is told which grants have new rights, one call at a time.
	changed func([]*grant)
	log     *slog.Logger
	watch   *watcher
	cancel  context.CancelFunc
	ended   chan struct{}

	// applying is held while versions come into effect, so that those who wait for
	// it know that they have.
	applying sync.Mutex
	byKey    map[string]version
}

// version is what is known of a key in the bucket.
type version struct {
	revision uint64
	id       policyID
	there    bool // not deleted, nor unreadable
}

// openPolicies loads the policies and follows their changes until close. check is how
// often it looks whether it has got all.
func openPolicies(ctx context.Context, bucket jetstream.KeyValue, g *grants, changed func([]*grant), check time.Duration, log *slog.Logger) (*policies, error) {
	p := &policies{
		bucket:  bucket,
		grants:  g,
		changed: changed,
		log:     log,
		ended:   make(chan struct{}),
		byKey:   make(map[string]version),
	}
	if err := p.makeDefault(ctx); err != nil {
		return nil, err
	}
	p.watch = &watcher{bucket: bucket, target: p, check: check, log: log}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	loaded, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(p.ended)
		failed <- p.watch.run(running, func() { close(loaded) })
	}()
	select {
	case <-loaded:
		return p, nil
	case err := <-failed:
		cancel()
		return nil, err
	case <-ctx.Done():
		cancel()
		<-p.ended
		return nil, ctx.Err()
	}
}

// makeDefault stores the policy "default" of the root namespace where it is missing,
// so that operators find the text that they may want to change.
func (p *policies) makeDefault(ctx context.Context) error {
	id := policyID{name: defaultPolicyName}
	value, err := json.Marshal(policyRecord{Name: id.name, Text: DefaultPolicy, Written: time.Now().UTC()})
	if err != nil {
		return err
	}
	if _, err := p.bucket.Create(ctx, id.key(), value); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("store the policy %q: %w", id.name, err)
	}
	return nil
}

func (p *policies) close(ctx context.Context) error {
	p.cancel()
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop following policies: %w", ctx.Err())
	}
}

// health says why changes do not arrive, or which policies cannot be used.
func (p *policies) health() error {
	err := p.watch.health()
	if err != nil {
		err = fmt.Errorf("changes of policies cannot be followed: %w", err)
	}
	var unusable []string
	for id, s := range p.grants.policies.Load().byID {
		if s.policy == nil {
			unusable = append(unusable, id.String())
		}
	}
	if len(unusable) > 0 {
		slices.Sort(unusable)
		err = errors.Join(err, fmt.Errorf("stored policies that this version cannot read, so that tokens with them may do nothing: %s; write them again",
			strings.Join(unusable, ", ")))
	}
	return err
}

// revisions implements versions.
func (p *policies) revisions() map[string]uint64 {
	p.applying.Lock()
	defer p.applying.Unlock()
	known := make(map[string]uint64, len(p.byKey))
	for key, v := range p.byKey {
		known[key] = v.revision
	}
	return known
}

// update implements versions.
func (p *policies) update(entries []jetstream.KeyValueEntry) {
	p.applying.Lock()
	defer p.applying.Unlock()
	changes := make(map[policyID]*stored)
	for _, entry := range entries {
		known := p.byKey[entry.Key()]
		if entry.Revision() <= known.revision {
			continue // was written here
		}
		next := version{revision: entry.Revision(), id: known.id}
		if known.there {
			changes[known.id] = nil
		}
		if entry.Operation() == jetstream.KeyValuePut {
			id, s := p.read(entry)
			if s != nil {
				next.id, next.there = id, true
				changes[id] = s
			}
		}
		p.byKey[entry.Key()] = next
	}
	p.apply(changes)
}

// missing implements versions.
func (p *policies) missing(known map[string]uint64) {
	p.applying.Lock()
	defer p.applying.Unlock()
	changes := make(map[policyID]*stored)
	for key, revision := range known {
		v := p.byKey[key]
		if v.revision != revision {
			continue // written meanwhile
		}
		delete(p.byKey, key)
		if v.there {
			changes[v.id] = nil
		}
	}
	p.apply(changes)
}

// apply brings changes into effect. applying is held.
func (p *policies) apply(changes map[policyID]*stored) {
	if len(changes) == 0 {
		return
	}
	set := p.grants.policies.Load()
	changed := make(map[policyID]struct{}, len(changes))
	for id, next := range changes {
		last := set.get(id)
		if next == nil && last == nil || next != nil && last != nil && next.text == last.text {
			continue // the same rights as before
		}
		changed[id] = struct{}{}
	}
	affected := p.grants.change(set.with(changes), changed)
	if len(affected) > 0 {
		p.changed(affected)
	}
}

// read returns the policy in an entry; nil if there is none. One that cannot be
// understood, perhaps because a newer version of the program wrote it, is there, but
// cannot be used.
func (p *policies) read(entry jetstream.KeyValueEntry) (policyID, *stored) {
	id, ok := parsePolicyKey(entry.Key())
	if !ok || id.name == policy.RootPolicy.Name || id.namespace != event.CanonicalNamespace(id.namespace) {
		p.log.Error("An entry among the policies is not one that could have been written here; it is ignored.", "key", entry.Key())
		return id, nil
	}
	var r policyRecord
	err := json.Unmarshal(entry.Value(), &r)
	if err == nil && r.Deleted {
		return id, nil
	}
	s := &stored{text: r.Text}
	if err == nil {
		s.policy, _, err = policy.Parse(id.name, r.Text)
	}
	if err != nil {
		s.policy = nil
		p.log.Error("A stored policy cannot be read; tokens with it may do nothing until it is written again.",
			"namespace", id.namespace, "policy", id.name, "error", err)
	}
	return id, s
}

// write stores a version of a policy and brings it into effect.
func (p *policies) write(ctx context.Context, r policyRecord, parsed *policy.Policy) (revision uint64, err error) {
	id := policyID{r.Namespace, r.Name}
	r.Written = time.Now().UTC()
	value, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	revision, err = p.bucket.Put(ctx, id.key(), value)
	if err != nil {
		return 0, fmt.Errorf("%w: the policy could not be stored: %w", ErrUnavailable, err)
	}
	p.applying.Lock()
	defer p.applying.Unlock()
	if p.byKey[id.key()].revision >= revision {
		return revision, nil // the watch was faster
	}
	p.byKey[id.key()] = version{revision: revision, id: id, there: parsed != nil}
	var next *stored
	if parsed != nil {
		next = &stored{text: r.Text, policy: parsed}
	}
	p.apply(map[policyID]*stored{id: next})
	return revision, nil
}

// PutPolicy stores a policy; name and text are as a client sent them. It returns
// after all who have the policy are judged by the new text on this node. The error
// wraps ErrInvalid, with the lines and columns of what is wrong in the text, or
// ErrUnavailable.
//
// Names are lower case; a warning says when one was changed. The text is HCL or JSON,
// or one of them in base64.
func (a *Authority) PutPolicy(ctx context.Context, namespace, name, text string) (warnings []string, err error) {
	id, err := writableID(namespace, name)
	if err != nil {
		return nil, err
	}
	if id.name != name {
		warnings = append(warnings, fmt.Sprintf("the policy was stored under the name %q", id.name))
	}
	if text, err = plainText(text); err != nil {
		return nil, err
	}
	parsed, problems, err := policy.Parse(id.name, text)
	if err != nil {
		return nil, fmt.Errorf("%w: policy %q: %w", ErrInvalid, id.name, err)
	}
	for _, p := range problems {
		warnings = append(warnings, p.String())
	}
	_, err = a.policies.write(ctx, policyRecord{Namespace: id.namespace, Name: id.name, Text: text}, parsed)
	if err != nil {
		return nil, err
	}
	return warnings, nil
}

// writableID returns where a policy is that may be written.
func writableID(namespace, name string) (policyID, error) {
	clean, err := policy.CleanName(name)
	if err != nil {
		return policyID{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	id := policyID{event.CanonicalNamespace(namespace), clean}
	switch {
	case clean == policy.RootPolicy.Name:
		return id, fmt.Errorf("%w: the policy %q cannot be changed", ErrInvalid, clean)
	case len(id.key()) > maxPolicyKey:
		return id, fmt.Errorf("%w: the namespace and the name of the policy are too long", ErrInvalid)
	}
	return id, nil
}

// plainText returns the text of a policy that may be in base64.
func plainText(text string) (string, error) {
	if len(text) > base64.StdEncoding.EncodedLen(policy.MaxBytes) {
		return "", errTooLong
	}
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		text = string(decoded)
	}
	switch {
	case strings.TrimSpace(text) == "":
		return "", fmt.Errorf("%w: the policy is empty", ErrInvalid)
	case len(text) > policy.MaxBytes:
		return "", errTooLong
	case !utf8.ValidString(text):
		return "", fmt.Errorf("%w: the policy is not UTF-8", ErrInvalid)
	}
	return text, nil
}

var errTooLong = fmt.Errorf("%w: the policy has more than %d KiB", ErrInvalid, policy.MaxBytes>>10)

// Policy returns the text of a policy. The error is ErrNoPolicy. That of "root" in the
// root namespace is empty, and that of "default" in a namespace where none was written
// is [DefaultPolicy].
func (a *Authority) Policy(namespace, name string) (text string, err error) {
	clean, err := policy.CleanName(name)
	if err != nil {
		return "", ErrNoPolicy
	}
	id := policyID{event.CanonicalNamespace(namespace), clean}
	if id == (policyID{name: policy.RootPolicy.Name}) {
		return "", nil
	}
	s := a.grants.policies.Load().get(id)
	if s == nil {
		return "", ErrNoPolicy
	}
	return s.text, nil
}

// PolicyNames returns the names of the policies of a namespace, sorted; "root" is one
// of the root namespace, and "default" of all.
func (a *Authority) PolicyNames(namespace string) []string {
	namespace = event.CanonicalNamespace(namespace)
	names := []string{defaultPolicyName}
	if namespace == "" {
		names = append(names, policy.RootPolicy.Name)
	}
	for id := range a.grants.policies.Load().byID {
		if id.namespace == namespace && id.name != defaultPolicyName {
			names = append(names, id.name)
		}
	}
	slices.Sort(names)
	return names
}

// DeletePolicy removes a policy, and returns after nobody has it any more on this
// node. It is no error when there is none. "root" and "default" cannot be removed. The
// error wraps ErrInvalid or ErrUnavailable.
func (a *Authority) DeletePolicy(ctx context.Context, namespace, name string) error {
	id, err := writableID(namespace, name)
	if err != nil {
		return err
	}
	if id.name == defaultPolicyName {
		return fmt.Errorf("%w: the policy %q cannot be removed", ErrInvalid, id.name)
	}
	return a.policies.delete(ctx, id)
}

func (p *policies) delete(ctx context.Context, id policyID) error {
	p.applying.Lock()
	known, isKnown := p.byKey[id.key()]
	p.applying.Unlock()
	// The bucket knows best: another node may have written or deleted it just now.
	switch _, err := p.bucket.Get(ctx, id.key()); {
	case errors.Is(err, jetstream.ErrKeyNotFound) && isKnown:
		p.missing(map[string]uint64{id.key(): known.revision})
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("%w: the policy could not be found: %w", ErrUnavailable, err)
	}
	revision, err := p.write(ctx, policyRecord{Namespace: id.namespace, Name: id.name, Deleted: true}, nil)
	if err != nil {
		return err
	}
	// The record that says so has done its work, unless somebody wrote a new policy.
	if err := p.bucket.Purge(ctx, id.key(), jetstream.LastRevision(revision)); err != nil {
		p.log.Debug("The record of a deleted policy stays.", "policy", id.String(), "error", err)
	}
	return nil
}
