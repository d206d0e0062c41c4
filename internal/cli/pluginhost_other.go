//go:build !unix

package cli

import "io"

// ownOutput returns out: no library can be loaded here.
func ownOutput(out io.Writer) (io.Writer, error) { return out, nil }
