package cli

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/address"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

const (
	defaultAddress = "http://127.0.0.1:8280"

	addressEnv    = "TOCSIN_ADDR"
	tokenEnv      = "TOCSIN_TOKEN"
	namespaceEnv  = "TOCSIN_NAMESPACE"
	caCertEnv     = "TOCSIN_CACERT"
	clientCertEnv = "TOCSIN_CLIENT_CERT"
	clientKeyEnv  = "TOCSIN_CLIENT_KEY"
	serverNameEnv = "TOCSIN_TLS_SERVER_NAME"
)

// connectFlags are the flags of commands that talk to a hub. There is no flag for
// the token, because arguments are visible to every user of the machine.
type connectFlags struct {
	address, tokenFile, namespace string
	tls                           vaultclient.TLS
}

func (f *connectFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.address, "address", "", "`URL` of the hub (default $"+addressEnv+" or "+defaultAddress+")")
	flags.StringVar(&f.tokenFile, "token-file", "", "`file` with the token (default: $"+tokenEnv+", that of \"tocsin login\", or that of a running \"tocsin dev\")")
	flags.StringVar(&f.namespace, "namespace", "", "`namespace` of the request (default $"+namespaceEnv+")")
	flags.StringVar(&f.tls.CACert, "ca-cert", "", "PEM `file` with the authorities that sign the hub's certificate, instead of the machine's (default $"+caCertEnv+")")
	flags.StringVar(&f.tls.ClientCert, "client-cert", "", "PEM `file` with a certificate for a hub that asks for one (default $"+clientCertEnv+")")
	flags.StringVar(&f.tls.ClientKey, "client-key", "", "PEM `file` with the key of --client-cert (default $"+clientKeyEnv+")")
	flags.StringVar(&f.tls.ServerName, "tls-server-name", "", "`name` in the hub's certificate, if it is not that in its address (default $"+serverNameEnv+")")
}

// connection is how to reach a hub, and as whom.
type connection struct {
	address   string
	url       *url.URL
	namespace string
	token     string
	source    string // where the token comes from, for people; "" without one
	stored    bool   // it comes from a login
	transport *http.Transport
}

// resolve returns the connection that flags, environment and earlier logins ask for.
func (f *connectFlags) resolve() (*connection, error) {
	c, err := f.withoutToken()
	if err != nil {
		return nil, err
	}
	return c, c.findToken(f.tokenFile)
}

// hub returns where the hub is.
func (f *connectFlags) hub() (c *connection, err error) {
	c = &connection{
		address:   cmp.Or(f.address, os.Getenv(addressEnv), defaultAddress),
		namespace: cmp.Or(f.namespace, os.Getenv(namespaceEnv)),
	}
	if c.url, err = address.Parse(c.address); err != nil {
		return nil, fmt.Errorf("--address or %s: %w", addressEnv, err)
	}
	return c, nil
}

// withoutToken returns how to reach it, as nobody.
func (f *connectFlags) withoutToken() (c *connection, err error) {
	if c, err = f.hub(); err != nil {
		return nil, err
	}
	tls := vaultclient.TLS{
		CACert:     cmp.Or(f.tls.CACert, os.Getenv(caCertEnv)),
		ClientCert: cmp.Or(f.tls.ClientCert, os.Getenv(clientCertEnv)),
		ClientKey:  cmp.Or(f.tls.ClientKey, os.Getenv(clientKeyEnv)),
		ServerName: cmp.Or(f.tls.ServerName, os.Getenv(serverNameEnv)),
	}
	c.transport, err = tls.Transport()
	return c, err
}

// findToken takes the token from where it is said to be, else from the environment,
// else from a login at this address, else from a hub for development there.
func (c *connection) findToken(file string) (err error) {
	if file != "" {
		if c.token, err = config.SecretFromFile(file).Reveal(); err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		c.source = file
		return nil
	}
	if c.token = os.Getenv(tokenEnv); c.token != "" {
		c.source = "$" + tokenEnv
		return nil
	}
	if c.token, err = storedToken(c.url); err != nil {
		return err
	}
	if c.token != "" {
		c.source, c.stored = "\"tocsin login\"", true
		return nil
	}
	if c.token = devToken(c.url); c.token != "" {
		c.source = "the running \"tocsin dev\""
	}
	return nil
}

// client returns a client for requests of this connection.
func (c *connection) client() (*vaultclient.Client, error) {
	return vaultclient.New(vaultclient.Options{Address: c.address, Token: c.token, Namespace: c.namespace, Transport: c.transport})
}

// do makes one request and says what to do next when it fails.
func (c *connection) do(ctx context.Context, method, path string, query url.Values, body any) (*vaultclient.Answer, error) {
	v, err := c.client()
	if err != nil {
		return nil, err
	}
	a, err := v.Do(ctx, method, path, query, body)
	if err != nil {
		return nil, c.advise(err)
	}
	return a, nil
}

// advise adds what to do next to an error of the connection.
func (c *connection) advise(err error) error {
	advise := func(format string, args ...any) error {
		return &adviceError{err: err, advice: fmt.Sprintf(format, args...)}
	}
	var (
		noHost  *net.DNSError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		ended   *client.EndedError
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return advise("Is the hub running? Start one with \"tocsin dev\", or set --address or %s.", addressEnv)
	case errors.As(err, &noHost):
		return advise("Check --address or %s.", addressEnv)
	case errors.As(err, &ended):
		return advise("With another token, \"tocsin login\" lets you in again.")
	case errors.Is(err, client.ErrPermission) && c.token == "":
		return advise("Give a token: \"tocsin login\", %s or --token-file; \"tocsin dev\" prints its root token.", tokenEnv)
	case errors.Is(err, client.ErrPermission):
		return advise("The token from %s is not valid at %s, or its policies do not allow this. \"tocsin token lookup\" shows which it has.", c.source, c.address)
	case errors.Is(err, client.ErrNotFound), errors.Is(err, vaultclient.ErrNoAnswer):
		return advise("Is %s a Tocsin hub? Check --address or %s.", c.address, addressEnv)
	case errors.As(err, &unknown):
		return advise("If the hub has a certificate of a private authority, name its file with --ca-cert or %s.", caCertEnv)
	case errors.As(err, &name):
		return advise("Use a name of the certificate in --address, or give it with --tls-server-name.")
	case strings.Contains(err.Error(), "tls: certificate required"):
		return advise("The hub asks for a certificate of the client: --client-cert and --client-key.")
	case c.url != nil && c.url.Scheme == "https" && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.Contains(err.Error(), "client conn could not be established")):
		// The reason that a server gives can be lost when it does not read what we send.
		return advise("The hub ended the connection. If it asks for a certificate of the client: --client-cert and --client-key.")
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return advise("The hub at %s does not speak TLS: use http:// in --address or %s.", c.address, addressEnv)
	case strings.Contains(err.Error(), "malformed HTTP response"), strings.Contains(err.Error(), "HTTP request to an HTTPS server"):
		return advise("The hub at %s does not speak plain HTTP: use https:// in --address or %s.", c.address, addressEnv)
	}
	return err
}

// needs adds which capability a request takes to the advice about a refused token.
func needs(err error, capability string) error {
	advice, ok := errors.AsType[*adviceError](err)
	if !ok || !errors.Is(err, client.ErrPermission) {
		return err
	}
	return &adviceError{advice.err, advice.advice + " This takes " + capability + "."}
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
func devToken(u *url.URL) string {
	if u.Scheme != "http" {
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
