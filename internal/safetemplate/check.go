package safetemplate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// check says what is wrong with b as one JSON value: that it is none, or that an object has
// a key twice, of which receivers take one or the other. Only what stands in quoted, ranges in
// their order, may have that: it is JSON that somebody else made. It quotes nothing of b.
func check(b []byte, quoted [][2]int) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return errors.New("it is empty")
	}
	if !json.Valid(b) {
		var v any
		err := json.Unmarshal(b, &v)
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			before := b[:min(max(int(syntax.Offset)-1, 0), len(b))]
			return fmt.Errorf("it is not valid JSON from line %d, column %d of it on", 1+bytes.Count(before, []byte("\n")), len(before)-bytes.LastIndexByte(before, '\n'))
		}
		return errors.New("it is not valid JSON")
	}
	return checkKeys(b, quoted)
}

// object is the keys of an object so far.
type object struct {
	isObject bool
	keyNext  bool
	few      [][]byte
	many     map[string]bool // of more than that
}

// has adds a key, and says whether it was there.
func (o *object) has(key []byte) bool {
	if o.many == nil {
		for _, k := range o.few {
			if bytes.Equal(k, key) {
				return true
			}
		}
		if o.few = append(o.few, key); len(o.few) > 16 {
			o.many = make(map[string]bool)
			for _, k := range o.few {
				o.many[string(k)] = true
			}
		}
		return false
	}
	there := o.many[string(key)]
	o.many[string(key)] = true
	return there
}

// checkKeys looks for keys that are twice in an object of valid JSON.
func checkKeys(b []byte, quoted [][2]int) error {
	var open []object
	for i := 0; i < len(b); i++ {
		if len(quoted) > 0 && i == quoted[0][0] {
			i = quoted[0][1] - 1
			quoted = quoted[1:]
			continue
		}
		switch b[i] {
		case '{', '[':
			open = append(open, object{isObject: b[i] == '{', keyNext: b[i] == '{'})
		case '}', ']':
			open = open[:len(open)-1]
		case ',':
			o := &open[len(open)-1]
			o.keyNext = o.isObject
		case '"':
			end, escaped := i+1, false
			for b[end] != '"' {
				if b[end] == '\\' {
					end++
					escaped = true
				}
				end++
			}
			if n := len(open); n > 0 && open[n-1].keyNext {
				key := b[i+1 : end]
				if escaped {
					var text string
					if json.Unmarshal(b[i:end+1], &text) == nil {
						key = []byte(text)
					}
				}
				if open[n-1].has(key) {
					return fmt.Errorf("an object has two members with the same key, from byte %d on", i)
				}
				open[n-1].keyNext = false
			}
			i = end
		}
	}
	return nil
}
