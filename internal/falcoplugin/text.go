package falcoplugin

import "fmt"

// shownBytes is how much of an event is shown without the plugin's help.
const shownBytes = 50

// plainText is what people read of an event whose plugin does not say.
func plainText(data []byte) string {
	shown := data[:min(len(data), shownBytes)]
	for _, b := range shown {
		if b < ' ' || b > '~' {
			return fmt.Sprintf("datalen=%d data=<binary>", len(data))
		}
	}
	more := ""
	if len(data) > len(shown) {
		more = "..."
	}
	return fmt.Sprintf("datalen=%d data=%s%s", len(data), shown, more)
}
