//go:build !linux

package child

import (
	"os"
	"time"
)

func descriptorPath(*os.File) (string, bool) { return "", false }

func changeTime(info os.FileInfo) time.Time { return info.ModTime() }
