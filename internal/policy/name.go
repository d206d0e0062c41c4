package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNameBytes bounds the name of a policy.
const MaxNameBytes = 128

// CleanName returns a name in the form in which policies are stored (trimmed, lower
// case), or why it cannot be one. It is idempotent.
//
// Vault takes every text. Here a name has letters, digits and "-_.:@/" only, so that
// it is a plain part of an API path, of a pattern, and of a comma separated list of
// names; slashes separate parts that are neither empty nor "." nor "..". A name has
// at most [MaxNameBytes].
//
// "root" is a valid name. That no text can be stored by it is up to the caller.
func CleanName(name string) (string, error) {
	if !utf8.ValidString(name) {
		return "", errors.New("the name of the policy is not valid UTF-8")
	}
	clean := strings.ToLower(strings.TrimSpace(name))
	if clean == "" {
		return "", errors.New("the name of the policy is empty")
	}
	if len(clean) > MaxNameBytes {
		return "", fmt.Errorf("the name of the policy has %d bytes, more than %d", len(clean), MaxNameBytes)
	}
	for _, r := range clean {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.:@/", r) {
			return "", fmt.Errorf("the name of the policy has the character %q; only letters, digits and -_.:@/ are possible", r)
		}
	}
	for part := range strings.SplitSeq(clean, "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("the name of the policy, %q, has an empty part, \".\" or \"..\" between slashes", clean)
		}
	}
	return clean, nil
}
