package main
import ("testing";"os";"bytes";"slices")
func lines(b *testing.B) [][]byte {
	text, err := os.ReadFile("/tmp/rtb/spans.log"); if err != nil { b.Fatal(err) }
	l := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	return slices.DeleteFunc(l, func(line []byte) bool { return bytes.Contains(line, []byte(`"request":{"id":"dev-`)) })
}
func BenchmarkOurs(b *testing.B) { l := lines(b); e, _ := listen(); b.ResetTimer(); for range b.N { if _, err := ours(e.url, l); err != nil { b.Fatal(err) } } }
