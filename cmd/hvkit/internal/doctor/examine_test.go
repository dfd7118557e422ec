package doctor

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// bareMachine is a Linux machine that has nothing but what the simulated host needs.
func bareMachine() *Machine {
	return &Machine{
		OS: "linux", Arch: "amd64", CPUs: 2, UserName: "ann", Sockets: "/run/user/1000/hvkit",
		Root: fstest.MapFS{
			"proc/sys/kernel/osrelease": file("6.1.0\n"), "proc/sys/vm/max_map_count": file("65530\n"),
			"etc/os-release": file("ID=debian\n"),
		},
		Open:      func(string) error { return nil },
		LookPath:  func(string) (string, error) { return "", errors.New("not found") },
		Files:     func() (uint64, uint64, error) { return 8192, 1 << 20, nil },
		Memory:    func() error { return nil },
		InGroup:   func(string) (bool, bool) { return false, true },
		Writable:  func(string) error { return nil },
		Served:    func() bool { return false },
		GoVersion: func() string { return "go1.26.1" },
	}
}

// find returns what was found out about a name.
func find(t *testing.T, found []Finding, name string) Finding {
	t.Helper()
	for _, f := range found {
		if f.Name == name {
			return f
		}
	}
	require.Fail(t, "nothing is said of "+name)
	return Finding{}
}

func TestBareMachine(t *testing.T) {
	found := Examine(bareMachine())
	require.True(t, Healthy(found))
	require.Equal(t, "linux/amd64 6.1.0", find(t, found, "system").Detail)
	require.Equal(t, Absent, find(t, found, "Xen").State)
	require.Equal(t, "sudo apt-get install -y gcc", find(t, found, "gcc").Mend)
	require.Empty(t, find(t, found, "/dev/kvm").Mend, "a processor without the feature has no module to load")
	require.Equal(t, "sudo modprobe tun", find(t, found, "/dev/net/tun").Mend)
	for _, f := range found {
		require.NotEmpty(t, f.Topic)
		require.NotEmpty(t, f.Name)
		if f.State == OK || f.State == Note {
			require.Empty(t, f.Mend, f.Name)
		}
	}
}

func TestMissing(t *testing.T) {
	m := bareMachine()
	m.Files = func() (uint64, uint64, error) { return 256, 512, nil }
	m.Memory = func() error { return errors.New("memfd_create: function not implemented") }
	m.Writable = func(dir string) error {
		return &fs.PathError{Op: "open", Path: dir, Err: syscall.EROFS}
	}
	found := Examine(m)
	require.False(t, Healthy(found))
	require.Equal(t, Finding{topicSim, "open files", Missing, "at most 256: too few", "ulimit -n 8192"}, find(t, found, "open files"))
	require.Equal(t, "memfd_create: function not implemented", find(t, found, "shared memory").Detail)
	require.Equal(t, "open: read-only file system", find(t, found, "socket directory").Detail)
}

// The usual limit does for a demo, and is not called enough.
func TestFewOpenFiles(t *testing.T) {
	m := bareMachine()
	m.Files = func() (uint64, uint64, error) { return 1024, 1 << 20, nil }
	found := Examine(m)
	require.True(t, Healthy(found))
	require.Equal(t, Finding{topicSim, "open files", Note, "at most 1024: enough for few connections", "ulimit -n 65536"},
		find(t, found, "open files"))
}

func TestGoThatIsTooOld(t *testing.T) {
	m := bareMachine()
	m.LookPath = func(tool string) (string, error) { return "/usr/bin/" + tool, nil }
	for version, want := range map[string]State{
		"go1.19.8": Absent, "go1.25": Absent, "go1.26": OK, "go1.30.2": OK, "devel go1.27-abc": OK, "": Absent,
	} {
		m.GoVersion = func() string { return version }
		f := find(t, Examine(m), "go")
		require.Equal(t, want, f.State, version)
		require.Empty(t, f.Mend, "the distribution's may be as old")
	}
}

func TestSocketThatTheUserNamed(t *testing.T) {
	m := bareMachine()
	m.Named = true
	m.Writable = func(dir string) error { return &fs.PathError{Op: "open", Path: dir, Err: syscall.EROFS} }
	require.Contains(t, find(t, Examine(m), "socket directory").Mend, "HVKIT_HOST=")
	require.NoError(t, tryWrite(t.TempDir()+"/a/b/c"), "a host makes the directories")
}

func TestXenDomain(t *testing.T) {
	m := bareMachine()
	root := m.Root.(fstest.MapFS)
	root["sys/hypervisor/type"] = file("xen\n")
	root["sys/hypervisor/version/major"], root["sys/hypervisor/version/minor"] = file("4\n"), file("17\n")
	root["dev/xen/evtchn"], root["dev/xen/gntdev"] = file(""), file("")
	root["proc/xen/capabilities"] = file("control_d\n")
	m.Open = func(path string) error {
		if path == "/dev/xen/gntdev" {
			return &fs.PathError{Op: "open", Path: path, Err: os.ErrPermission}
		}
		return nil
	}
	found := Examine(m)
	require.Equal(t, "xen 4.17", find(t, found, "hypervisor below").Detail)
	require.Equal(t, OK, find(t, found, "/dev/xen/evtchn").State)
	denied := find(t, found, "/dev/xen/gntdev")
	require.Equal(t, Absent, denied.State)
	require.Equal(t, "mapping what others share; open: permission denied", denied.Detail)
	require.Contains(t, denied.Mend, "hvkit doctor --udev-rule | sudo tee /etc/udev/rules.d/")
	require.Contains(t, denied.Mend, "usermod -aG xen ann")
	require.Equal(t, "sudo modprobe xen-gntalloc", find(t, found, "/dev/xen/gntalloc").Mend)
	require.Equal(t, "sudo modprobe xen-privcmd", find(t, found, "/dev/xen/hypercall").Mend)
	require.Equal(t, Note, find(t, found, "domain 0").State)
	require.Empty(t, find(t, found, "/dev/xen/xenbus").Mend, "it is no module")

	m.InGroup = func(string) (bool, bool) { return false, false }
	require.Equal(t, "sudo groupadd --system xen && hvkit doctor", find(t, Examine(m), "/dev/xen/gntdev").Mend)
	m.InGroup = func(string) (bool, bool) { return true, true }
	require.Contains(t, find(t, Examine(m), "/dev/xen/gntdev").Mend, "log in again")

	// Root has the server's socket, and does not need the device.
	root["run/xenstored/socket"] = file("")
	find(t, Examine(m), "/dev/xen/xenbus")
	m.IsRoot = true
	require.Equal(t, OK, find(t, Examine(m), "Xenstore").State)
}

// An ordinary domain is not asked for what only a control domain's tools use.
func TestXenGuest(t *testing.T) {
	m := bareMachine()
	root := m.Root.(fstest.MapFS)
	root["sys/hypervisor/type"], root["sys/hypervisor/guest_type"] = file("xen\n"), file("PVH\n")
	root["sys/module/xen_gntalloc/parameters/limit"] = file("1024\n")
	found := Examine(m)
	for _, f := range found {
		require.NotContains(t, []string{"/dev/xen/privcmd", "domain 0"}, f.Name)
	}
	require.Equal(t, Note, find(t, found, "type").State)
	limit := find(t, found, "gntalloc's limit")
	require.Equal(t, Note, limit.State)
	require.Contains(t, limit.Detail, "sudo tee /sys/module/xen_gntalloc/parameters/limit")
	root["sys/module/xen_gntalloc/parameters/limit"] = file("16384\n")
	require.Equal(t, OK, find(t, Examine(m), "gntalloc's limit").State)
}

// The rule names the devices that programs need, and not those that are power over the host.
func TestUdevRule(t *testing.T) {
	rule := ""
	for line := range strings.Lines(UdevRule) {
		if !strings.HasPrefix(line, "#") {
			rule += line
		}
	}
	for _, d := range append(xenDevices, xenDevice{name: "xenbus"}) {
		require.Contains(t, rule, "xen/"+d.name)
	}
	for _, d := range privcmdDevices {
		require.NotContains(t, rule, d.name)
	}
	require.Contains(t, rule, `GROUP="`+xenGroup+`"`)
}

func TestKVM(t *testing.T) {
	m := bareMachine()
	root := m.Root.(fstest.MapFS)
	root["proc/cpuinfo"] = file("processor : 0\nflags : fpu vmx hypervisor\n")
	require.Equal(t, "sudo modprobe kvm-intel", find(t, Examine(m), "/dev/kvm").Mend)
	require.Equal(t, "yes (it does not say which)", find(t, Examine(m), "hypervisor below").Detail)
	root["dev/kvm"] = file("")
	m.Open = func(string) error { return os.ErrPermission }
	require.Equal(t, "sudo usermod -aG kvm ann", find(t, Examine(m), "/dev/kvm").Mend)
	m.InGroup = func(string) (bool, bool) { return true, true }
	require.Contains(t, find(t, Examine(m), "/dev/kvm").Mend, "log in again")
	root["proc/modules"] = file("kvm_amd 1 0 - Live 0x0\nkvm 1 1 kvm_amd, Live 0x0\n")
	root["sys/module/kvm_amd/parameters/nested"] = file("1\n")
	require.Equal(t, "kvm_amd nested=1", find(t, Examine(m), "nested").Detail)
}

func TestInstallers(t *testing.T) {
	for release, want := range map[string]string{
		"ID=ubuntu\nID_LIKE=debian\n":                    "apt-get install -y qemu-user-static",
		"ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n": "dnf install -y qemu-user-static",
		"ID=arch\n": "pacman -S --noconfirm qemu-user-static", "ID=alpine\n": "apk add qemu-aarch64", "ID=other\n": "", "": "",
	} {
		m := bareMachine()
		m.IsRoot = true
		m.Root.(fstest.MapFS)["etc/os-release"] = file(release)
		require.Equal(t, want, find(t, Examine(m), "qemu-aarch64-static").Mend, release)
	}
}

func TestOtherSystem(t *testing.T) {
	m := bareMachine()
	m.OS, m.Arch = "darwin", "arm64"
	found := Examine(m)
	require.False(t, Healthy(found))
	require.Equal(t, OK, find(t, found, "within a process").State)
	for _, f := range found {
		require.False(t, strings.HasPrefix(f.Name, "/dev"), f.Name)
	}
}

func TestThisMachine(t *testing.T) {
	found := Examine(Local(t.TempDir(), false, func() bool { return true }))
	require.Equal(t, "one is running", find(t, found, "host").Detail)
	require.NotEmpty(t, find(t, found, "system").Detail)
}
