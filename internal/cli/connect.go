package cli

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
)

const (
	defaultAddress = "http://127.0.0.1:8280"
	addressEnv     = "TOCSIN_ADDR"
	tokenEnv       = "TOCSIN_TOKEN"
)

// connectFlags are the flags of commands that talk to a hub. There is no flag for
// the token, because arguments are visible to every user of the machine.
type connectFlags struct {
	address, tokenFile string
}

func (f *connectFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.address, "address", "", "`URL` of the hub (default $"+addressEnv+" or "+defaultAddress+")")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "`file` with the token (default: the token in $"+tokenEnv+", or that of a running \"tocsin dev\")")
}

// resolve returns the address of the hub and the token for it.
func (f *connectFlags) resolve() (address, token string, err error) {
	address = cmp.Or(f.address, os.Getenv(addressEnv), defaultAddress)
	if f.tokenFile != "" {
		token, err = config.SecretFromFile(f.tokenFile).Reveal()
		return address, token, err
	}
	if token = os.Getenv(tokenEnv); token == "" {
		token = devToken(address)
	}
	return address, token, nil
}

// connectError adds what to do next to an error of a connection to a hub.
func connectError(address string, hasToken bool, err error) error {
	advise := func(format string, args ...any) error {
		return &adviceError{err: err, advice: fmt.Sprintf(format, args...)}
	}
	var notFound *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return advise("Is the hub running? Start one with \"tocsin dev\", or set --address or %s.", addressEnv)
	case errors.As(err, &notFound):
		return advise("Check --address or %s.", addressEnv)
	case errors.Is(err, client.ErrPermission) && !hasToken:
		return advise("Set %s to a token of the hub; \"tocsin dev\" prints its root token.", tokenEnv)
	case errors.Is(err, client.ErrPermission):
		return advise("The hub at %s does not accept this token for this. Check %s.", address, tokenEnv)
	case errors.Is(err, client.ErrNotFound):
		return advise("Is %s a Tocsin hub? Check --address or %s.", address, addressEnv)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return advise("The hub at %s does not speak TLS: use http:// in --address or %s.", address, addressEnv)
	case strings.Contains(err.Error(), "malformed HTTP response"):
		return advise("Whatever listens at %s does not speak HTTP. Does it want https://?", address)
	}
	return err
}

// A "tocsin dev" leaves its root token in a file that only the same user can
// read, for commands that are given no token and talk to that address. The
// file is below the user's cache directory and named for the address.

// devTokenFile returns the path for a loopback address such as "127.0.0.1:8280",
// and false for every other.
func devTokenFile(hostPort string) (string, bool) {
	address, err := netip.ParseAddrPort(hostPort)
	if err != nil || !address.Addr().IsLoopback() {
		return "", false
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", false
	}
	return filepath.Join(cache, "tocsin", "dev", strings.ReplaceAll(address.String(), ":", "_")+".token"), true
}

// writeDevToken stores the token and returns how to remove it.
func writeDevToken(hostPort, token string) (remove func(), err error) {
	path, ok := devTokenFile(hostPort)
	if !ok {
		return nil, errors.New("no cache directory for the token")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// A file left by a process that was killed may have other permissions.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return nil, err
	}
	return func() {
		// Another hub may have taken the address and the file over.
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == token {
			os.Remove(path)
		}
	}, nil
}

// devToken returns the token that a "tocsin dev" left for this address, or "".
func devToken(address string) string {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" {
		return ""
	}
	host, port := u.Hostname(), cmp.Or(u.Port(), "80")
	hosts := []string{host}
	if host == "localhost" {
		hosts = []string{"127.0.0.1", "::1"}
	}
	for _, h := range hosts {
		if path, ok := devTokenFile(net.JoinHostPort(h, port)); ok {
			if token, err := config.SecretFromFile(path).Reveal(); err == nil {
				return token
			}
		}
	}
	return ""
}
