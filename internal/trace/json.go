package trace

import (
	"math"
	"strconv"

	"github.com/tocsin-events/tocsin/internal/jsontext"
)

// AppendJSON appends the value as the JSON that is natural for it.
func (v *Value) AppendJSON(dst []byte) []byte {
	switch v.Kind {
	case Int:
		return strconv.AppendInt(dst, int64(v.Num), 10)
	case Float:
		return jsontext.AppendFloat(dst, math.Float64frombits(v.Num))
	case Bool:
		return strconv.AppendBool(dst, v.Num != 0)
	case Texts:
		return jsontext.AppendStrings(dst, v.Texts)
	}
	return jsontext.AppendString(dst, v.Text)
}
