package pluginwire

import (
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// The event that the documentation spells out is one.
func TestDocumentedEvent(t *testing.T) {
	page, err := os.ReadFile("../../docs/plugin-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, ok := strings.Cut(string(page), "An event of the plugin 7 at 2026-01-02 03:04:05 UTC")
	if !ok {
		t.Fatal("there is no example")
	}
	_, example, _ = strings.Cut(example, "```\n")
	example, _, _ = strings.Cut(example, "```")
	var digits strings.Builder
	for _, line := range regexp.MustCompile(`(?m)^(?:[0-9a-f]{2} )+`).FindAllString(example, -1) {
		digits.WriteString(strings.ReplaceAll(line, " ", ""))
	}
	want := scapevent.Append(nil, 7, uint64(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano()), []byte(`{"n":1}`))
	if digits.String() != hex.EncodeToString(want) {
		t.Errorf("the page has\n%s, and it is\n% x", digits.String(), want)
	}
}
