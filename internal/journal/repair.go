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
	if err := finishRemovals(dir, log); err != nil {
		return err
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

// removingPrefix begins the name of a file that says that a stream is being removed.
const removingPrefix = "removing-"

// removing runs what removes a stream, so that the next start finishes it after a crash in the
// middle: the server removes meta.inf first, and does not open what is left.
func (j *Journal) removing(stream string, remove func() error) error {
	mark := filepath.Join(j.dir.path, removingPrefix+stream)
	// On a full disk the stream is removed all the same: that makes room, and a crash in this
	// moment is unlikely.
	_ = writeFileSync(mark, nil)
	if err := remove(); err != nil {
		return err // the mark does no harm: see finishRemovals
	}
	_ = os.Remove(mark)
	return nil
}

// finishRemovals removes streams of which a crash has left a part. A stream that is whole
// stays: nothing of it was removed, or it was made anew.
func finishRemovals(dir string, log *slog.Logger) error {
	marks, err := filepath.Glob(filepath.Join(dir, removingPrefix+"*"))
	if err != nil {
		return err
	}
	for _, mark := range marks {
		name := strings.TrimPrefix(filepath.Base(mark), removingPrefix)
		left, err := filepath.Glob(filepath.Join(dir, storeDir, "*", "streams", name))
		if err != nil {
			return err
		}
		for _, stream := range left {
			if _, err := os.Lstat(filepath.Join(stream, server.JetStreamMetaFile)); !errors.Is(err, os.ErrNotExist) {
				continue
			}
			log.Info("removing what is left of a stream whose removal was interrupted", "stream", name)
			if err := os.RemoveAll(stream); err != nil {
				return err
			}
		}
		if err := os.Remove(mark); err != nil {
			return err
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
