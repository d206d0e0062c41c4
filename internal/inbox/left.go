package inbox

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Left tells how many lines are in the files of an inbox that nobody has open, and how long
// they are together, roughly. Those that were released count as long as their file holds
// others. Nothing is changed. A directory that does not exist has none.
func Left(dir string) (lines, bytes uint64, err error) {
	d := directoryDisk(dir)
	names, err := d.list()
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read the directory of an inbox: %w", err)
	}
	for _, name := range names {
		if _, ok := segmentNumber(name); !ok {
			continue
		}
		c, err := leftIn(d, name)
		if err != nil {
			return lines, bytes, fmt.Errorf("look into a file of an inbox: %w", err)
		}
		lines, bytes = lines+c.lines, bytes+c.bytes
	}
	return lines, bytes, nil
}

// leftIn returns what is in a file.
func leftIn(d disk, name string) (c content, err error) {
	f, err := d.open(name)
	if err != nil {
		return c, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return c, err
	}
	b := make([]byte, segmentHeader)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return c, err
	}
	h, ok := parseHeader(b[:n])
	if !ok {
		return c, nil // it is free, or damaged
	}
	if c, ok = parseContent(b[headerBlock:n], &h, size); ok {
		return c, nil
	}
	return scan(f, size, &h)
}
