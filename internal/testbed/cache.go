package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// EnvCache is the environment variable that says where packages are kept. Default: a directory of the user's cache.
const EnvCache = "HVKIT_TESTBED_CACHE"

// Cache is the directory that packages are unpacked to.
type Cache struct{ dir string }

// OpenCache returns the cache, which it makes.
func OpenCache() (*Cache, error) {
	dir := os.Getenv(EnvCache)
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("testbed: no place for the cache (%s sets one): %w", EnvCache, err)
		}
		dir = filepath.Join(user, "hvkit", "testbed")
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("testbed: cache: %w", err)
	}
	return &Cache{dir}, nil
}

// Dir is where it is.
func (c *Cache) Dir() string { return c.dir }

// Fetch makes sure that all that a recipe needs is in the cache, or on this machine.
func (c *Cache) Fetch(ctx context.Context, r *Recipe, log io.Writer) error {
	if _, err := c.tree(ctx, r.packages(), log); err != nil {
		return err
	}
	_, err := c.findEmulator(ctx, r.QEMU, log)
	return err
}

// Clean removes everything.
func (c *Cache) Clean() error { return os.RemoveAll(c.dir) }

// lock makes this process the only one that changes the part of the cache of that name, until unlock.
func (c *Cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		ok, err := tryLock(f)
		if ok {
			return func() { _ = f.Close() }, nil
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("testbed: another process has the cache: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
