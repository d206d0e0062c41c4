package spelling

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"listen", "data_dir", "journal", "max_age"}
	for text, want := range map[string]string{
		"lsiten": "listen", "Listen": "listen", "datadir": "data_dir", "jornal": "journal", "maxage": "max_age",
		"frobnicate": "", "": "", strings.Repeat("x", 100): "",
	} {
		if got := Nearest(text, names); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
