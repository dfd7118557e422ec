package doctor

import (
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
)

// Machine is what the doctor looks at.
type Machine struct {
	OS, Arch  string // as in runtime
	CPUs      int
	Root      fs.FS                                 // the file system, from /
	Open      func(path string) error               // tries to open a device for reading and writing
	LookPath  func(tool string) (string, error)     // finds a program
	Files     func() (soft, hard uint64, err error) // RLIMIT_NOFILE
	Memory    func() error                          // makes a sealed memfd, and a socket that passes descriptors
	InGroup   func(group string) (in bool, ok bool) // whether the user is in a group; ok is false where the group is not there
	Writable  func(dir string) error                // tries to make a file in a directory
	Sockets   string                                // the directory of the host's socket
	Named     bool                                  // whether the user has named that socket
	GoVersion func() string                         // what the go command says of itself, such as go1.26.1
	Served    func() bool                           // whether a simulated host serves it
	UserName  string
	IsRoot    bool
}

// Local is this machine. sockets is where simulated hosts have their socket; served reports whether one is there.
// named says that the user has named that socket, in HVKIT_HOST.
func Local(sockets string, named bool, served func() bool) *Machine {
	m := &Machine{
		OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Root: os.DirFS("/"), Open: openDevice,
		LookPath: exec.LookPath, Files: fileLimit, Memory: tryMemory, InGroup: inGroup, Writable: tryWrite,
		Sockets: sockets, Named: named, GoVersion: goVersion, Served: served, IsRoot: os.Getuid() == 0,
	}
	if u, err := user.Current(); err == nil {
		m.UserName = u.Username
	}
	return m
}

func openDevice(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func inGroup(name string) (in, ok bool) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return false, false
	}
	u, err := user.Current()
	if err != nil {
		return false, true
	}
	ids, err := u.GroupIds()
	if err != nil {
		return false, true
	}
	for _, id := range ids {
		if id == g.Gid {
			return true, true
		}
	}
	return false, true
}

// goVersion asks the go command itself: not one that it fetches because the module of the current directory wants it.
func goVersion() string {
	cmd := exec.Command("go", "env", "GOVERSION")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "GOTOOLCHAIN=local")
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// tryWrite makes and removes a file in the directory, or in the nearest one above it that is there: the rest a host makes itself.
func tryWrite(dir string) error {
	for parent := filepath.Dir(dir); parent != dir; dir, parent = parent, filepath.Dir(parent) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
	}
	f, err := os.CreateTemp(dir, "hvkit-doctor-")
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}
