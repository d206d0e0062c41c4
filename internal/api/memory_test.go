package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"
)

// idleClientsEnv makes the test binary a process that opens subscriptions and
// holds them until its input ends: "address number".
const idleClientsEnv = "TOCSIN_TEST_IDLE_CLIENTS"

func idleClients(what string) {
	address, count, _ := strings.Cut(what, " ")
	n, err := strconv.Atoi(count)
	var held []net.Conn // a connection that is collected is closed
	defer func() { runtime.KeepAlive(held) }()
	for i := 0; i < n && err == nil; i++ {
		var c net.Conn
		if c, err = net.Dial("tcp", address); err != nil {
			break
		}
		held = append(held, c)
		io.WriteString(c, request("GET", "/v1/sys/events/subscribe/kv*?json=true", upgrade))
		var res *http.Response
		if res, err = http.ReadResponse(bufio.NewReader(c), nil); err == nil && res.StatusCode != 101 {
			err = fmt.Errorf("subscription %d: %s", i, res.Status)
		}
	}
	fmt.Println("ready", err)
	io.Copy(io.Discard, os.Stdin)
}

// residentBytes is the memory of this process that is in RAM.
func residentBytes(t testing.TB) int64 {
	t.Helper()
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("needs /proc: ", err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// idleCost is what each of count idle subscriptions costs the server in RSS.
func idleCost(t testing.TB, count int) int64 {
	n := startNode(t, nil)
	warm := exec.Command(os.Args[0]) // whatever the first use of everything takes
	warm.Env = append(os.Environ(), idleClientsEnv+"="+n.addr+" 10")
	if out, err := warm.Output(); err != nil || !strings.HasPrefix(string(out), "ready <nil>") {
		t.Fatalf("%s %v", out, err)
	}
	before := residentBytes(t)

	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), idleClientsEnv+"="+n.addr+" "+strconv.Itoa(count))
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready <nil>\n" {
		t.Fatalf("%s %v", line, err)
	}
	runtime.GC()
	time.Sleep(100 * time.Millisecond) // stacks shrink at collections
	after := residentBytes(t)
	if open := n.hub.Subscriptions(); open != count {
		t.Fatalf("%d subscriptions are open, want %d", open, count)
	}
	stdin.Close()
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
	if err := n.hub.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	return (after - before) / int64(count)
}

func TestIdleSubscriptionsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory for itself")
	}
	if cost := idleCost(t, 1000); cost > 25_000 {
		t.Errorf("an idle subscription costs %d bytes, want at most 25,000", cost)
	}
}

// BenchmarkIdleSubscriptions reports what one of 9,000 idle subscriptions costs
// the server, everything included. It needs as many open files in each of two
// processes.
func BenchmarkIdleSubscriptions(b *testing.B) {
	for range b.N {
		b.ReportMetric(float64(idleCost(b, 9000)), "RSS-B/subscription")
	}
}
