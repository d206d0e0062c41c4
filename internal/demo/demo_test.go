package demo

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type entry struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Request struct {
		ID, Path      string
		MountAccessor string `json:"mount_accessor"`
	} `json:"request"`
}

func read(t *testing.T, path string) (entries []entry) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		entries = append(entries, e)
	}
	return entries
}

func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.log")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		r, err := New(path)
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- r.Run(ctx) }()

		begin := time.Now()
		for { // until the second run has begun
			time.Sleep(100 * time.Millisecond)
			if _, err := os.Stat(path + ".1"); err == nil {
				break
			}
			if time.Since(begin) > 5*time.Minute {
				t.Fatal("no second run within five minutes")
			}
		}
		took := time.Since(begin)
		time.Sleep(10 * time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}

		first, second := read(t, path+".1"), read(t, path)
		if len(first) != 466 || len(second) == 0 {
			t.Fatalf("%d and %d entries", len(first), len(second))
		}
		if rate := float64(len(first)) / took.Seconds(); rate < 4 || rate > 40 {
			t.Errorf("%.1f entries per second are not comfortable to watch", rate)
		}
		ids, requests, responses := make(map[string]int), 0, 0
		for i, e := range first {
			if i > 0 && e.Time.Before(first[i-1].Time) {
				t.Errorf("entry %d is earlier than the one before", i)
			}
			if e.Time.Before(begin) || e.Time.After(begin.Add(took)) {
				t.Errorf("entry %d is of %v", i, e.Time)
			}
			switch e.Type {
			case "request":
				requests++
			case "response":
				responses++
				if _, ok := ids[e.Request.ID]; !ok {
					t.Errorf("response %d has no request", i)
				}
			}
			ids[e.Request.ID] = i
		}
		if requests < responses || responses < 200 {
			t.Errorf("%d requests, %d responses", requests, responses)
		}
		for i, e := range second {
			if _, ok := ids[e.Request.ID]; ok && e.Request.ID != "" {
				t.Errorf("entry %d of the second run repeats the id %q of the first", i, e.Request.ID)
			}
			if a := e.Request.MountAccessor; a != "" && a == first[i].Request.MountAccessor {
				t.Errorf("entry %d of the second run has the accessor %q of the first", i, a)
			}
			if e.Request.Path != first[i].Request.Path {
				t.Errorf("entry %d is about %q in the first run and %q in the second", i, first[i].Request.Path, e.Request.Path)
			}
		}
	})
}

func TestReplayCannotWrite(t *testing.T) {
	_, err := New(filepath.Join(t.TempDir(), "missing", "audit.log"))
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v", err)
	}
	r, err := New(filepath.Join(t.TempDir(), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	r.file.Close()
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "audit.log") {
		t.Errorf("got %v", err)
	}
}

func TestRecordingIsSmallAndClean(t *testing.T) {
	lines, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if len(recording) > 300<<10 {
		t.Errorf("%d bytes are embedded", len(recording))
	}
	for i, l := range lines {
		if strings.Contains(string(l.text), `"path":"secret/data/`) != (i >= setup) && i <= setup {
			t.Errorf("line %d is on the wrong side of the setup", i+1)
		}
		if strings.Contains(string(l.text), "op-seq") {
			t.Errorf("line %d contains a header of the test run", i+1)
		}
	}
}
