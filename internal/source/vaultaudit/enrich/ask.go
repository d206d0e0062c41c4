package enrich

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/derivation"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

// Error says what could not be asked and what to do about it.
type Error struct {
	Address string // of the server; empty where it was said before
	What    string // a verb phrase
	Remedy  string // empty when there is none but to wait
	Err     error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %v", e.What, e.Err)
	if e.Address != "" {
		s = e.Address + ": " + s
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// client returns a client for one namespace.
func (a *Asker) client(token, namespace string) (*vaultclient.Client, error) {
	return vaultclient.New(vaultclient.Options{
		Address:   a.config.Address,
		Token:     token,
		Namespace: strings.TrimSuffix(namespace, "/"),
		Transport: a.transport,
	})
}

// fail makes an Error of what a request ended with. The path is what the policy of the
// token must allow.
func (a *Asker) fail(what, path, capability string, err error) error {
	e := &Error{Address: a.config.Address, What: what, Err: err}
	switch {
	case invalidToken(err):
		e.Remedy = "the token has expired or was revoked: make a new one, see docs/enrichment.md"
	case errors.Is(err, client.ErrPermission):
		e.Remedy = fmt.Sprintf("the token has expired or lacks the right: give it a policy with path %q { capabilities = [%q] }, see docs/enrichment.md", path, capability)
	case errors.Is(err, vaultclient.ErrNoAnswer):
		e.Remedy = "check that vault.address is that of the API"
	}
	return e
}

// invalidToken is true when a server says that it does not know the token. Some only say
// that it may not do what it asked for.
func invalidToken(err error) bool {
	status, ok := errors.AsType[*client.StatusError](err)
	return ok && status.StatusCode == http.StatusForbidden &&
		slices.ContainsFunc(status.Messages, func(m string) bool { return strings.Contains(m, "invalid token") })
}

// askMounts asks for the kv mounts of the namespaces. That one namespace beside that
// of the token may not be read is no failure.
func (a *Asker) askMounts(ctx context.Context, token string, namespaces []string) error {
	var all []derivation.Mount
	for _, namespace := range namespaces {
		if a.refuse[namespace] {
			continue
		}
		c, err := a.client(token, namespace)
		if err != nil {
			return err
		}
		answer, err := c.Do(ctx, http.MethodGet, "sys/mounts", nil, nil)
		if err != nil {
			refused := errors.Is(err, client.ErrPermission) || errors.Is(err, client.ErrNotFound) || errors.Is(err, client.ErrBadRequest)
			if namespace != a.config.Namespace && refused {
				a.refuse[namespace] = true
				if a.told[namespace] {
					continue
				}
				a.told[namespace] = true
				a.log.Info("The mounts of a namespace cannot be asked for; their kv versions are learnt from the log.", "namespace", namespace, "error", err)
				continue
			}
			return a.fail("ask for the mounts"+inNamespace(namespace), "sys/mounts", "read", err)
		}
		mounts, err := parseMounts(namespace, answer.Data)
		if err != nil {
			return a.fail("ask for the mounts"+inNamespace(namespace), "sys/mounts", "read", err)
		}
		all = append(all, mounts...)
	}
	if len(all) > 0 {
		a.tell(derivation.Answers{Mounts: all})
	}
	return nil
}

func inNamespace(namespace string) string {
	if namespace == "" {
		return ""
	}
	return " of namespace " + namespace
}

// parseMounts returns the kv mounts of an answer of sys/mounts.
func parseMounts(namespace string, data []byte) ([]derivation.Mount, error) {
	var mounts map[string]struct {
		Type     string
		Accessor string
		Options  map[string]any
	}
	if err := json.Unmarshal(data, &mounts); err != nil {
		return nil, fmt.Errorf("%w: %w", vaultclient.ErrNoAnswer, err)
	}
	var kv []derivation.Mount
	for path, m := range mounts {
		if m.Type != "kv" && m.Type != "generic" || path == "" {
			continue
		}
		version := 1
		if m.Type == "kv" && fmt.Sprint(m.Options["version"]) == "2" {
			version = 2
		}
		kv = append(kv, derivation.Mount{
			Point:    namespace + strings.TrimSuffix(path, "/") + "/",
			Accessor: m.Accessor,
			Version:  version,
		})
	}
	return kv, nil
}

// hashes are what is known of the hashes of the device.
type hashes struct {
	one  string // the hash of "1", by which another salt is recognised
	upTo int    // the largest number whose hash was told
	last bool   // the token may not ask for larger ones
}

// askHashes asks for the hash of 1. If it is the one that is known, the device has not
// changed, and more numbers are asked for only when the stream needs them.
func (a *Asker) askHashes(ctx context.Context, token string, more bool) error {
	if a.config.Device == "" {
		return nil
	}
	c, err := a.client(token, "") // audit devices belong to no namespace
	if err != nil {
		return err
	}
	one, err := a.hash(ctx, c, 1)
	if err != nil {
		return err
	}
	known := a.known
	if one != known.one {
		known = hashes{one: one}
	}
	want := max(known.upTo, firstNumbers)
	switch {
	case known.last:
		want = known.upTo
	case more && known.upTo > 0:
		want = min(known.upTo+firstNumbers, maxNumber)
	}
	if want == known.upTo {
		return nil
	}
	told := map[string]int64{one: 1}
	for n := known.upTo + 1; n <= want; n++ {
		h := one
		if n > 1 {
			h, err = a.hash(ctx, c, n)
			if n > 2 && errors.Is(err, client.ErrPermission) { // its policy names the numbers
				want, known.last = n-1, true
				break
			}
			if err != nil {
				return err
			}
		}
		told[h] = int64(n)
	}
	known.upTo = want
	a.known = known
	if len(told) == 1 && want > 1 { // no number was new
		return nil
	}
	a.tell(derivation.Answers{Device: a.config.Name, Hashes: told})
	return nil
}

// hash asks for the hash of a number, in the form in which it is in entries: of its
// digits. (Vault hashes numbers that clients send as numbers in the same way, OpenBao
// does not hash them.)
func (a *Asker) hash(ctx context.Context, c *vaultclient.Client, n int) (string, error) {
	path := "sys/audit-hash/" + a.config.Device
	answer, err := c.Do(ctx, http.MethodPost, path, nil, map[string]string{"input": strconv.Itoa(n)})
	var data struct{ Hash string }
	if err == nil {
		if err = json.Unmarshal(answer.Data, &data); err != nil || !auditlog.IsHashed(data.Hash) {
			err = fmt.Errorf("%w: it has no hash", vaultclient.ErrNoAnswer)
		}
	}
	if err == nil {
		return data.Hash, nil
	}
	err = a.fail("ask for the hashes of the audit device "+a.config.Device, path, "update", err)
	if e := err.(*Error); e.Remedy == "" && errors.Is(err, client.ErrBadRequest) {
		e.Remedy = "vault.device must be the path of an audit device, as \"bao audit list\" shows it"
	}
	return "", err
}

// renewal is when a token has to be renewed.
type renewal struct {
	token string
	at    time.Time // zero: never
}

// renewToken renews the token when half of its time is over, if it can be: a periodic
// token lives for as long as that happens. When it fails the token ends when it ends,
// which the requests then say.
func (a *Asker) renewToken(ctx context.Context, token string) {
	now := time.Now()
	if a.renew.token == token && (a.renew.at.IsZero() || now.Before(a.renew.at)) {
		return
	}
	a.renew = renewal{token: token}
	c, err := a.client(token, a.config.Namespace)
	if err != nil {
		return
	}
	answer, err := c.Do(ctx, http.MethodPost, "auth/token/renew-self", nil, map[string]any{})
	switch status, refused := errors.AsType[*client.StatusError](err); {
	case err == nil && answer.Auth != nil && answer.Auth.LeaseDuration > 0:
		a.renew.at = now.Add(time.Duration(min(answer.Auth.LeaseDuration, maxLease)) * time.Second / 2)
	case err == nil || refused && status.StatusCode < 500:
		// It has no end, or cannot be renewed: nothing to do until there is another.
		if err != nil {
			a.log.Log(ctx, slog.LevelDebug, "The token is not renewed.", "error", err)
		}
	default:
		a.renew.at = now // with the next round
	}
}

// maxLease bounds, in seconds, what is believed of a lease: ten years.
const maxLease = 10 * 365 * 24 * 3600
