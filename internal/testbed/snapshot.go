package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

// save writes the state of the machine, which stands still meanwhile, to a file. Older snapshots of the recipe are removed.
func (h *Host) save(ctx context.Context, file string) error {
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
	old, err := filepath.Glob(filepath.Join(filepath.Dir(file), h.recipe.Name+"-*"))
	if err != nil {
		return err
	}
	for _, o := range old {
		_ = os.Remove(o)
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	return qemu.Cont()
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
