package receiver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/test/device"
)

// What comes before there is an inbox is kept, in order, and HTTP is answered only when
// there is one.
func TestReceivesBeforeTheInboxIsOpen(t *testing.T) {
	r := open(t, unixConfig(t), Deps{})
	conn := dial(t, r)
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprint("early ", i))
	}
	send(t, conn, strings.Join(want, "\n")+"\n")
	until(t, "the lines were read", func() bool { return r.Stats().Lines == 100 })
	m := newMemory()
	r.Use(m)
	send(t, conn, "late\n")
	if got := m.await(t, 101); !slices.Equal(got, append(want, "late")) {
		t.Errorf("got %q", got)
	}

	w := open(t, httpConfig(), Deps{})
	d := &device.HTTP{URL: "http://" + w.Addr().String()}
	if err := d.Write(t.Context(), []byte("one\n")); err == nil || !strings.Contains(err.Error(), fmt.Sprint(http.StatusServiceUnavailable)) {
		t.Errorf("before there is an inbox: %v", err)
	}
	w.Use(m)
	if err := d.Write(t.Context(), []byte("one\n")); err != nil {
		t.Error(err)
	}
	d.Client.CloseIdleConnections()
}

// A receiver that ends before it got its inbox leaves the lines to the next one.
func TestEndBeforeTheInboxIsOpen(t *testing.T) {
	c := unixConfig(t)
	c.Dir = t.TempDir()
	r := open(t, c, Deps{})
	send(t, dial(t, r), "one\ntwo\nhalf")
	until(t, "the lines were read", func() bool { return r.Stats().Lines == 2 })
	stop(t, r)
	m := newMemory()
	open(t, c, Deps{Inbox: m})
	if got := m.await(t, 2); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %q", got)
	}
}
