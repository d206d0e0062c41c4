package falcoplugin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ErrChecksum is wrapped by the error of LoadChecked if the library has another checksum.
var ErrChecksum = errors.New("the checksum of the library is not the one that was asked for")

// LoadChecked is Load for a library that must have a SHA-256 checksum. On Linux exactly the bytes
// that were checked are loaded, whatever happens to the file meanwhile.
func LoadChecked(path string, sum []byte) (*Library, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("library %s: %w", path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("library %s: it is not a file", path), err)
	}
	into, from, done, err := sealed()
	if err != nil {
		return nil, fmt.Errorf("library %s: %w", path, err)
	}
	if from == "" {
		from = path
	}
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(hash, into), f); err != nil {
		return nil, fmt.Errorf("read the library %s: %w", path, err)
	}
	if got := hash.Sum(nil); subtle.ConstantTimeCompare(got, sum) != 1 {
		return nil, fmt.Errorf("library %s: %w: it is %x", path, ErrChecksum, got)
	}
	if err := done(); err != nil {
		return nil, fmt.Errorf("library %s: %w", path, err)
	}
	l, err := Load(from)
	if err != nil && from != path {
		return nil, errors.New(strings.ReplaceAll(err.Error(), from, path))
	}
	return l, err
}
