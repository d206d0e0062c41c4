package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin-events/tocsin/internal/address"
	"github.com/tocsin-events/tocsin/internal/config"
)

// Tokens of "tocsin login" are kept below the user's configuration directory, one
// file per address, so that a token is never sent to a hub that it is not for.

// tokenFile returns the file for the token of an address.
func tokenFile(u *url.URL) (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the directory for tokens: %w", err)
	}
	return filepath.Join(dir, "tocsin", "tokens", url.QueryEscape(address.Canonical(u))), nil
}

// storedToken returns the token that was stored for an address, "" for none.
func storedToken(u *url.URL) (string, error) {
	file, err := tokenFile(u)
	if err != nil {
		return "", nil // there is no home, as of many services: nobody has logged in
	}
	token, err := config.SecretFromFile(file).Reveal()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("token of an earlier login: %w", err)
	}
	return token, nil
}

// storeToken keeps the token for an address, readable by this user only, and returns
// the file.
func storeToken(u *url.URL, token string) (file string, err error) {
	if file, err = tokenFile(u); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", fmt.Errorf("store token: %w", err)
	}
	if err := replaceFile(file, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("store token: %w", err)
	}
	return file, nil
}

// forgetToken removes the token of an address and reports whether there was one.
func forgetToken(u *url.URL) (bool, error) {
	file, err := tokenFile(u)
	if err != nil {
		return false, nil
	}
	err = os.Remove(file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// forgetDevLogins removes tokens of earlier hubs at the address of a new one that
// cannot know them, so that they do not stand in the way of its own.
func forgetDevLogins(hostPort string) error {
	var errs []error
	for _, host := range []string{hostPort, strings.Replace(hostPort, "127.0.0.1:", "localhost:", 1)} {
		if u, err := address.Parse(host); err == nil {
			_, err = forgetToken(u)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// replaceFile writes a file that appears whole or not at all.
func replaceFile(file string, content []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".tocsin-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
