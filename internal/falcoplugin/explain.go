package falcoplugin

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strings"
)

// machines are the processors that libraries can be loaded on, and how files name them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// explain says what is wrong with a file that the dynamic linker did not load, as far as the file
// itself tells, and what to do; "" if it does not. The linker's own words are often about
// something else: it says of a library for another processor that there is none.
func explain(path string) string {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "give the path of a library (.so) that is there"
	case errors.Is(err, fs.ErrPermission):
		return "the user of this process may not look into its directory"
	case err != nil:
		return ""
	case info.IsDir():
		return "it is a directory; name the library (.so) in it"
	case !info.Mode().IsRegular():
		return "it is not a file"
	case info.Size() == 0:
		return "the file is empty; build or copy it again"
	}
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return "the user of this process may not read it; change its owner or its mode"
		}
		return ""
	}
	defer f.Close()
	if runtime.GOOS != "linux" {
		return ""
	}
	return explainELF(f)
}

// cutOff says whether a file is the beginning of a library. The dynamic linker does not look, and
// crashes when it comes to what is not there.
func cutOff(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false // the linker will say so
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return endsBefore(f, uint64(info.Size()))
}

// endsBefore says whether a library for machines like this one has parts behind size.
func endsBefore(f io.ReaderAt, size uint64) bool {
	var h elf.Header64
	if err := binary.Read(io.NewSectionReader(f, 0, 64), binary.LittleEndian, &h); err != nil || !bytes.HasPrefix(h.Ident[:], []byte(elf.ELFMAG)) || elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return false
	}
	for i := range uint64(h.Phnum) {
		var p elf.Prog64
		at := h.Phoff + i*uint64(h.Phentsize)
		if at < h.Phoff || at > math.MaxInt64-64 || binary.Read(io.NewSectionReader(f, int64(at), 56), binary.LittleEndian, &p) != nil {
			return true
		}
		if end := p.Off + p.Filesz; elf.ProgType(p.Type) == elf.PT_LOAD && (end < p.Off || end > size) {
			return true
		}
	}
	return false
}

func explainELF(f io.ReaderAt) string {
	start := make([]byte, 20) // of the header: up to the machine, which is at one place in all classes
	n, _ := f.ReadAt(start, 0)
	start = start[:n]
	switch {
	case bytes.HasPrefix(start, []byte(elf.ELFMAG)):
	case bytes.HasPrefix(start, []byte("!<arch>")):
		return "it is a static library (.a); plugins are shared ones (.so)"
	case bytes.HasPrefix(start, []byte("MZ")):
		return "it is built for Windows"
	case bytes.HasPrefix(start, []byte("\xcf\xfa\xed\xfe")), bytes.HasPrefix(start, []byte("\xca\xfe\xba\xbe")):
		return "it is built for macOS"
	case bytes.HasPrefix(start, []byte("#!")):
		return "it is a script; a plugin that is a program of its own is started as a command, and speaks the plugin protocol"
	default:
		return "it is no shared library (ELF)"
	}
	if len(start) < cap(start) {
		return damaged
	}
	class, data, machine := elf.Class(start[elf.EI_CLASS]), elf.Data(start[elf.EI_DATA]), elf.Machine(binary.LittleEndian.Uint16(start[18:]))
	if data == elf.ELFDATA2MSB {
		machine = elf.Machine(binary.BigEndian.Uint16(start[18:]))
	}
	if machine != machines[runtime.GOARCH] || class != elf.ELFCLASS64 || data != elf.ELFDATA2LSB {
		return fmt.Sprintf("it is built for another machine (%s, %s bit), and this is %s; get or build it for this one", spelled(machine), strings.TrimPrefix(class.String(), "ELFCLASS"), runtime.GOARCH)
	}
	file, err := elf.NewFile(f)
	if err != nil {
		return damaged
	}
	switch file.Type {
	case elf.ET_REL:
		return "it is an object file; link it with -shared"
	case elf.ET_EXEC:
		return program
	case elf.ET_DYN:
		if flags, err := file.DynValue(elf.DT_FLAGS_1); err == nil && len(flags) > 0 && elf.DynFlag1(flags[0])&elf.DF_1_PIE != 0 {
			return program
		}
	default:
		return "it is no shared library: its type is " + spelled(file.Type)
	}
	return ""
}

const damaged = "the file is damaged; build or copy it again"

const program = "it is a program, not a library; a plugin that is a program of its own is started as a command, and speaks the plugin protocol"

// spelled is how people write a constant of the format: without its prefix, and in small letters.
func spelled(c fmt.Stringer) string {
	_, text, _ := strings.Cut(c.String(), "_")
	return strings.ToLower(text)
}
