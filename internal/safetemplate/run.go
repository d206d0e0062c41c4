package safetemplate

import (
	"errors"
	"fmt"
	"net/url"
	"text/template"
	"time"

	"github.com/tocsin-events/tocsin/internal/jsonvalue"
)

// run is an execution of a template, used again for others. The functions of the template
// are its methods.
type run struct {
	t     *Template
	text  *template.Template
	out   []byte
	start int // of what this execution appends
	// value is where the last JSON value ended, and quoted where there are literals.
	value  int
	quoted [][2]int
	steps  int
	made   int // bytes of texts
	before time.Time
}

var (
	errTooLong   = fmt.Errorf("makes more than %d KiB", MaxOutputBytes>>10)
	errTooMany   = fmt.Errorf("goes more than %d times around; let range have less to do", MaxSteps)
	errTooSlow   = fmt.Errorf("takes longer than %v", MaxTime)
	errTooLarge  = fmt.Errorf("makes more than %d MiB of texts on the way", MaxTextBytes>>20)
	errBehind    = errors.New(missingComma)
	errNull      = errors.New("the key of an object cannot be null")
	errNoRange   = errors.New("range needs a list, an object or a number")
	errIsMissing = errors.New("the value is missing")
)

func (t *Template) newRun() *run {
	r := &run{t: t}
	clone, err := t.base.Clone()
	if err != nil {
		panic(err) // only of templates that were executed
	}
	r.text = clone.Funcs(r.functions())
	return r
}

func (r *run) begin(dst []byte) {
	r.out, r.start, r.value = dst, len(dst), -1
	r.quoted = r.quoted[:0]
	r.steps, r.made, r.before = 0, 0, time.Now().Add(MaxTime)
}

// Write takes the literal text of the template.
func (r *run) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.value == len(r.out) && isWord(p[0]) {
		return 0, &Problem{Source: r.t.name, Reason: fmt.Sprintf("%q: %s", excerpt(p, 0), missingComma)}
	}
	r.out = append(r.out, p...)
	return len(p), r.bounded()
}

func isWord(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || b == '-' || b == '+' || b == '.'
}

func (r *run) bounded() error {
	if len(r.out)-r.start > MaxOutputBytes {
		return &Problem{Source: r.t.name, Reason: errTooLong.Error()}
	}
	return nil
}

// step counts a round of a range, or a call of a template.
func (r *run) step() (string, error) {
	if r.steps++; r.steps > MaxSteps {
		return "", errTooMany
	}
	if r.steps%64 == 0 && time.Now().After(r.before) {
		return "", errTooSlow
	}
	return "", nil
}

// charge counts bytes of a text that is about to be made.
func (r *run) charge(n int) error {
	if n > MaxTextBytes || r.made+n > MaxTextBytes {
		return errTooLarge
	}
	r.made += n
	if n > 1<<16 && time.Now().After(r.before) {
		return errTooSlow
	}
	return nil
}

// rangeOver lets range begin, over nothing for null and for what is missing.
func (r *run) rangeOver(number int, v any) (any, error) {
	switch v := v.(type) {
	case nil, jsonvalue.Null:
		return []any(nil), nil
	case string, bool, Literal, Raw, time.Time:
		return nil, r.fault(number, errNoRange)
	default:
		return v, nil
	}
}

// fault is an error at a site.
func (r *run) fault(number int, err error) error {
	s := &r.t.sites[number]
	return r.t.at(s.source, s.pos, shorten(s.text), "%s", err)
}

// write appends a value at a site.
func (r *run) write(number int, v any, appendTo func([]byte, any) ([]byte, error)) (string, error) {
	if isMissing(v) {
		return "", r.fault(number, fmt.Errorf("%w; write {{default \"\" ...}} to have something else then", errIsMissing))
	}
	out, err := appendTo(r.out, v)
	if err != nil {
		return "", r.fault(number, err)
	}
	r.out = out
	return "", r.bounded()
}

// value writes JSON.
func (r *run) writeValue(number int, v any) (string, error) {
	if _, ok := v.(Raw); !ok && !r.mayBegin() {
		return "", r.fault(number, errBehind)
	}
	if of, ok := v.(Valuer); ok {
		var err error
		if v, err = of.TemplateValue(); err != nil {
			return "", r.fault(number, err)
		}
	}
	begin := len(r.out)
	_, err := r.write(number, v, appendJSON)
	r.value = len(r.out)
	if _, ok := v.(Literal); ok && r.value > begin {
		r.quoted = append(r.quoted, [2]int{begin - r.start, r.value - r.start})
	}
	return "", err
}

// mayBegin says whether a value can begin here, behind what was written.
func (r *run) mayBegin() bool {
	for i := len(r.out) - 1; i >= r.start; i-- {
		switch r.out[i] {
		case ' ', '\t', '\n', '\r':
		case '{', '[', ',', ':':
			return true
		default:
			return false
		}
	}
	return true
}

// writeKey writes the key of an object.
func (r *run) writeKey(number int, v any) (string, error) {
	if !r.mayBegin() {
		return "", r.fault(number, errBehind)
	}
	return r.write(number, v, func(dst []byte, v any) ([]byte, error) {
		switch v := v.(type) {
		case jsonvalue.Null:
			return dst, errNull
		case Raw:
			return append(dst, v...), nil
		}
		text, err := textOf(v)
		if err != nil {
			return dst, err
		}
		return appendString(dst, text), nil
	})
}

func (r *run) writeQuoted(number int, v any) (string, error) {
	return r.write(number, v, func(dst []byte, v any) ([]byte, error) {
		if raw, ok := v.(Raw); ok {
			return append(dst, raw...), nil
		}
		text, err := textOf(v)
		if err != nil {
			return dst, err
		}
		return appendEscaped(dst, text), nil
	})
}

func (r *run) writeText(number int, v any) (string, error) {
	return r.write(number, v, appendText)
}

func appendText(dst []byte, v any) ([]byte, error) {
	text, err := textOf(v)
	return append(dst, text...), err
}

func (r *run) writePath(number int, v any) (string, error) {
	return r.write(number, v, escaped(url.PathEscape))
}

func (r *run) writeQuery(number int, v any) (string, error) {
	return r.write(number, v, escaped(url.QueryEscape))
}

func escaped(escape func(string) string) func([]byte, any) ([]byte, error) {
	return func(dst []byte, v any) ([]byte, error) {
		if raw, ok := v.(Raw); ok {
			return append(dst, raw...), nil
		}
		text, err := textOf(v)
		if err != nil {
			return dst, err
		}
		if len(text) > MaxOutputBytes {
			return dst, errTooLong
		}
		return append(dst, escape(text)...), nil
	}
}
