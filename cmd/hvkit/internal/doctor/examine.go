package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// State says how good a finding is.
type State string

// The states.
const (
	OK      State = "ok"
	Missing State = "missing" // and needed by the simulated host
	Absent  State = "absent"  // and of use only to other platforms or to the tests
	Note    State = "note"
)

// Finding is one thing that was looked at.
type Finding struct {
	Topic  string `json:"topic"`
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail,omitempty"`
	Mend   string `json:"mend,omitempty"` // the command that brings it
}

// The topics, in the order of the report.
const (
	topicMachine = "machine"
	topicSim     = "simulated host"
	topicXen     = "Xen"
	topicKVM     = "KVM (not used yet)"
	topicNet     = "network (not used yet)"
	topicTools   = "tools"
)

// examination collects findings.
type examination struct {
	*Machine
	found []Finding
}

// Examine looks at everything.
func Examine(m *Machine) []Finding {
	x := &examination{Machine: m}
	x.machine()
	x.simulator()
	if m.OS == "linux" {
		x.xen()
		x.kvm()
		x.network()
	}
	x.tools()
	return x.found
}

// Healthy reports whether nothing is missing that is needed.
func Healthy(found []Finding) bool {
	for _, f := range found {
		if f.State == Missing {
			return false
		}
	}
	return true
}

func (x *examination) add(topic, name string, s State, detail, mend string) {
	if s == OK {
		mend = ""
	}
	x.found = append(x.found, Finding{topic, name, s, detail, mend})
}

// text returns a file's content without space around it, or "".
func (x *examination) text(path string) string {
	b, err := fs.ReadFile(x.Root, path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (x *examination) sudo(cmd string) string {
	if x.IsRoot {
		return cmd
	}
	return "sudo " + cmd
}

func (x *examination) machine() {
	x.add(topicMachine, "system", OK, strings.TrimSpace(x.OS+"/"+x.Arch+" "+x.text("proc/sys/kernel/osrelease")), "")
	cpus := fmt.Sprintf("%d", x.CPUs)
	if x.CPUs == 1 {
		x.add(topicMachine, "processors", Note, cpus+": waiting sleeps at once, spinning would not help", "")
	} else {
		x.add(topicMachine, "processors", OK, cpus, "")
	}
	x.add(topicMachine, "hypervisor below", Note, x.below(), "")
}

// below names the hypervisor that this machine runs on, as far as files tell.
func (x *examination) below() string {
	if t := x.text("sys/hypervisor/type"); t != "" {
		v := x.text("sys/hypervisor/version/major") + "." + x.text("sys/hypervisor/version/minor")
		return strings.TrimSuffix(t+" "+v, ".")
	}
	for _, line := range strings.Split(x.text("proc/cpuinfo"), "\n") {
		if strings.HasPrefix(line, "flags") && strings.Contains(" "+line+" ", " hypervisor ") {
			if name := x.text("sys/class/dmi/id/sys_vendor"); name != "" {
				return "yes (" + name + ")"
			}
			return "yes (it does not say which)"
		}
	}
	return "none that is seen"
}

const (
	minFiles    = 1024 // descriptors of a host of few domains with few connections
	enoughFiles = 8192 // of many with many: an event channel between two processes takes four, and a domain may have 1023
)

func (x *examination) simulator() {
	if x.OS != "linux" {
		x.add(topicSim, "within a process", OK, "go test works here", "")
		x.add(topicSim, "other processes", Missing, "they can join on Linux only", "")
		return
	}
	if err := x.Memory(); err != nil {
		x.add(topicSim, "shared memory", Missing, err.Error(), "")
	} else {
		x.add(topicSim, "shared memory", OK, "memfd, eventfd and SOCK_SEQPACKET work", "")
	}
	x.files()
	if maps, err := strconv.Atoi(x.text("proc/sys/vm/max_map_count")); err == nil {
		x.add(topicSim, "vm.max_map_count", OK, fmt.Sprintf("%d mappings for each process", maps), "")
	}
	if err := x.Writable(x.Sockets); err != nil {
		mend := "export XDG_RUNTIME_DIR=$(mktemp -d)"
		if x.Named {
			mend = "export HVKIT_HOST=$(mktemp -d)/host.sock"
		}
		x.add(topicSim, "socket directory", Missing, plain(err), mend)
	} else {
		x.add(topicSim, "socket directory", OK, x.Sockets, "")
	}
	if x.Served() {
		x.add(topicSim, "host", OK, "one is running", "")
	} else {
		x.add(topicSim, "host", Note, "none is running (start one with 'hvkit host')", "")
	}
}

func (x *examination) files() {
	soft, hard, err := x.Files()
	switch {
	case err != nil:
		x.add(topicSim, "open files", Missing, err.Error(), "")
	case soft < enoughFiles:
		state, what := Note, "enough for few connections"
		if soft < minFiles {
			state, what = Missing, "too few"
		}
		mend := fmt.Sprintf("ulimit -n %d", min(max(hard, enoughFiles), 65536))
		x.add(topicSim, "open files", state, fmt.Sprintf("at most %d: %s", soft, what), mend)
	default:
		x.add(topicSim, "open files", OK, fmt.Sprintf("at most %d", soft), "")
	}
}

// device looks at a device node.
func (x *examination) device(topic, path, what, ifAbsent, ifDenied string) {
	name := "/" + path
	if _, err := fs.Stat(x.Root, path); err != nil {
		x.add(topic, name, Absent, what, ifAbsent)
		return
	}
	if err := x.Open(name); err != nil {
		x.add(topic, name, Absent, what+"; "+plain(err), ifDenied)
		return
	}
	x.add(topic, name, OK, what, "")
}

// plain cuts the path off an error of the file system: it stands beside it already.
func plain(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Op + ": " + p.Err.Error()
	}
	return err.Error()
}

// module reports whether a kernel module is loaded or built in.
func (x *examination) module(name string) bool {
	for _, line := range strings.Split(x.text("proc/modules"), "\n") {
		if m, _, _ := strings.Cut(line, " "); m == name {
			return true
		}
	}
	_, err := fs.Stat(x.Root, "sys/module/"+name)
	return err == nil
}

func (x *examination) kvm() {
	flags := x.text("proc/cpuinfo")
	load := x.sudo("modprobe kvm")
	switch {
	case strings.Contains(flags, " vmx"):
		load = x.sudo("modprobe kvm-intel")
	case strings.Contains(flags, " svm"):
		load = x.sudo("modprobe kvm-amd")
	case x.Arch == "amd64":
		load = "" // the processor, or the hypervisor below, does not offer it
	}
	denied := x.sudo("usermod -aG kvm " + x.UserName)
	if in, ok := x.InGroup("kvm"); ok && in {
		denied = "log in again, so that the group kvm counts"
	}
	x.device(topicKVM, "dev/kvm", "virtual machines", load, denied)
	x.device(topicKVM, "dev/vhost-vsock", "sockets to virtual machines", x.sudo("modprobe vhost_vsock"), denied)
	x.device(topicKVM, "dev/vhost-net", "virtio-net in the kernel", x.sudo("modprobe vhost_net"), denied)
	if x.module("kvm") {
		for _, m := range []string{"kvm_intel", "kvm_amd"} {
			if v := x.text("sys/module/" + m + "/parameters/nested"); v != "" {
				x.add(topicKVM, "nested", Note, m+" nested="+v, "")
			}
		}
	}
}

func (x *examination) network() {
	x.device(topicNet, "dev/net/tun", "TAP interfaces", x.sudo("modprobe tun"), "run as root")
}
