package receiver

import (
	"net/netip"
	"syscall"
	"testing"
)

func prefixes(t *testing.T, text ...string) (all []netip.Prefix) {
	t.Helper()
	for _, s := range text {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func controlOf(then func()) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		defer then()
		return withoutPermissions(raw)
	}
}
