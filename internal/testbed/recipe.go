package testbed

import "github.com/hvkit/hvkit/internal/testbed/guest"

// Recipe says how a kind of host is made and booted. It is data: a new kind of host is a new value.
type Recipe struct {
	// Name is what commands and tests call it.
	Name string
	// Tree is the name of the recipe whose packages it shares; "" has its own.
	Tree string
	// Arch is the guest's architecture, as Go and Debian call it.
	Arch string
	// Packages are Debian packages of the guest. What they depend on is fetched too, as far as Keep says.
	Packages []string
	// Keep are patterns (path.Match) of the names of those dependencies that are wanted: libraries and not, say, an editor.
	Keep []string
	// Programs go into the control domain's image, with the libraries that they need. Names are patterns within the unpacked packages.
	Programs []string
	// Tools are programs that are there on some architectures only.
	Tools []string
	// Files go there as they are. Names are patterns, too.
	Files []string
	// Modules are the kernel's modules, by name, that init loads, with their parameters; those that they need come by themselves.
	Modules []string
	// DomainModules are those of the domains above the control domain.
	DomainModules []string
	// Control are the services of the control domain. Paths may be patterns within the unpacked packages.
	Control []guest.Service
	// Idle has init start none of them.
	Idle bool

	// Hypervisor and Kernel are patterns within the unpacked packages. A file that is compressed by gzip is unpacked. There may be no
	// hypervisor.
	Hypervisor, Kernel string
	// HypervisorLine and KernelLine are their command lines.
	HypervisorLine, KernelLine string
	// Boot are QEMU's arguments that load them, with {hypervisor}, {hypervisor-line}, {kernel}, {kernel-line} and {initrd}.
	Boot []string

	// Machine are QEMU's arguments that make the machine, but for memory.
	QEMU    string // the program
	Machine []string
	// Memory of the machine, in MiB.
	Memory int
	// Port are the arguments that give the machine a virtio port for the character device "agent".
	Port []string
	// Domains are the kinds of domains that can be created, by name, with what xl's configuration says of them.
	Domains map[string][]string
}

// keepLibraries is what dependencies are good for here.
var keepLibraries = []string{"lib*", "zlib1g", "linux-image-*", "xen-hypervisor-*", "xen-utils-*", "xenstore-utils"}

// xenPrograms are Xen's, and a shell for people.
var xenPrograms = []string{
	"usr/lib/xen-*/bin/xenstored", "usr/lib/xen-*/bin/xenconsoled", "usr/lib/xen-*/bin/xen-init-dom0", "usr/lib/xen-*/bin/xl",
	"usr/lib/xen-*/bin/vchan-socket-proxy", "usr/lib/xen-*/bin/test-xenstore", "usr/lib/xen-*/bin/xenstore-control", "usr/bin/xenstore",
	"usr/bin/xenstore-*", "bin/busybox",
	"lib/*/libgcc_s.so.1", // the C library loads it when a thread is cancelled, which xl does
}

var xenTools = []string{
	"usr/lib/xen-*/bin/oxenstored", "usr/lib/xen-*/bin/libxl-save-helper", "usr/lib/xen-*/bin/lsevtchn", "usr/lib/xen-*/bin/xen-diag",
}

// xenModules are those of domains that use Xen's interfaces from user space. Without its parameter, privcmd makes no hypercalls for
// programs in a domain other than dom0 (Debian's 6.1.192 says "No target domain found, blocking all hypercalls").
var xenModules = []string{"xen-evtchn", "xen-gntalloc", "xen-gntdev", "xen-privcmd unrestricted=1", "xenfs"}

var xenControl = []guest.Service{
	{Path: "usr/lib/xen-*/bin/xenstored", Args: []string{"--pid-file", "/run/xenstored.pid"}, Ready: "/run/xenstored/socket"},
	{Path: "usr/lib/xen-*/bin/xen-init-dom0"},
	{Path: "usr/lib/xen-*/bin/xenconsoled", Args: []string{"--pid-file=/run/xenconsoled.pid"}, Ready: "/run/xenconsoled.pid"},
}

// XenAMD64 is a Xen host on x86-64 with a PV control domain.
var XenAMD64 = &Recipe{
	Name:           "xen-amd64",
	Arch:           "amd64",
	Packages:       []string{"xen-system-amd64", "linux-image-amd64", "xenstore-utils", "busybox-static"},
	Keep:           keepLibraries,
	Programs:       xenPrograms,
	Tools:          xenTools,
	Files:          []string{"etc/xen/xl.conf", "etc/xen/oxenstored.conf"},
	Modules:        append([]string{"virtio_pci", "virtio_console"}, xenModules...),
	DomainModules:  xenModules,
	Control:        xenControl,
	Hypervisor:     "boot/xen-*-amd64.gz",
	HypervisorLine: "console=com1 com1=115200,8n1 dom0_mem=1024M dom0_max_vcpus=1 sched=credit loglvl=all guest_loglvl=all noreboot=0",
	Kernel:         "boot/vmlinuz-*-amd64",
	KernelLine:     "console=hvc0 quiet panic=1",
	Boot:           []string{"-kernel", "{hypervisor}", "-append", "{hypervisor-line}", "-initrd", "{kernel} {kernel-line},{initrd}"},
	QEMU:           "qemu-system-x86_64",
	// With SMAP a PV control domain crashes in its first exception frame; with RDTSCP a PVH domain loops on an instruction that SVM
	// without next-RIP saving cannot decode; with XSAVE a PVH domain gets an invalid opcode in user space.
	Machine: []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-smap,-smep,-rdtscp,-xsave,-avx,-avx2,-avx512f", "-smp", "2",
	},
	Memory:  3072,
	Port:    []string{"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=agent"},
	Domains: map[string][]string{"pv": {`type = "pv"`}, "pvh": {`type = "pvh"`}},
}

// XenAMD64Bare is XenAMD64 with nothing started in the control domain: its kernel still waits for a Xenstore server. A test starts one,
// and then the rest; they are in the PATH.
var XenAMD64Bare = bare(XenAMD64)

// bare returns the recipe without services.
func bare(r *Recipe) *Recipe {
	b := *r
	b.Name, b.Tree, b.Idle = "bare-"+r.Name, r.Name, true
	return &b
}

// XenARM64 is a Xen host on arm64.
var XenARM64 = &Recipe{
	Name:           "xen-arm64",
	Arch:           "arm64",
	Packages:       []string{"xen-system-arm64", "linux-image-arm64", "xenstore-utils", "busybox-static"},
	Keep:           keepLibraries,
	Programs:       xenPrograms,
	Tools:          xenTools,
	Files:          []string{"etc/xen/xl.conf", "etc/xen/oxenstored.conf"},
	Modules:        append([]string{"virtio_mmio", "virtio_console"}, xenModules...),
	DomainModules:  xenModules,
	Control:        xenControl,
	Hypervisor:     "boot/xen-*-arm64",
	HypervisorLine: "dom0_mem=1024M dom0_max_vcpus=1 sched=credit console=dtuart loglvl=all guest_loglvl=all",
	Kernel:         "boot/vmlinuz-*-arm64",
	KernelLine:     "console=hvc0 quiet panic=1",
	Boot: []string{
		"-kernel", "{hypervisor}", "-append", "{hypervisor-line}",
		"-device", "guest-loader,addr=0x49000000,kernel={kernel},bootargs={kernel-line}",
		"-device", "guest-loader,addr=0x50000000,initrd={initrd}",
	},
	QEMU:    "qemu-system-aarch64",
	Machine: []string{"-machine", "virt,virtualization=on,gic-version=3", "-accel", "tcg,thread=multi", "-cpu", "cortex-a57", "-smp", "2"},
	Memory:  3072,
	Port:    []string{"-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=agent"},
	Domains: map[string][]string{"pvh": {`type = "pvh"`}},
}

// Recipes are all there are.
var Recipes = []*Recipe{XenAMD64, XenARM64, XenAMD64Bare}

// Find returns the recipe of that name, or nil.
func Find(name string) *Recipe {
	for _, r := range Recipes {
		if r.Name == name {
			return r
		}
	}
	return nil
}
