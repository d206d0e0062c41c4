package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// maxTokenBytes bounds a token that is read from standard input; a JWT with many
// claims fits.
const maxTokenBytes = 64 << 10

// stdinToken is the argument that means a token on standard input.
const stdinToken = "-"

// tokenArgs accepts n arguments and then, if one may be read from standard input, "-".
// What stands there instead may be a token, so it is not repeated.
func tokenArgs(n int, names string, stdin bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch rest := len(args) - n; {
		case rest < 0:
			return usagef(cmd, "%s is missing", names)
		case rest == 0, rest == 1 && stdin && args[n] == stdinToken:
			return nil
		case stdin:
			return usagef(cmd, "a token is no argument, because every user of the machine can see arguments: write '-' and give it on standard input. "+
				"If this was one, revoke it: it is in the history of the shell, too")
		}
		return usagef(cmd, "unexpected arguments")
	}
}

// readToken reads a token from standard input: typed without being shown on a
// terminal, else all of it.
func readToken(ctx context.Context, s *Streams) (string, error) {
	text, err := readHidden(ctx, s, "Token (it is not shown): ")
	switch {
	case err != nil && ctx.Err() != nil:
		return "", err
	case err != nil:
		return "", fmt.Errorf("read token: %w", err)
	}
	return checkToken(text)
}

// readHidden reads a secret from standard input: a line, after the prompt, that is not shown
// on a terminal, else all of it. What is too long is one byte longer than maxTokenBytes.
func readHidden(ctx context.Context, s *Streams, prompt string) ([]byte, error) {
	in := io.Reader(s.In)
	if f, ok := s.In.(*os.File); ok && isTerminal(f) {
		show, err := hideInput(int(f.Fd()))
		if err != nil {
			return nil, fmt.Errorf("hide what is typed: %w; give it through a pipe", err)
		}
		fmt.Fprint(s.Err, prompt)
		defer func() {
			show()
			fmt.Fprintln(s.Err)
		}()
		in = &lineReader{r: f}
	}
	return readInput(ctx, in)
}

// readInput reads all that comes, and no more than one byte more than maxTokenBytes.
func readInput(ctx context.Context, in io.Reader) ([]byte, error) {
	type input struct {
		text []byte
		err  error
	}
	read := make(chan input, 1)
	go func() { // a read from a terminal or a pipe cannot be interrupted: at Ctrl-C the process ends
		text, err := io.ReadAll(io.LimitReader(in, maxTokenBytes+1))
		read <- input{text, err}
	}()
	select {
	case got := <-read:
		return got.text, got.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// checkToken refuses input that is no token, without repeating it.
func checkToken(text []byte) (string, error) {
	token := strings.TrimSpace(string(text))
	switch {
	case len(text) > maxTokenBytes:
		return "", fmt.Errorf("read token: standard input has more than %d bytes", maxTokenBytes)
	case token == "":
		return "", errors.New("read token: standard input is empty")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "", errors.New("read token: standard input has more than a token: spaces, line breaks or characters that no token has")
	}
	return token, nil
}

// hideInput makes a terminal not show what is typed, until show is called.
func hideInput(fd int) (show func(), err error) {
	before, err := unix.IoctlGetTermios(fd, ioctlGetTermios)
	if err != nil {
		return nil, err
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO
	hidden.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, ioctlSetTermios, &hidden); err != nil {
		return nil, err
	}
	return func() { unix.IoctlSetTermios(fd, ioctlSetTermios, before) }, nil
}

// lineReader reads to the end of a line. A terminal gives whole lines.
type lineReader struct {
	r    io.Reader
	done bool
}

func (l *lineReader) Read(p []byte) (int, error) {
	if l.done {
		return 0, io.EOF
	}
	n, err := l.r.Read(p)
	l.done = strings.Contains(string(p[:n]), "\n")
	return n, err
}
