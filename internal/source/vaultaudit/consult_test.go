package vaultaudit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/derivation"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// hashed is a text as a device with this salt hashes it.
func hashed(salt, text string) string {
	m := hmac.New(sha256.New, []byte(salt))
	m.Write([]byte(text))
	return "hmac-sha256:" + hex.EncodeToString(m.Sum(nil))
}

// destroyed is a response entry whose version numbers the device has hashed.
func destroyed(n int, salt, version string) string {
	return fmt.Sprintf(`{"time":"2026-11-21T06:00:00.5Z","type":"response","request":{"id":%q,"operation":"update","mount_point":"secret/","mount_type":"kv","mount_accessor":"kv_1","namespace":{"id":"root"},"path":"secret/destroy/a","data":{"versions":[%q]}},"response":{"mount_type":"kv","mount_accessor":"kv_1"}}`,
		requestID(n), hashed(salt, version)) + "\n"
}

// oracle answers at once what it is asked.
type oracle struct {
	mu    sync.Mutex
	asked map[string]bool
}

func (o *oracle) ask(q derivation.Questions) (answers []derivation.Answers) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range q.Mounts {
		o.asked[m.Point+" "+m.Accessor] = true
		answers = append(answers, derivation.Answers{Mounts: []derivation.Mount{{Point: m.Point, Accessor: m.Accessor, Version: 2}}})
	}
	for _, device := range q.Devices {
		o.asked[device] = true
		answers = append(answers, derivation.Answers{Device: device, Hashes: map[string]int64{hashed(device, "3"): 3}})
	}
	return answers
}

func (o *oracle) was(question string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked[question]
}

// What the lines leave open is asked for under the names of the inputs, and the
// answers count for the lines that follow.
func TestAskBetweenBatches(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	o := &oracle{asked: make(map[string]bool)}
	s.config.Ask = o.ask
	second := s.dir + "/second.log"
	s.config.Inputs = append(s.config.Inputs, Input{Name: "second", Paths: []string{second}})
	s.start()
	n := 0
	for _, at := range []struct{ path, device string }{{s.path, s.config.Name}, {second, "second"}} {
		s.path = at.path
		for range 3 {
			s.write(destroyed(n, at.device, "3"))
			n++
			s.waitFor("the line", func() bool { return len(notificationsOf(s)) == n })
		}
		if !o.was(at.device) {
			t.Errorf("the hashes of %s were not asked for", at.device)
		}
	}
	if !o.was("secret/ kv_1") {
		t.Error("the mount was not asked for")
	}
	var got []string
	for _, e := range notificationsOf(s) {
		v, _ := e.Metadata.Text("destroyed_versions")
		got = append(got, v)
	}
	if want := []string{"", "[3]", "[3]", "", "[3]", "[3]"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func notificationsOf(s *stand) []*event.Event {
	return slices.DeleteFunc(allEvents(s.T, s.journal), func(e *event.Event) bool { return e.Type != "kv-v2/destroy" })
}

// An entry that was cut short on its way may have changed anything: what is derived
// behind it is not certain, also after a restart.
func TestCutEntryIsAGap(t *testing.T) {
	lines := func(n int, operation, data string) []tail.Line {
		entry := func(kind, response string) tail.Line {
			return tail.Line{Data: fmt.Appendf(nil, `{"time":"2026-11-21T06:00:0%d.5Z","type":%q,"auth":{"client_token":"%s"},"request":{"id":%q,"operation":%q,"mount_point":"secret/","mount_type":"kv","mount_accessor":"kv_1","namespace":{"id":"root"},"path":"secret/data/a"}%s}`,
				n, kind, hashed("", "token"), requestID(n), operation, response)}
		}
		return []tail.Line{entry("request", ""), entry("response", `,"response":{"mount_type":"kv","mount_accessor":"kv_1"`+data+`}`)}
	}
	write, remove := lines(1, "update", `,"data":{"deletion_time":"","version":1}`), lines(2, "delete", "")
	cut := write[1].Data[:200]
	for _, tc := range []struct {
		name    string
		between tail.Line
		assumed bool
	}{
		{"nothing", tail.Line{}, false},
		{"cut", tail.Line{Data: cut}, true},
		{"torn in a file", tail.Line{Data: cut, Kind: tail.Torn}, false},
		{"no entry", tail.Line{Data: []byte("core: unsealed")}, false},
		{"too long", tail.Line{Data: cut, Size: 1 << 30, Kind: tail.TooLong}, true},
	} {
		translator, again := newTestTranslator(), newTestTranslator()
		var events, restarted []*event.Event
		for _, l := range append(write, tc.between) {
			events = translateLine(translator, events, l, nil)
		}
		for _, e := range events {
			again.Learn(e)
		}
		for _, l := range remove {
			events = translateLine(translator, events, l, nil)
			restarted = translateLine(again, restarted, l, nil)
		}
		for name, all := range map[string][]*event.Event{"live": events, "after a restart": restarted} {
			e := all[len(all)-1]
			if _, assumed := e.Extensions.Text(derivation.ExtCertainty); e.Type != "kv-v2/data-delete" || assumed != tc.assumed {
				t.Errorf("%s, %s: %s, assumed %v", tc.name, name, e.Type, assumed)
			}
		}
	}
}
