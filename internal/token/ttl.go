package token

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// limits are what bounds the life of a token.
type limits struct {
	defaultTTL, maxTTL     time.Duration // of the store
	period, explicitMaxTTL time.Duration // of the token; 0: none
}

// lifetime returns how long a token made at created is to live from now on. wanted
// is 0 for the default. The error wraps ErrNotRenewable when no time is left, which
// cannot be for a new token.
func (l limits) lifetime(wanted time.Duration, created, now time.Time) (ttl time.Duration, warnings []string, err error) {
	most := l.maxTTL
	if l.explicitMaxTTL > 0 {
		most = min(most, l.explicitMaxTTL)
	}
	// A periodic token may be renewed for ever, unless it has a limit of its own.
	left, bounded := l.explicitMaxTTL, l.explicitMaxTTL > 0
	switch {
	case l.period > 0:
		if ttl = l.period; ttl > most {
			warnings = append(warnings, fmt.Sprintf("the period of %s is longer than the maximum of %s and was shortened to it", brief(ttl), brief(most)))
			ttl = most
		}
	default:
		if ttl = wanted; ttl <= 0 {
			ttl = l.defaultTTL
		}
		left, bounded = most, true
	}
	if bounded {
		if left -= max(now.Sub(created), 0); left <= 0 {
			return 0, nil, fmt.Errorf("%w: it has lived for as long as it may", ErrNotRenewable)
		}
		if ttl > left {
			warnings = append(warnings, fmt.Sprintf("the TTL of %s is longer than the maximum, of which %s are left, and was shortened to that", brief(ttl), brief(left)))
			ttl = left
		}
	}
	return ttl, warnings, nil
}

// initial returns how long a new token is to live, 0 for ever.
func (l limits) initial(r *Request, now time.Time) (ttl time.Duration, warnings []string, err error) {
	if r.TTL == 0 && r.Period == 0 && slices.Contains(r.Policies, "root") {
		return r.ExplicitMaxTTL, nil, nil // even beyond the maximum of the store
	}
	return l.lifetime(r.TTL, now, now)
}

// granted returns for how long a token was given to live when that was decided
// last, which is what a renewal gives it that does not say.
func (e *Entry) granted() time.Duration {
	if e.LastRenewal.IsZero() {
		return e.TTL
	}
	return e.Expires.Sub(e.LastRenewal)
}

// brief prints a duration in seconds without its zero parts.
func brief(d time.Duration) string {
	if d > time.Second {
		d = d.Round(time.Second)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
