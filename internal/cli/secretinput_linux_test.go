package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo-terminal: what is written to keyboard is typed on the screen.
func openTerminal(t *testing.T) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	return keyboard, screen
}

func echoes(t *testing.T, screen *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(screen.Fd()), ioctlGetTermios)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// What is typed is not shown; before and after, and when it is interrupted, it is.
func TestTypedToken(t *testing.T) {
	for name, typed := range map[string]string{"typed": "hvs.typed\n", "interrupted": ""} {
		t.Run(name, func(t *testing.T) {
			keyboard, screen := openTerminal(t)
			if !echoes(t, screen) {
				t.Fatal("the terminal does not show what is typed")
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			prompt, shown := io.Pipe()
			type outcome struct {
				token string
				err   error
			}
			ended := make(chan outcome, 1)
			go func() {
				token, err := readToken(ctx, &Streams{In: screen, Err: shown})
				shown.Close()
				ended <- outcome{token, err}
			}()
			if _, err := prompt.Read(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			go io.Copy(io.Discard, prompt)
			if echoes(t, screen) {
				t.Error("what is typed is shown")
			}
			if typed == "" {
				cancel()
			} else if _, err := keyboard.WriteString(typed); err != nil {
				t.Fatal(err)
			}
			got := <-ended
			if typed == "" && !errors.Is(got.err, context.Canceled) || typed != "" && (got.err != nil || got.token != "hvs.typed") {
				t.Errorf("read %q, %v", got.token, got.err)
			}
			if !echoes(t, screen) {
				t.Error("afterwards the terminal does not show what is typed")
			}
			keyboard.WriteString("\n") // for the read that nobody waits for
		})
	}
}

// readScreen reads what is on a screen, up to a text, which must come.
func readScreen(t *testing.T, keyboard *os.File, until string) string {
	t.Helper()
	var shown []byte
	for some := make([]byte, 1000); !strings.Contains(string(shown), until); {
		n, err := keyboard.Read(some)
		if err != nil {
			t.Fatalf("%q, %v", shown, err)
		}
		shown = append(shown, some[:n]...)
	}
	return string(shown)
}

// At a terminal it is asked whether something is meant that cannot be undone.
func TestConfirm(t *testing.T) {
	for typed, removed := range map[string]bool{"y\n": true, "yes\n": true, "\n": false, "n\n": false, "nay\n": false, "\x04": false} {
		t.Run(fmt.Sprintf("%q", typed), func(t *testing.T) {
			h := sinkHub(t, map[string]string{"GET sinks/a": runningSink, "DELETE sinks/a?state=drop": `{"kept":false}`})
			keyboard, screen := openTerminal(t)
			if _, err := keyboard.WriteString(typed); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			code := Run(t.Context(), []string{"sink", "remove", "a", "--drop"}, Streams{In: screen, Out: &out, Err: screen})
			if last := h.requests[len(h.requests)-1]; code != exitOK || strings.HasPrefix(last, "DELETE") != removed || strings.Contains(out.String(), "is removed") != removed {
				t.Errorf("exit %d, requests %q\n%s", code, h.requests, out.String())
			}
			readScreen(t, keyboard, "with its place in the journal and 3 dead letters? [y/N]")
		})
	}
}

// On a terminal the states of sinks are coloured, and columns stay columns.
func TestSinkListOnATerminal(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	sinkHub(t, map[string]string{"GET sinks": `{"sinks":[` + runningSink + "," + failingSink + `]}`})
	t.Setenv("TERM", "xterm")
	keyboard, screen := openTerminal(t)
	if code := Run(t.Context(), []string{"sink", "list"}, Streams{Out: screen, Err: io.Discard}); code != exitOK {
		t.Fatalf("exit %d", code)
	}
	text := readScreen(t, keyboard, "[2J")
	if !strings.Contains(text, green+"running"+plain) || !strings.Contains(text, red+"failing"+plain) || strings.Contains(text, "\x1b[2J") {
		t.Errorf("%q", text)
	}
	at := -1
	for line := range strings.Lines(strings.NewReplacer(red, "", green, "", yellow, "", plain, "").Replace(text)) {
		column := strings.IndexAny(line, "L-") // LAG and what is below it
		if i := strings.Index(line, "12 ("); i >= 0 {
			column = i
		}
		if at >= 0 && column != at {
			t.Errorf("column %d, want %d: %q", column, at, line)
		}
		at = column
	}
}
