package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSendPage types what docs/send-to-slack-kafka-webhook.md shows, up to Kafka.
func TestSendPage(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED: there is no Python for the receivers of the page")
	}
	p := newPage(t)
	p.save("receiver.py", pythonOf(t, "../../docs/sink-webhook.md"))
	p.typed("../../docs/send-to-slack-kafka-webhook.md", 15)
}

// TestPluginPage types what docs/run-a-falco-plugin.md shows.
func TestPluginPage(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("SKIPPED: there is no C compiler for the plugin of the page")
	}
	newPage(t).typed("../../docs/run-a-falco-plugin.md", 12)
}

// TestWritePluginPage types what docs/write-a-source-plugin.md shows.
func TestWritePluginPage(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"go", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: there is no %s for the plugin of the page", program)
		}
	}
	p := newPage(t)
	p.buildsGo()
	p.typed("../../docs/write-a-source-plugin.md", 15)
}

// buildsGo lets the page build programs in Go, with this checkout as the directory tocsin.
func (p *page) buildsGo() {
	p.t.Helper()
	if os.Getenv("TOCSIN_TESTS") != "all" {
		p.t.Skip("skipped, because it builds programs and takes a minute: TOCSIN_TESTS=all runs it, and .ci/run does")
	}
	for _, name := range []string{"GOMODCACHE", "GOCACHE"} { // the home of the page has none
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			p.t.Fatal(err)
		}
		p.env = append(p.env, name+"="+strings.TrimSpace(string(value)))
	}
	p.env = append(p.env, "GOWORK=off", "GOFLAGS=")
	checkout, err := filepath.Abs("../..")
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.Symlink(checkout, filepath.Join(p.dir, "tocsin")); err != nil {
		p.t.Fatal(err)
	}
}

// TestFalcoPluginPage types what docs/falco-plugin.md shows.
func TestFalcoPluginPage(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"go", "gcc", "make"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: there is no %s to build the plugin of the page", program)
		}
	}
	p := newPage(t)
	p.buildsGo()
	log, err := os.ReadFile("testdata/audit.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "vault.log"), log, 0o600); err != nil {
		t.Fatal(err)
	}
	p.typed("../../docs/falco-plugin.md", 7)
}

// TestWriteRulePage types what docs/write-a-rule.md shows.
func TestWriteRulePage(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("SKIPPED: there is no openssl for the token of the page")
	}
	newPage(t).typed("../../docs/write-a-rule.md", 20)
}

// TestCapturesPage types what docs/captures.md shows.
func TestCapturesPage(t *testing.T) {
	t.Parallel()
	p := newPage(t)
	for name, from := range map[string]string{"falco.scap": "../../internal/capture/testdata/falco-real.scap", "vault.log": "testdata/audit.jsonl"} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.typed("../../docs/captures.md", 12)
}

// typed types what a page shows, with at least so many commands, and compares what is printed
// with the page, but for times, ids, keys and the like. With -update the page gets what is
// printed. Blocks of the page are
//
//	commands, each behind "$ ", with what they print
//	<!-- page: background NAME -->  one command that goes on
//	<!-- page: prints NAME -->      what that has printed since the last such block
//	<!-- page: stop NAME -->        it gets a Ctrl-C
//	<!-- page: kill NAME -->        it is killed, however the block does that
//	<!-- page: file NAME -->        a file that is saved, where /tmp/try is the directory of the page
//	<!-- page: fails -->            commands of which each fails, as the page explains
//	<!-- page: needs PROGRAM -->    commands that are not typed where there is no such program
//	<!-- page: end -->              nothing behind it is tried
func (p *page) typed(path string, atLeast int) {
	t := p.t
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	var page []string
	directive := ""
	commands := 0
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		page = append(page, line)
		if m := pageDirective.FindStringSubmatch(line); m != nil {
			directive = m[1]
			if name, ok := strings.CutPrefix(directive, "stop "); ok {
				p.stop(name)
				directive = ""
			}
			if directive == "end" {
				page = append(page, lines[i+1:]...)
				break
			}
			continue
		}
		if !strings.HasPrefix(line, "```") {
			continue
		}
		end := i + 1 + slices.Index(lines[i+1:], "```")
		if end <= i {
			t.Fatalf("line %d: the block does not end", i+1)
		}
		block := lines[i+1 : end]
		what, name, _ := strings.Cut(directive, " ")
		switch what {
		case "file":
			p.save(name, strings.Join(block, "\n")+"\n")
		case "background":
			p.background(name, strings.TrimPrefix(block[0], "$ "), block[1:])
			commands++
		case "kill":
			if process := p.processes[name]; process == nil || process.command.Process.Kill() != nil {
				t.Errorf("%s does not run", name)
			} else {
				process.command.Wait()
			}
			commands++
		case "prints":
			block = p.prints(name, block)
		case "fails":
			p.fails = true
			var n int
			block, n = p.session(block)
			commands += n
			p.fails = false
		case "needs":
			if _, err := exec.LookPath(name); err != nil {
				t.Logf("SKIPPED: a part of %s: there is no %s", path, name)
				break
			}
			var n int
			block, n = p.session(block)
			commands += n
		default:
			var n int
			block, n = p.session(block)
			commands += n
		}
		page = append(append(page, block...), "```")
		directive = ""
		i = end
	}
	if commands < atLeast {
		t.Errorf("only %d commands were found", commands)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(path, []byte(strings.Join(page, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var pageDirective = regexp.MustCompile(`^<!-- page: (.*) -->$`)

// pythonOf returns the program on a page.
func pythonOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, program, found := strings.Cut(string(text), "```python\n")
	program, _, ended := strings.Cut(program, "```\n")
	if !found || !ended {
		t.Fatalf("%s has no program", path)
	}
	return program
}

// page is a directory in which the commands of a page are typed. Ports of the page are
// replaced by free ones.
type page struct {
	t         *testing.T
	dir       string
	env       []string
	ports     []string // as on the page, and what they are here, in turns
	processes map[string]*pageProcess
	fails     bool // commands are to fail
}

type pageProcess struct {
	command *exec.Cmd
	file    string
	shown   int // bytes of the output that prints has dealt with
}

func newPage(t *testing.T) *page {
	p := &page{t: t, dir: t.TempDir(), processes: make(map[string]*pageProcess)}
	for _, port := range []string{"8280", "9000", "9001"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, free, _ := net.SplitHostPort(l.Addr().String())
		p.ports = append(p.ports, port, free)
	}
	p.env = append(os.Environ(), "PATH="+programDir+string(filepath.ListSeparator)+os.Getenv("PATH"), "HOME="+p.dir, "TMPDIR="+p.dir,
		"XDG_CACHE_HOME="+filepath.Join(p.dir, "cache"), "XDG_CONFIG_HOME="+filepath.Join(p.dir, "config"), "TOCSIN_ADDR=http://127.0.0.1:"+p.ports[1], "TZ=UTC")
	t.Cleanup(func() {
		for name := range p.processes {
			p.stop(name)
		}
	})
	return p
}

// here replaces ports of the page by those of the test.
func (p *page) here(text string) string {
	text = strings.NewReplacer(p.ports...).Replace(text)
	return strings.Replace(text, "tocsin dev", "tocsin dev --listen 127.0.0.1:"+p.ports[1], 1)
}

// asShown turns an output into what the page would show.
func (p *page) asShown(output string) []string {
	var back []string
	for i := 0; i < len(p.ports); i += 2 {
		back = append(back, ":"+p.ports[i+1], ":"+p.ports[i])
	}
	back = append(back, p.dir, "/tmp/try")
	output = strings.TrimRight(strings.NewReplacer(back...).Replace(output), "\n")
	if output == "" {
		return nil
	}
	lines := strings.Split(output, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

func (p *page) save(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(strings.ReplaceAll(p.here(text), "/tmp/try", p.dir)), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *page) background(name, command string, shown []string) {
	p.t.Helper()
	c := exec.Command("sh", "-c", "exec "+p.here(command))
	file := filepath.Join(p.dir, name+".out")
	out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	c.Dir, c.Env, c.Stdout, c.Stderr = p.dir, p.env, out, out
	if err := c.Start(); err != nil {
		p.t.Fatal(err)
	}
	before := p.processes[name]
	p.processes[name] = &pageProcess{command: c, file: file}
	if before != nil {
		p.processes[name].shown = before.shown
	}
	// A receiver says nothing when it listens; the port says it.
	for i := 0; i < len(p.ports); i += 2 {
		if strings.Contains(command, p.ports[i]) || name == "slack" && p.ports[i] == "9001" {
			p.awaitTrue(name+" listens", func() bool {
				conn, err := net.Dial("tcp", "127.0.0.1:"+p.ports[i+1])
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
		}
	}
	if len(shown) > 0 {
		p.awaitTrue(name+" prints "+shown[0], func() bool {
			got, err := os.ReadFile(file)
			return err == nil && strings.HasPrefix(string(got), shown[0]+"\n") && strings.Contains(string(got), "Ctrl-C ends it.")
		})
	}
}

func (p *page) awaitTrue(what string, done func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func (p *page) stop(name string) {
	process := p.processes[name]
	if process == nil || process.command.ProcessState != nil {
		return
	}
	process.command.Process.Signal(syscall.SIGTERM) // Python would print a traceback at SIGINT
	process.command.Wait()
}

// prints waits until a process that goes on has printed what a block shows, in any order: events
// of different paths have none.
func (p *page) prints(name string, block []string) []string {
	p.t.Helper()
	process := p.processes[name]
	if process == nil {
		p.t.Fatalf("%s does not run", name)
	}
	want := masked(block)
	slices.Sort(want)
	var got []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		all, err := os.ReadFile(process.file)
		if err != nil {
			p.t.Fatal(err)
		}
		got = p.asShown(string(all[process.shown:]))
		if len(got) < len(want) {
			continue
		}
		process.shown = len(all)
		break
	}
	if shown := masked(got); !slices.Equal(slices.Sorted(slices.Values(shown)), want) {
		p.t.Errorf("%s prints\n%s\nthe page shows\n%s", name, strings.Join(got, "\n"), strings.Join(block, "\n"))
	}
	return got
}

// session types the commands of a block, and returns it with what they print.
func (p *page) session(block []string) (typed []string, commands int) {
	p.t.Helper()
	for i := 0; i < len(block); {
		command, ok := strings.CutPrefix(block[i], "$ ")
		if !ok {
			return block, commands // it shows no commands
		}
		commands++
		next := i + 1
		for next < len(block) && !strings.HasPrefix(block[next], "$ ") {
			next++
		}
		typed = append(typed, block[i])
		typed = append(typed, p.run(command, block[i+1:next])...)
		i = next
	}
	return typed, commands
}

// looking are commands that can be typed again until they show what they should.
var looking = regexp.MustCompile(`^(tocsin (sink (list|show|attempts|dlq list)|login|plugin sources|rules list)|wc) `)

// commandTime is how long one command may take: some build a program.
const commandTime = 5 * time.Minute

// run types a command. When it prints something else than is wanted that is an error, unless
// the page is written anew.
func (p *page) run(command string, want []string) (got []string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(p.t.Context(), commandTime)
		c := exec.CommandContext(ctx, "sh", "-c", p.here(command))
		c.Dir, c.Env = p.dir, p.env
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) } // with what it has started
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		err := c.Run()
		cancel()
		got = p.asShown(out.String())
		if _, ended := errors.AsType[*exec.ExitError](err); p.fails && ended {
			err = nil
		} else if p.fails {
			err = errors.New("it does not fail")
		}
		if err == nil && slices.Equal(masked(got), masked(want)) {
			return got
		}
		again := looking.MatchString(command + " ")
		// While the page is written, what a command shows at last is what it shows.
		settled := *update && time.Now().After(deadline.Add(-patience+2*time.Second))
		if again && !settled && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			p.t.Errorf("$ %s\n%s\n%v", command, strings.Join(got, "\n"), err)
		} else if !*update {
			p.t.Errorf("$ %s\n%s\nthe page shows\n%s\n(go test ./test/acceptance -run %s -update writes it anew)", command, strings.Join(got, "\n"), strings.Join(want, "\n"), p.t.Name())
		}
		return got
	}
}

// masks replace what is another each time.
var masks = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{8,}Z?`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`\b([0-9]+m)?[0-9]+(\.[0-9]+)?(µs|ms|s)\b`), "TOOK"},
	{regexp.MustCompile(`(running|failing) +(-|[0-9]+ \(TOOK\)) `), "$1 LAG "},
	{regexp.MustCompile(`\b0\.0\.0-(devel|[0-9]{14}-[0-9a-f]{12}(\+dirty)?)`), "VERSION"}, // of a build
	{regexp.MustCompile(` +`), " "},
}

func masked(lines []string) []string {
	var all []string
	for _, line := range lines {
		for _, m := range masks {
			line = m.what.ReplaceAllString(line, m.by)
		}
		all = append(all, strings.TrimRight(line, " "))
	}
	return all
}

// TestMasks: what differs each time is the same, and what does not is not.
func TestMasks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"signed  webhook  failing  2 (1.5s)  1  0  x", "signed  webhook   failing  2 (2m3s)  1  0  x", true},
		{"file  running  -  1", "file  running  1 (0s)  1", true},
		{"file  running  -  1", "file  running  -  2", false},
		{"took     1.9ms", "took     12µs", true},
		{"01a21be9-94f0-75bd-890c-6b67f12c60ec x", "01a21be9-95c0-7315-beb3-9155a7587426 x", true},
		{"at 2026-11-27T07:30:43Z, refused", "at 2027-01-02T07:31:43.5Z, refused", true},
		{"outcome  delivered", "outcome  refused", false},
	} {
		if same := fmt.Sprint(masked([]string{tt.a})) == fmt.Sprint(masked([]string{tt.b})); same != tt.same {
			t.Errorf("%q and %q: %v", tt.a, tt.b, same)
		}
	}
}
