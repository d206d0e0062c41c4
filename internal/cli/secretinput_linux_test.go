package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
