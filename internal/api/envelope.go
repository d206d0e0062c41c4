package api

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/internal/token"
)

// reply is the answer to a request that was served. Without data, auth and warnings it
// is 204.
type reply struct {
	data     map[string]any
	auth     *authBlock
	warnings []string
	// flat repeats the members of data beside it, where clients of old paths look
	// for them.
	flat bool
	// bare is the whole body, for paths without envelope; status is 200 if 0.
	bare   any
	status int
	// raw is a body that is not JSON, or not ours; nil if there is none.
	raw         []byte
	contentType string // of raw
	// leaseID and leaseDuration, in seconds, are told and mean nothing here.
	leaseID       string
	leaseDuration int64
}

// envelope is the body of Vault's answers.
type envelope struct {
	RequestID     string         `json:"request_id"`
	LeaseID       string         `json:"lease_id"`
	Renewable     bool           `json:"renewable"`
	LeaseDuration int64          `json:"lease_duration"`
	Data          map[string]any `json:"data"`
	WrapInfo      *struct{}      `json:"wrap_info"`
	Warnings      []string       `json:"warnings"`
	Auth          *authBlock     `json:"auth"`
	MountType     string         `json:"mount_type"`
}

// authBlock is how a token is handed out.
type authBlock struct {
	ClientToken    string            `json:"client_token"`
	Accessor       string            `json:"accessor"`
	Policies       []string          `json:"policies"`
	TokenPolicies  []string          `json:"token_policies"`
	Metadata       map[string]string `json:"metadata"`
	LeaseDuration  int64             `json:"lease_duration"` // seconds
	Renewable      bool              `json:"renewable"`
	EntityID       string            `json:"entity_id"`
	TokenType      string            `json:"token_type"`
	Orphan         bool              `json:"orphan"`
	MFARequirement *struct{}         `json:"mfa_requirement"`
	NumUses        int               `json:"num_uses"`
}

// newAuth describes a token as it is now. The value is empty where the client has only
// its accessor.
func newAuth(value string, e *token.Entry, now time.Time) *authBlock {
	a := &authBlock{ClientToken: value, Accessor: e.Accessor, Policies: e.Policies, TokenPolicies: e.Policies,
		Metadata: e.Meta, Renewable: e.Renewable, EntityID: e.Subject.EntityID, TokenType: "service",
		Orphan: e.Orphan(), NumUses: e.NumUses}
	if !e.Expires.IsZero() {
		// What was granted as an hour is not answered as 59:59.
		a.LeaseDuration = int64(e.Expires.Sub(now).Round(time.Second) / time.Second)
	}
	return a
}

// answer writes a reply.
func (r *reply) answer(w http.ResponseWriter, mountType string) {
	if r.raw != nil {
		w.Header().Set("Content-Type", r.contentType)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(r.status)
		if r.status != http.StatusNoContent && r.status != http.StatusNotModified {
			_, _ = w.Write(r.raw)
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if r.bare != nil {
		if r.status != 0 {
			w.WriteHeader(r.status)
		}
		if r.status != http.StatusNoContent && r.status != http.StatusNotModified {
			_ = json.NewEncoder(w).Encode(r.bare)
		}
		return
	}
	if r.data == nil && r.auth == nil && len(r.warnings) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	e := envelope{RequestID: uuid.NewString(), LeaseID: r.leaseID, LeaseDuration: r.leaseDuration, Data: r.data, Warnings: r.warnings, Auth: r.auth, MountType: mountType}
	if !r.flat {
		_ = json.NewEncoder(w).Encode(e)
		return
	}
	_, _ = w.Write(flatten(e))
}

// flatten encodes an envelope with the members of its data repeated before it, except
// those whose names the envelope has itself.
func flatten(e envelope) []byte {
	whole, err := json.Marshal(e)
	if err != nil {
		return nil // it has nothing that cannot be encoded
	}
	var own map[string]json.RawMessage
	_ = json.Unmarshal(whole, &own)
	out := []byte{'{'}
	for _, name := range slices.Sorted(maps.Keys(e.Data)) {
		if _, taken := own[name]; taken {
			continue
		}
		member, _ := json.Marshal(map[string]any{name: e.Data[name]})
		out = append(append(out, member[1:len(member)-1]...), ',')
	}
	return append(append(out, whole[1:]...), '\n')
}

// refusal is an answer to a request that cannot be served.
type refusal struct {
	status int
	text   string        // empty: a list of no errors
	plain  bool          // text is the whole body
	why    string        // for counters; empty: by the status
	after  time.Duration // for the header Retry-After
}

func (f *refusal) Error() string { return f.text }

// reason is the label of the refusal in counters.
func (f *refusal) reason() string {
	switch {
	case f.why != "":
		return f.why
	case f.status == http.StatusForbidden:
		return "denied"
	case f.status == http.StatusTooManyRequests:
		return "limited"
	case f.status >= 500:
		return "error"
	}
	return "bad request"
}

func (f *refusal) answer(w http.ResponseWriter) {
	if f.plain {
		http.Error(w, f.text, f.status)
		return
	}
	if f.after > 0 || f.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter(f.after)))
	}
	if f.text == "" {
		fail(w, f.status)
		return
	}
	fail(w, f.status, f.text)
}

func badRequest(format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, text: fmt.Sprintf(format, args...)}
}

// errorList is the form in which Vault shows the errors of its core.
func errorList(texts ...string) string {
	head := "1 error occurred:"
	if len(texts) != 1 {
		head = strconv.Itoa(len(texts)) + " errors occurred:"
	}
	return head + "\n\t* " + strings.Join(texts, "\n\t* ") + "\n\n"
}

// The refusals that many paths have.
func permissionDenied() *refusal {
	return &refusal{status: http.StatusForbidden, text: errorList("permission denied")}
}

func unsupportedPath() *refusal {
	return &refusal{status: http.StatusNotFound, text: errorList("unsupported path")}
}

func unsupportedOperation() *refusal {
	return &refusal{status: http.StatusMethodNotAllowed, text: errorList("unsupported operation")}
}

func endsInSlash() *refusal { return badRequest("cannot write to a path that ends in \"/\"") }

// nothing is the answer of reading and listing what there is not.
func nothing() *refusal { return &refusal{status: http.StatusNotFound} }

// fail answers with errors in Vault's form.
func fail(w http.ResponseWriter, status int, texts ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	writeErrors(w, texts...)
}

func writeErrors(w io.Writer, texts ...string) {
	if texts == nil {
		texts = []string{}
	}
	_ = json.NewEncoder(w).Encode(struct {
		Errors []string `json:"errors"`
	}{texts})
}

// unavailable answers that the same request may succeed soon.
func unavailable(w http.ResponseWriter, text string) {
	(&refusal{status: http.StatusServiceUnavailable, text: text}).answer(w)
}

// warn logs that a request cannot be served at the moment, unless another one could not
// lately.
func (a *API) warn(message string, args ...any) {
	if skipped, ok := a.warned.Allow(); ok {
		a.log.Warn(message, append(args, "skipped", skipped)...)
	}
}
