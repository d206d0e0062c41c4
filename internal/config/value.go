package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a span of time, written as Go durations are, with "d" for days of
// 24 hours in addition: "90s", "1h30m", "30d", "1d12h".
type Duration time.Duration

// ParseDuration reads the text form. Negative durations are refused.
func ParseDuration(s string) (Duration, error) {
	bad := func(why string) (Duration, error) {
		return 0, fmt.Errorf("%q is not a duration%s; write for example 90s, 12h or 30d", s, why)
	}
	if s == "0" {
		return 0, nil
	}
	days, rest := int64(0), s
	if number, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil {
			return bad("")
		}
		if days, rest = int64(n), after; days > math.MaxInt64/int64(24*time.Hour) {
			return bad(": it is too long")
		}
	}
	total := time.Duration(days) * 24 * time.Hour
	if rest != "" || s == "" {
		d, err := time.ParseDuration(rest)
		if err != nil {
			return bad("")
		}
		if d < 0 || strings.ContainsAny(rest, "+-") {
			return bad(": it has a sign")
		}
		if total += d; total < 0 {
			return bad(": it is too long")
		}
	}
	return Duration(total), nil
}

// String returns the shortest form that [ParseDuration] reads back.
func (d Duration) String() string {
	const day = 24 * time.Hour
	t := time.Duration(d)
	if t == 0 {
		return "0"
	}
	var b strings.Builder
	if days := t / day; days > 0 {
		fmt.Fprintf(&b, "%dd", days)
		t -= days * day
	}
	if t == 0 {
		return b.String()
	}
	s := t.String() // "12h0m0s"
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	b.WriteString(s)
	return b.String()
}

// Size is a number of bytes, written with a unit: "512B", "64MiB" (powers of
// 1,024) or "10GB" (powers of 1,000).
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3},
	{"B", 1}, {"", 1},
}

// ParseSize reads the text form: a whole number and a unit, case-insensitive,
// optionally with one space between them. A number alone is bytes.
func ParseSize(s string) (Size, error) {
	digits := 0
	for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' {
		digits++
	}
	unit := strings.TrimPrefix(s[digits:], " ")
	for _, u := range sizeUnits {
		if !strings.EqualFold(u.name, unit) {
			continue
		}
		n, err := strconv.ParseInt(s[:digits], 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange), err == nil && n > math.MaxInt64/u.bytes:
			return 0, fmt.Errorf("%q is too large", s)
		case err != nil:
			return 0, badSize(s)
		}
		return Size(n * u.bytes), nil
	}
	return 0, badSize(s)
}

func badSize(s string) error {
	return fmt.Errorf("%q is not a size; write for example 512KiB, 64MiB or 10GB", s)
}

// String returns the size with the largest unit that leaves a whole number.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	for _, u := range sizeUnits {
		if int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
