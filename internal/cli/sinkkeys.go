package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

func newSinkKeygen(s *Streams) *cobra.Command {
	var (
		format   answerFlag
		kind     string
		out      string
		publicOf string
	)
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key that signs webhooks",
		Long: `Make a key of Standard Webhooks, for signing_keys of a sink of type webhook or template.

  ed25519  whsk_... signs, and receivers verify with whpk_...: they cannot sign themselves.
  hmac     whsec_... is on both sides.

With --out the key is written to a new file that only this user can read, and what
receivers get is printed; without it everything is printed. No hub is asked.`,
		Example: `  tocsin sink keygen --out deploys.key
  tocsin sink add deploys --type webhook --url https://example.com/in --secret signing_keys=@deploys.key

  # One key for both sides.
  tocsin sink keygen --kind hmac > whsec.key

  # What receivers need, of a key that there is.
  tocsin sink keygen --public-of deploys.key`,
		Args: exactArgs(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var key, public string
			switch {
			case publicOf != "":
				if out != "" || cmd.Flags().Changed("kind") {
					return usagef(cmd, "--public-of makes no key: leave --out and --kind out")
				}
				k, err := readWebhookKey(publicOf)
				if err != nil {
					return fmt.Errorf("--public-of: %w", err)
				}
				if public = k.Public(); public == "" {
					return fmt.Errorf("--public-of: %s has a key of the kind hmac, which receivers have as it is", publicOf)
				}
			case kind == "ed25519":
				key, public = standardwebhooks.NewKeyPair()
			case kind == "hmac":
				key = standardwebhooks.NewSecret()
			default:
				return usagef(cmd, "--kind %s: must be ed25519 or hmac", visible(kind))
			}
			if out != "" {
				if err := writeNewSecret(out, key); err != nil {
					return fmt.Errorf("--out: %w", err)
				}
				key = ""
			}
			return printKeys(s, format, out, key, public)
		},
	}
	format.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&kind, "kind", "ed25519", "`kind` of the key: ed25519 or hmac")
	flags.StringVar(&out, "out", "", "write the key to this new `file`")
	flags.StringVar(&publicOf, "public-of", "", "make no key, and print what receivers need of the one in this `file`")
	return cmd
}

// printKeys prints those that are not "".
func printKeys(s *Streams, format answerFlag, out, key, public string) (err error) {
	switch {
	case format == answerJSON:
		return printJSON(s.Out, struct {
			Key    string `json:"key,omitempty"`
			File   string `json:"file,omitempty"`
			Public string `json:"public,omitempty"`
		}{key, out, public})
	case out != "" && public != "":
		err = printRows(s.Out, row{"key", "in " + visible(out)}, row{"public", public})
	case out != "":
		err = printRows(s.Out, row{"key", "in " + visible(out)})
	case key != "" && public != "":
		err = printRows(s.Out, row{"key", key}, row{"public", public})
	default: // one that can be sent to a file
		_, err = fmt.Fprintln(s.Out, key+public)
	}
	return err
}

// writeNewSecret writes a file that must not exist, for this user only.
func writeNewSecret(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already; keys are not overwritten", path)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

func readWebhookKey(path string) (standardwebhooks.Key, error) {
	text, err := config.SecretFromFile(path).Reveal()
	if err != nil {
		return standardwebhooks.Key{}, err
	}
	k, err := standardwebhooks.ParseKey(strings.TrimSpace(text))
	if err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// maxWebhookBody bounds the body of a webhook that is verified.
const maxWebhookBody = 64 << 20

func newSinkVerify(s *Streams) *cobra.Command {
	var (
		keys    []string
		headers []string
		anyTime bool
	)
	cmd := &cobra.Command{
		Use:   "verify BODY --key FILE --header 'NAME: VALUE'...",
		Short: "Check the signature of a webhook that was received",
		Long: `Check the signature of a webhook that was received, as Standard Webhooks 1.0.0 says: was it
signed with one of the keys, and less than five minutes ago? BODY is a file with the body
as it came, byte for byte, before it was decompressed or parsed; '-' is standard input.
No hub is asked.

Exit codes: 0 it was signed with one of the keys; 1 it was not.`,
		Example: `  tocsin sink verify body.json --key receiver.key \
      --header "Webhook-Id: $ID" --header "Webhook-Timestamp: $TIMESTAMP" --header "Webhook-Signature: $SIGNATURE"

  # One that was kept.
  tocsin sink verify --any-time - --key receiver.key --header ... < body.json`,
		Args: exactArgs(1, "the file with the BODY ('-' is standard input)"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(keys) == 0 {
				return usagef(cmd, "--key is missing: the file with whsec_..., whpk_... or whsk_...")
			}
			header := make(http.Header)
			for _, text := range headers {
				name, value, ok := strings.Cut(text, ":")
				if !ok || strings.TrimSpace(name) == "" {
					return usagef(cmd, "--header %q: must be 'NAME: VALUE'", visible(text))
				}
				header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
			}
			var parsed []standardwebhooks.Key
			for _, file := range keys {
				k, err := readWebhookKey(file)
				if err != nil {
					return fmt.Errorf("--key: %w", err)
				}
				parsed = append(parsed, k)
			}
			body, err := readAtMost(s.In, args[0], maxWebhookBody)
			if err != nil {
				return fmt.Errorf("read the body: %w", err)
			}
			tolerance := time.Duration(0) // the usual one
			if anyTime {
				tolerance = -1
			}
			switch err := standardwebhooks.Verify(parsed, header, body, time.Now(), tolerance); {
			case errors.Is(err, standardwebhooks.ErrTimestamp):
				return &adviceError{err, "Of a webhook that was kept, --any-time does not look at the time."}
			case errors.Is(err, standardwebhooks.ErrSignature):
				return &adviceError{err, "Is the body what came, byte for byte, and is the key that of this sink?"}
			case err != nil:
				return err
			}
			_, err = fmt.Fprintln(s.Out, "The signature is valid.")
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&keys, "key", nil, "`file` with a key that the receiver has: whsec_... or whpk_...; repeatable")
	flags.StringArrayVarP(&headers, "header", "H", nil, "`header` of the request, as NAME: VALUE; repeatable")
	flags.BoolVar(&anyTime, "any-time", false, "also if it was signed long ago")
	return cmd
}
