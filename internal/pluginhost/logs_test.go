package pluginhost

import (
	"log/slog"
	"strings"
	"testing"
)

// What plugins say at every start or request is for those who want to see everything.
func TestHarmlessMessages(t *testing.T) {
	for level, want := range map[slog.Level]string{
		slog.LevelInfo:  "level=INFO msg=\"my own\"\n",
		slog.LevelDebug: "level=DEBUG msg=\"configuring server automatic mTLS\"\nlevel=INFO msg=\"my own\"\n",
	} {
		var out strings.Builder
		log := slog.New(pluginLog{slog.NewTextHandler(&out, &slog.HandlerOptions{
			Level: level,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		})})
		log.Info("configuring server automatic mTLS")
		log.Info("my own")
		if out.String() != want {
			t.Errorf("%v: %q, want %q", level, out.String(), want)
		}
	}
}
