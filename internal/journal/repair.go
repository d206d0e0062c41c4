package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"
)

// repairStreams makes good what a crash leaves behind while the server creates or
// reconfigures a stream: it writes meta.inf and then its checksum meta.sum, each
// atomically, and does not open a stream when the two do not fit. The first is
// always whole, so the second can be made anew; where it was not written yet,
// nothing can have been stored either, and the stream is removed. The files with
// which it tries whether it may write are removed too: the one at the top would
// be taken for an account. It must run before the server.
func repairStreams(dir string, log *slog.Logger) error {
	for _, pattern := range []string{"_test_*", "*/streams/*/_test_*"} {
		left, err := filepath.Glob(filepath.Join(dir, storeDir, pattern))
		if err != nil {
			return err
		}
		for _, path := range left {
			if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
				continue
			}
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	streams, err := filepath.Glob(filepath.Join(dir, storeDir, "*", "streams", "*"))
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if strings.HasPrefix(filepath.Base(stream), ".") {
			continue // being removed by the server
		}
		if err := repairStream(stream, log); err != nil {
			return fmt.Errorf("repair %s: %w", stream, err)
		}
	}
	return nil
}

func repairStream(dir string, log *slog.Logger) error {
	name := filepath.Base(dir)
	meta, err := os.ReadFile(filepath.Join(dir, server.JetStreamMetaFile))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(meta) == 0 {
		if stored, err := hasMessages(dir); stored || err != nil {
			return err // for the server to report
		}
		log.Info("removing a stream whose creation was interrupted", "stream", name)
		return os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	var config struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(meta, &config) != nil || config.Name != name {
		return nil // not the trace of a crash; for the server to report
	}
	key := sha256.Sum256([]byte(name))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return err
	}
	_, _ = hash.Write(meta)
	want := hex.EncodeToString(hash.Sum(nil))
	path := filepath.Join(dir, server.JetStreamMetaFileSum)
	if sum, err := os.ReadFile(path); err == nil && string(sum) == want {
		return nil
	}
	log.Info("completing the configuration of a stream whose change was interrupted", "stream", name)
	return writeFileSync(path, []byte(want))
}

// hasMessages reports whether any message was ever written to the stream.
func hasMessages(dir string) (bool, error) {
	blocks, err := filepath.Glob(filepath.Join(dir, "msgs", "*.blk"))
	if err != nil {
		return false, err
	}
	for _, block := range blocks {
		if info, err := os.Stat(block); err != nil || info.Size() > 0 {
			return true, err
		}
	}
	return false, nil
}
