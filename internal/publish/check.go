package publish

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/policy"
)

// reservedTypes begin the types of events that only the hub stores: its own audit, audit
// entries, and what rules say of them. Somebody who could publish them could make up what was
// done, and rules judge no alerts.
var reservedTypes = []string{"tocsin/", "audit/", "alert/"}

// reservedSource begins the sources of the hub itself. A scheme is the same in any case.
const reservedSource = "tocsin://"

// checker applies the rules to the events of one request.
type checker struct {
	*Intake
	request *Request
	now     time.Time

	// The events of a request are mostly of one type, about which the policies are
	// asked once. A change of them within the request counts for the next.
	allowedType, allowedNamespace string
}

// check completes an event and applies all rules. The refusal has neither index nor id.
func (c *checker) check(e *event.Event) (warning string, refused *Refusal) {
	if e.Namespace == "" {
		e.Namespace = c.request.Namespace
	}
	e.Complete(c.now)
	e.Recorded = time.Time{}
	if refused := c.checkLimits(e); refused != nil {
		return "", refused
	}
	if refused := checkURIs(e); refused != nil {
		return "", refused
	}
	if refused := c.checkRights(e); refused != nil {
		return "", refused
	}
	if refused := checkPaths(e); refused != nil {
		return "", refused
	}
	if s := c.options.Secrets; s != nil {
		size := e.Size()
		if err := s.Check(e); err != nil {
			return "", &Refusal{Code: Secret, Text: err.Error()}
		}
		if e.Size() > size { // what stands where a secret was may be longer
			if refused := c.checkLimits(e); refused != nil {
				return "", refused
			}
		}
	}
	if catalog := c.options.Catalog; catalog != nil {
		var err error
		if warning, err = catalog.Check(e); err != nil {
			return "", &Refusal{Code: Schema, Text: err.Error()}
		}
	}
	return warning, nil
}

// checkLimits refuses what the journal would not take.
func (c *checker) checkLimits(e *event.Event) *Refusal {
	err := c.options.Limits.Check(e)
	if size, most := journal.StoredBytes(e), c.options.Journal.MaxUnitBytes(); err == nil && size > most {
		// Many small parts take more than their bytes.
		err = &event.LimitError{Part: "stored event", Size: size, Max: most}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, event.ErrTooLarge):
		return &Refusal{Code: TooLarge, Text: err.Error()}
	}
	return &Refusal{Code: Invalid, Text: err.Error()}
}

// checkRights refuses what the publisher may not say.
func (c *checker) checkRights(e *event.Event) *Refusal {
	for _, prefix := range reservedTypes {
		if strings.HasPrefix(e.Type, prefix) {
			return &Refusal{Code: Reserved, Text: fmt.Sprintf("type: %q is for what the hub itself says; use a prefix of your own", prefix+"...")}
		}
	}
	if c.request.By == Host {
		return nil
	}
	path := e.Namespace + PathPrefix + e.Type
	if e.Type != c.allowedType || e.Namespace != c.allowedNamespace {
		if err := policy.CheckNamespace(e.Namespace); err != nil {
			return &Refusal{Code: Invalid, Text: err.Error()}
		}
		if !strings.HasPrefix(e.Namespace, c.request.Namespace) {
			return &Refusal{Code: Denied, Text: "namespace: is not that of the request, nor below it"}
		}
		if !c.request.By.Allows(policy.Create, path, nil) {
			return &Refusal{Code: Denied, Text: fmt.Sprintf("type: publishing needs the capability create on %q", path)}
		}
		c.allowedType, c.allowedNamespace = e.Type, e.Namespace
	}
	if len(e.Source) >= len(reservedSource) && strings.EqualFold(e.Source[:len(reservedSource)], reservedSource) {
		return &Refusal{Code: Reserved, Text: fmt.Sprintf("source: %q is the hub itself", reservedSource+"...")}
	}
	if e.Plugin != nil && !c.request.By.Allows(policy.Create|policy.Sudo, path, nil) {
		return &Refusal{Code: Denied, Text: fmt.Sprintf("plugin_info: says which mount sent an event; setting it needs the capabilities create and sudo on %q", path)}
	}
	return nil
}

// checkURIs refuses what is no URI-reference where CloudEvents 1.0.2 (section 3.1) wants
// one. Events of others, which the journal has from elsewhere, are taken as they are.
func checkURIs(e *event.Event) *Refusal {
	for _, a := range [...]struct{ name, value string }{{"source", e.Source}, {"dataschema", e.DataSchema}} {
		if i := notURI(a.value); i >= 0 {
			r, _ := utf8.DecodeRuneInString(a.value[i:])
			return &Refusal{Code: Invalid, Text: fmt.Sprintf("%s: is no URI-reference (RFC 3986): it has %q; percent-encode it", a.name, r)}
		}
	}
	return nil
}

// notURI returns where s has what no URI-reference can have (RFC 3986, appendix A), -1
// for nowhere.
func notURI(s string) int {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			i += 2
		case c == '%', !uriByte[c]:
			return i
		}
	}
	return -1
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

// uriByte has the unreserved and reserved characters of RFC 3986, section 2.
var uriByte = func() (t [256]bool) {
	for c := range byte(0x7f) {
		t[c] = '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || strings.IndexByte("-._~:/?#[]@!$&'()*+,;=", c) >= 0
	}
	return t
}()

// checkPaths refuses paths that name something by way of something else: policies are
// about paths as they are written.
func checkPaths(e *event.Event) *Refusal {
	if escapes(e.Path) {
		return &Refusal{Code: Invalid, Text: "path: has a segment \"..\""}
	}
	if data, _ := e.Metadata.Text(event.MetadataDataPath); escapes(data) {
		return &Refusal{Code: Invalid, Text: "metadata data_path: has a segment \"..\""}
	}
	return nil
}

func escapes(path string) bool {
	if !strings.Contains(path, "..") {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == ".." {
			return true
		}
	}
	return false
}
