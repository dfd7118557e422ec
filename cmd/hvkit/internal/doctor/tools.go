package doctor

import "strings"

// tool is a program, and the package that has it for each family of distributions.
type tool struct {
	name, what               string
	debian, fedora, arch, ap string
}

var tools = []tool{
	{"go", "building and testing", "golang", "golang", "go", "go"},
	{"gcc", "the C programs that are compared with", "gcc", "gcc", "gcc", "gcc"},
	{"xenstore-ls", "Xen's own Xenstore clients", "xenstore-utils", "xen-runtime", "xen", "xen"},
	{"qemu-aarch64", "the arm64 tests on another processor", "qemu-user", "qemu-user", "qemu-user", "qemu-aarch64"},
	{"qemu-system-x86_64", "booting real Xen", "qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu-system-x86_64"},
	{"qemu-system-aarch64", "booting real Xen on arm64", "qemu-system-arm", "qemu-system-aarch64-core", "qemu-system-aarch64",
		"qemu-system-aarch64"},
}

func (x *examination) tools() {
	for _, t := range tools {
		path, err := x.LookPath(t.name)
		if err != nil {
			x.add(topicTools, t.name, Absent, t.what, x.install(t))
			continue
		}
		x.add(topicTools, t.name, OK, path, "")
	}
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
