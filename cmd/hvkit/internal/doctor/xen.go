package doctor

import (
	_ "embed"
	"fmt"
	"io/fs"
	"strings"
)

// UdevRule gives a group the devices that a program needs.
//
//go:embed 70-hvkit-xen.rules
var UdevRule string

// xenGroup is the group that UdevRule names.
const xenGroup = "xen"

// xenDevice is a node in /dev/xen, and the module that makes it; "" where that is part of the kernel.
type xenDevice struct{ name, what, module string }

var xenDevices = []xenDevice{
	{"evtchn", "event channels", "xen-evtchn"},
	{"gntalloc", "sharing memory", "xen-gntalloc"},
	{"gntdev", "mapping what others share", "xen-gntdev"},
}

// privcmdDevices are for a control domain's tools; without them a program cannot ask for the status of event channels.
var privcmdDevices = []xenDevice{
	{"privcmd", "hypercalls, for root", "xen-privcmd"},
	{"hypercall", "memory for hypercalls, for root", "xen-privcmd"},
}

func (x *examination) xen() {
	if x.text("sys/hypervisor/type") != "xen" {
		x.add(topicXen, "Xen", Absent, "this machine is no Xen domain; the simulated host stands in", "")
		return
	}
	for _, d := range xenDevices {
		x.device(topicXen, "dev/xen/"+d.name, d.what, x.sudo("modprobe "+d.module), x.permitXen())
	}
	x.gntallocLimit()
	x.store()
	control := strings.Contains(x.text("proc/xen/capabilities"), "control_d")
	for _, d := range privcmdDevices {
		if control {
			x.device(topicXen, "dev/xen/"+d.name, d.what, x.sudo("modprobe "+d.module), "run as root")
		}
	}
	if control {
		x.add(topicXen, "domain 0", Note, "this is the control domain", "")
	}
	if kind := x.text("sys/hypervisor/guest_type"); kind == "PVH" || kind == "HVM" {
		x.add(topicXen, "type", Note, kind+": the domain cannot map what it shares with itself", "")
	}
}

// permitXen is the command that lets the user open the devices.
func (x *examination) permitXen() string {
	in, ok := x.InGroup(xenGroup)
	switch {
	case in:
		return "log in again, so that the group " + xenGroup + " counts"
	case ok:
		return "hvkit doctor --udev-rule | sudo tee /etc/udev/rules.d/70-hvkit-xen.rules; " +
			"sudo udevadm control --reload; sudo udevadm trigger --subsystem-match=misc; sudo usermod -aG " + xenGroup + " " + x.UserName
	}
	return "sudo groupadd --system " + xenGroup + " && hvkit doctor"
}

// fewPages is gntalloc's own limit. Connections of package vchan with its default rings share 33 pages each.
const fewPages = 1024

func (x *examination) gntallocLimit() {
	const file = "sys/module/xen_gntalloc/parameters/limit"
	limit, pages := x.text(file), 0
	if _, err := fmt.Sscan(limit, &pages); err != nil {
		return
	}
	detail := limit + " pages can be shared at once"
	if pages <= fewPages {
		detail += fmt.Sprintf("; 'echo %d | sudo tee /%s' allows more", 16*fewPages, file)
		x.add(topicXen, "gntalloc's limit", Note, detail, "")
		return
	}
	x.add(topicXen, "gntalloc's limit", OK, detail, "")
}

// store looks for a way to Xenstore: a server's socket, which only root may use, or the kernel's device.
func (x *examination) store() {
	const socket = "run/xenstored/socket"
	if _, err := fs.Stat(x.Root, socket); err == nil && x.IsRoot {
		x.add(topicXen, "Xenstore", OK, "a server's socket is at /"+socket, "")
		return
	}
	x.device(topicXen, "dev/xen/xenbus", "Xenstore", "", x.permitXen())
}
