package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"
)

// snapshotPatience bounds the writing of a snapshot.
const snapshotPatience = time.Minute

// snapshotBandwidth is how fast QEMU may write a snapshot, in bytes a second: by default it spares a network.
const snapshotBandwidth = 4 << 30

// snapshot is the file that holds the state of a host which has booted from the same files, with the same arguments, under the same QEMU.
// It may not be there yet.
func (h *Host) snapshot(e *emulator, args, files []string) (string, error) {
	sum := sha256.New()
	// The names of the files differ from host to host; what is in them does not.
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, h.dir, "")
	}
	if err := json.NewEncoder(sum).Encode([][]string{e.words, args}); err != nil {
		return "", err
	}
	for _, name := range append(files, e.words[0]) {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(sum, f)
		_ = f.Close()
		if err != nil {
			return "", err
		}
	}
	name := h.recipe.Name + "-" + hex.EncodeToString(sum.Sum(nil))[:16]
	return filepath.Join(h.config.Cache.dir, "snapshots", name), nil
}

// save writes the state of the machine, which stands still meanwhile, to a file.
func (h *Host) save(ctx context.Context, file string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotPatience)
	defer cancel()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "new-*")
	if err != nil {
		return err
	}
	_ = tmp.Close()
	defer func() { _ = os.Remove(tmp.Name()) }()
	qemu := raw.NewMonitor(h.monitor)
	bandwidth := int64(snapshotBandwidth)
	if err := qemu.MigrateSetParameters(&raw.MigrateSetParameters{MaxBandwidth: &bandwidth}); err != nil {
		return err
	}
	if err := qemu.Stop(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, qemu.Cont()) }()
	if err := qemu.Migrate("exec:cat > '"+strings.ReplaceAll(tmp.Name(), "'", `'\''`)+"'", nil, nil, nil); err != nil {
		return err
	}
	for {
		info, err := qemu.QueryMigrate()
		if err != nil {
			return err
		}
		if info.Status != nil && *info.Status == raw.MigrationStatusCompleted {
			break
		}
		if info.Status != nil && *info.Status == raw.MigrationStatusFailed {
			return fmt.Errorf("testbed: snapshot: %+v", info)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("testbed: snapshot: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	return forget(filepath.Dir(file), h.recipe.Name, keptSnapshots)
}

// keptSnapshots is how many snapshots there are of each recipe: more than one, for several working trees may share the cache.
const keptSnapshots = 2

// forget removes the snapshots of a recipe that have not been used for the longest time.
func forget(dir, recipe string, keep int) error {
	files, err := filepath.Glob(filepath.Join(dir, recipe+"-*"))
	if err != nil {
		return err
	}
	used := make(map[string]time.Time)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil { // another process may have removed it
			used[f] = info.ModTime()
		}
	}
	slices.SortFunc(files, func(a, b string) int { return used[b].Compare(used[a]) })
	for _, f := range files[min(keep, len(files)):] {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// resume waits until QEMU has read a snapshot, and lets the machine run: its state was written while it stood still.
func (h *Host) resume(ctx context.Context) error {
	qemu := raw.NewMonitor(h.monitor)
	for {
		status, err := qemu.QueryStatus()
		if err != nil {
			return err
		}
		if status.Status != raw.RunStateInmigrate {
			return qemu.Cont()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("testbed: read the snapshot: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
