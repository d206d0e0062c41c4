package main
import ("testing";"bytes";"os")
func BenchmarkOurs(b *testing.B){
 text,_:=os.ReadFile("/tmp/bench.jsonl")
 lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
 e,_:=listen()
 n:=0
 for b.Loop(){ k,err:=ours(e.url,lines); if err!=nil{b.Fatal(err)}; n+=k }
 b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n),"ns/req")
}
