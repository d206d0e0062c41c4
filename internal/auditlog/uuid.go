package auditlog

// ParseUUID returns the 16 bytes of the text form of a UUID, 8-4-4-4-12 hex digits, which
// is what most request ids are.
func ParseUUID(s string) (id [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, false
	}
	var bad byte
	for n, i := range [16]byte{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34} {
		high, low := hexValue[s[i]], hexValue[s[i+1]]
		bad |= high | low
		id[n] = high<<4 | low
	}
	return id, bad < 16
}

// hexValue has the value of each hex digit, and 0xff for other bytes.
var hexValue = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range byte(10) {
		t['0'+i] = i
	}
	for i := range byte(6) {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()
