package doctor

import (
	"fmt"
	"strings"
)

// tool is a program, under any of its names, and the package that has it for each family of distributions.
type tool struct {
	names, what              string // names with spaces between them
	debian, fedora, arch, ap string
}

var tools = []tool{
	{"go", "building and testing", "golang", "golang", "go", "go"},
	{"gcc", "the C programs that are compared with", "gcc", "gcc", "gcc", "gcc"},
	{"xenstore-ls", "Xen's own Xenstore clients", "xenstore-utils", "xen-runtime", "xen", "xen"},
	{"qemu-aarch64-static qemu-aarch64", "the arm64 tests on another processor",
		"qemu-user-static", "qemu-user-static", "qemu-user-static", "qemu-aarch64"},
	{"qemu-system-x86_64", "booting real Xen", "qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu-system-x86_64"},
	{"qemu-system-aarch64", "booting real Xen on arm64", "qemu-system-arm", "qemu-system-aarch64-core", "qemu-system-aarch64",
		"qemu-system-aarch64"},
}

func (x *examination) tools() {
	for _, t := range tools {
		name, path := x.find(t)
		switch {
		case path == "":
			x.add(topicTools, name, Absent, t.what, x.install(t))
		case name == "go" && x.GoVersion() == "":
			x.add(topicTools, name, Absent, path+" does not work", "")
		case name == "go" && !newEnough(x.GoVersion()):
			x.add(topicTools, name, Absent, fmt.Sprintf("%s is %s: building needs 1.%d or newer, which go.dev/dl has", path, x.GoVersion(),
				minGo), "")
		default:
			x.add(topicTools, name, OK, path, "")
		}
	}
}

// find returns the first name of the tool, or the one by which it is there, and where.
func (x *examination) find(t tool) (name, path string) {
	names := strings.Fields(t.names)
	for _, n := range names {
		if path, err := x.LookPath(n); err == nil {
			return n, path
		}
	}
	return names[0], ""
}

// minGo is the minor version of Go that the module needs.
const minGo = 26

// newEnough reports whether a version as "go1.26.1" is that or newer. One that does not look so is somebody's own, who knows.
func newEnough(version string) bool {
	var minor int
	if _, err := fmt.Sscanf(version, "go1.%d", &minor); err != nil {
		return true
	}
	return minor >= minGo
}

// install returns the command that installs a tool here, or "" where the distribution is not known.
func (x *examination) install(t tool) string {
	ids := make(map[string]bool)
	for _, line := range strings.Split(x.text("etc/os-release"), "\n") {
		key, value, _ := strings.Cut(line, "=")
		if key == "ID" || key == "ID_LIKE" {
			for _, id := range strings.Fields(strings.Trim(value, `"'`)) {
				ids[id] = true
			}
		}
	}
	switch {
	case ids["debian"] || ids["ubuntu"]:
		return x.sudo("apt-get install -y " + t.debian)
	case ids["fedora"] || ids["rhel"]:
		return x.sudo("dnf install -y " + t.fedora)
	case ids["arch"]:
		return x.sudo("pacman -S --noconfirm " + t.arch)
	case ids["alpine"]:
		return x.sudo("apk add " + t.ap)
	}
	return ""
}
