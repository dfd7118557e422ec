package testbed

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvkit/hvkit/internal/testbed/guest"
	"github.com/stretchr/testify/require"
	"github.com/u-root/u-root/pkg/cpio"
)

// tree makes files: a text, or "-> " and where a symbolic link leads.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		full := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			require.NoError(t, os.Symlink(to, full))
			continue
		}
		require.NoError(t, os.WriteFile(full, []byte(text), 0o755))
	}
	return dir
}

// object is an ELF file that has a section .modinfo, and nothing else.
func object(info string) string {
	names := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	le := binary.LittleEndian
	const header, section = 64, 64
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, le, v) // a bytes.Buffer takes everything
		}
	}
	data := uint64(header)
	table := data + uint64(len(info)+len(names))
	put([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	put(uint16(1), uint16(62), uint32(1), uint64(0), uint64(0), table, uint32(0), uint16(header), uint16(0), uint16(0), uint16(section),
		uint16(3), uint16(2))
	b.WriteString(info + names)
	put([section]byte{})
	put(uint32(1), uint32(1), uint64(0), uint64(0), data, uint64(len(info)), uint64(0), uint64(0), uint64(0))
	put(uint32(10), uint32(3), uint64(0), uint64(0), data+uint64(len(info)), uint64(len(names)), uint64(0), uint64(0), uint64(0))
	b.Write(make([]byte, 3*section-(b.Len()-int(table))))
	return b.String()
}

func TestModulesInOrder(t *testing.T) {
	const dir = "lib/modules/6.1/"
	im, err := newImage(tree(t, map[string]string{
		dir + "kernel/a-b.ko":    object("license=GPL\x00depends=c,d_e\x00name=a_b\x00"),
		dir + "kernel/x/c.ko":    object("depends=d_e\x00"),
		dir + "kernel/x/d-e.ko":  object("depends=\x00license=GPL\x00"),
		dir + "kernel/f.ko":      object("license=GPL\x00"),
		dir + "kernel/lost.ko":   object("depends=nowhere\x00"),
		dir + "kernel/broken.ko": "no object",
		dir + "modules.builtin":  "kernel/drivers/in-kernel.ko\n",
	}))
	require.NoError(t, err)
	order, err := im.modules([]string{"f x=1 y=2", "a_b", "in_kernel", "c z=3"})
	require.NoError(t, err)
	require.Equal(t, []guest.Module{
		{Path: "/" + dir + "kernel/f.ko", Parameters: "x=1 y=2"}, {Path: "/" + dir + "kernel/x/d-e.ko"}, {Path: "/" + dir + "kernel/x/c.ko"},
		{Path: "/" + dir + "kernel/a-b.ko"},
	}, order)
	for _, m := range order {
		require.Contains(t, im.files, m.Path[1:])
	}
	for _, name := range []string{"none", "lost", "broken"} {
		_, err := im.modules([]string{name})
		require.Error(t, err, name)
	}
}

func TestImage(t *testing.T) {
	files := map[string]string{
		"usr/bin/tool": "-> ../lib/x/tool-1.2", "usr/lib/x/tool-1.2": "#!/bin/sh\n", "etc/a.conf": "-> /etc/b.conf", "etc/b.conf": "text",
	}
	make1 := func(order ...string) *image {
		im, err := newImage(tree(t, files))
		require.NoError(t, err)
		for _, name := range order {
			require.NoError(t, im.program(name))
		}
		require.NoError(t, im.config(&guest.Config{Hostname: "h", Modules: []guest.Module{{Path: "/m.ko"}}}))
		return im
	}
	one, err := make1("usr/bin/tool", "etc/a.conf").bytes()
	require.NoError(t, err)
	other, err := make1("etc/a.conf", "usr/bin/tool").bytes()
	require.NoError(t, err)
	require.True(t, bytes.Equal(one, other), "the same files make the same image")

	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(one)))
	require.NoError(t, err)
	seen := make(map[string]bool)
	for _, r := range records {
		if dir := filepath.Dir(r.Name); dir != "." {
			require.True(t, seen[dir], "%s comes after its directory", r.Name)
		}
		seen[r.Name] = true
	}
	for _, name := range []string{"usr/bin/tool", "usr/lib/x/tool-1.2", "etc/a.conf", "etc/b.conf", "dev/console", "etc/hvkit-guest.json"} {
		require.True(t, seen[name], name)
	}
	_, err = make1().file("usr/none")
	require.ErrorIs(t, err, os.ErrNotExist)
	files["loop"] = "-> loop"
	_, err = make1().file("loop")
	require.ErrorContains(t, err, "symbolic links")
	require.ErrorContains(t, make1().library("libnone.so.1"), "libnone.so.1")
}

func TestChoosePackages(t *testing.T) {
	s := &packageSet{roots: []string{"xen-system-amd64"}, keep: []string{"lib*", "zlib1g"}}
	require.Equal(t, []string{"libc6=2.36-9", "zlib1g=1:1.2.13", "xen-system-amd64=4.17.7+13"}, s.choose(
		`Reading package lists...
Inst perl (5.36 Debian:12 [amd64])
Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64]) []
Inst zlib1g:arm64 (1:1.2.13 Debian:12 [arm64])
Inst xen-system-amd64 (4.17.7+13 Debian-Security:12 [amd64])
Conf libc6 (2.36-9 Debian:12 [amd64])
Inst
`))
}

func TestOneFileOfMany(t *testing.T) {
	dir := tree(t, map[string]string{"boot/vmlinuz-6.1.0-9": "", "boot/vmlinuz-6.1.0-56": "", "boot/other": ""})
	p, err := one(dir, "boot/vmlinuz-*")
	require.NoError(t, err)
	require.Equal(t, "boot/vmlinuz-6.1.0-9", p)
	_, err = one(dir, "boot/none-*")
	require.Error(t, err)
}

func TestUnpack(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write([]byte("a hypervisor"))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	dir := tree(t, map[string]string{"boot/xen.gz": packed.String(), "boot/xen": "a hypervisor", "boot/broken.gz": packed.String()[:15]})
	h := &Host{dir: t.TempDir()}
	for _, name := range []string{"boot/xen.gz", "boot/xen"} {
		p, err := h.unpack("x", dir, name)
		require.NoError(t, err)
		text, err := os.ReadFile(p)
		require.NoError(t, err)
		require.Equal(t, "a hypervisor", string(text))
	}
	_, err = h.unpack("x", dir, "boot/broken.gz")
	require.Error(t, err)
}

func TestTail(t *testing.T) {
	tl := newTail(10)
	require.Empty(t, tl.String())
	all := ""
	for i := range 100 {
		s := fmt.Sprint(i)
		_, err := tl.Write([]byte(s))
		require.NoError(t, err)
		all += s
		require.Equal(t, all[max(0, len(all)-10):], tl.String())
		tl.mu.Lock()
		require.LessOrEqual(t, len(tl.buf), 20)
		tl.mu.Unlock()
	}
}

func TestOldSnapshotsAreForgotten(t *testing.T) {
	dir := tree(t, map[string]string{"xen-amd64-1": "", "xen-amd64-2": "", "xen-amd64-3": "", "xen-arm64-1": "", "new-1": ""})
	for i, name := range []string{"xen-amd64-2", "xen-amd64-1", "xen-amd64-3"} {
		at := time.Unix(int64(1000+i), 0)
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), at, at))
	}
	require.NoError(t, forget(dir, "xen-amd64", 2))
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{"new-1", "xen-amd64-1", "xen-amd64-3", "xen-arm64-1"}, baseNames(left))
}

func TestDomainConsole(t *testing.T) {
	d := &Domain{console: newTail(1000)}
	_, err := d.console.Write([]byte("[    1.0] hello\r\n\n=== hvkit guest 1 ===\n\x00\x00\x1e\x04frame\n\xff\n[   2.0] Kernel panic\n"))
	require.NoError(t, err)
	require.Equal(t, "[    1.0] hello\n\n=== hvkit guest 1 ===\n[   2.0] Kernel panic\n", d.Console())
}

func TestRecipes(t *testing.T) {
	for _, r := range Recipes {
		require.Same(t, r, Find(r.Name))
		require.Contains(t, strings.Join(r.Boot, " "), "{initrd}")
		require.Contains(t, strings.Join(r.Port, " "), "chardev=agent")
	}
	require.Nil(t, Find("none"))
}
