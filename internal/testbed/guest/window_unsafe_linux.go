package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A window is memory of one domain that another one has mapped for a moment, so that files need not go through a console, which carries
// sixteen bytes at a time. The pages are granted by the kernel's gntalloc device and mapped by the other kernel's gntdev device. They are
// given back at once, so that a program that is run afterwards finds none of them. Nothing of the module's own code for grants is used
// here: that is what the testbed tests.

// The requests of include/uapi/xen/gntalloc.h and gntdev.h.
const (
	ioctlAllocGref   = 0x184705
	ioctlDeallocGref = 0x104706
	ioctlMapGrants   = 0x184700
	ioctlUnmapGrants = 0x104701
)

const (
	pageSize       = 4096 // Xen's, always
	maxWindowPages = 512
	grantWritable  = 1
)

type allocGref struct {
	domid, flags uint16
	count        uint32
	index        uint64
	refs         [maxWindowPages]uint32
}

type mapGrants struct {
	count, _ uint32
	index    uint64
	refs     [maxWindowPages]struct{ domid, ref uint32 }
}

type giveBack struct {
	index    uint64
	count, _ uint32
}

type unmapGrants struct {
	index    uint64
	count, _ uint32
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

// window is granted memory.
type window struct {
	fd   int
	mem  []byte
	gref allocGref
}

// openWindow grants pages to a domain.
func openWindow(dom uint16, pages int) (*window, error) {
	if pages < 1 || pages > maxWindowPages {
		return nil, fmt.Errorf("a window of %d pages; the limit is %d", pages, maxWindowPages)
	}
	fd, err := unix.Open("/dev/xen/gntalloc", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: err}
	}
	w := &window{fd: fd, gref: allocGref{domid: dom, flags: grantWritable, count: uint32(pages)}}
	err = ioctl(fd, ioctlAllocGref, unsafe.Pointer(&w.gref))
	if err == nil {
		w.mem, err = unix.Mmap(fd, int64(w.gref.index), pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("grant %d pages: %w", pages, err)
	}
	return w, nil
}

// close takes the pages back.
func (w *window) close() error {
	err := unix.Munmap(w.mem)
	d := giveBack{index: w.gref.index, count: w.gref.count}
	if e := ioctl(w.fd, ioctlDeallocGref, unsafe.Pointer(&d)); err == nil {
		err = e
	}
	if e := unix.Close(w.fd); err == nil {
		err = e
	}
	return err
}

// fill maps pages that a domain has granted, copies r into them, and unmaps them.
func fill(dom uint32, refs []uint32, r io.Reader) (err error) {
	if len(refs) < 1 || len(refs) > maxWindowPages {
		return fmt.Errorf("a window of %d pages; the limit is %d", len(refs), maxWindowPages)
	}
	const device = "/dev/xen/gntdev"
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: device, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	m := mapGrants{count: uint32(len(refs))}
	for i, ref := range refs {
		m.refs[i].domid, m.refs[i].ref = dom, ref
	}
	if err := ioctl(fd, ioctlMapGrants, unsafe.Pointer(&m)); err != nil {
		return fmt.Errorf("map grants: %w", err)
	}
	mem, err := unix.Mmap(fd, int64(m.index), len(refs)*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map grants: %w", err)
	}
	// Read into ordinary memory first: the kernel does not copy from a socket straight into foreign pages in all cases.
	buf, err := io.ReadAll(io.LimitReader(r, int64(len(mem))+1))
	if err == nil && len(buf) > len(mem) {
		err = fmt.Errorf("more than the window's %d bytes", len(mem))
	}
	if err == nil {
		copy(mem, buf)
	}
	u := unmapGrants{index: m.index, count: m.count}
	if e := unix.Munmap(mem); err == nil {
		err = e
	}
	if e := ioctl(fd, ioctlUnmapGrants, unsafe.Pointer(&u)); err == nil {
		err = e
	}
	return err
}

// open handles POST /window?dom=&pages=.
func (s *Server) open(w http.ResponseWriter, r *http.Request) error {
	dom, err := strconv.ParseUint(r.FormValue("dom"), 10, 16)
	if err != nil {
		return err
	}
	pages, err := strconv.Atoi(r.FormValue("pages"))
	if err != nil {
		return err
	}
	win, err := openWindow(uint16(dom), pages)
	if err != nil {
		return err
	}
	id := s.lastWindow.Add(1)
	s.windows.Store(id, win)
	return json.NewEncoder(w).Encode(&windowReply{id, win.gref.refs[:pages]})
}

// take handles POST /window/take?id=&n=&path=&mode=&more=: it writes what is in the window to the end of a file.
func (s *Server) take(_ http.ResponseWriter, r *http.Request) error {
	win, _, err := s.window(r)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil || n < 0 || n > len(win.mem) {
		return fmt.Errorf("n: %q", r.FormValue("n"))
	}
	mode, err := strconv.ParseUint(r.FormValue("mode"), 8, 32)
	if err != nil {
		return err
	}
	return appendFile(r.FormValue("path"), win.mem[:n], fs.FileMode(mode), r.FormValue("more") != "")
}

// closeWindow handles DELETE /window?id=.
func (s *Server) closeWindow(_ http.ResponseWriter, r *http.Request) error {
	win, id, err := s.window(r)
	if err != nil {
		return err
	}
	s.windows.Delete(id)
	return win.close()
}

func (s *Server) window(r *http.Request) (*window, int64, error) {
	id, err := strconv.ParseInt(r.FormValue("id"), 10, 64)
	if err != nil {
		return nil, 0, err
	}
	v, ok := s.windows.Load(id)
	if !ok {
		return nil, 0, fmt.Errorf("window %d: %w", id, os.ErrNotExist)
	}
	return v.(*window), id, nil
}

// fillWindow handles PUT /window?dom=&refs=.
func fillWindow(_ http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	dom, err := strconv.ParseUint(q.Get("dom"), 10, 16)
	if err != nil {
		return err
	}
	var refs []uint32
	for f := range strings.SplitSeq(q.Get("refs"), ",") {
		ref, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return err
		}
		refs = append(refs, uint32(ref))
	}
	return fill(uint32(dom), refs, r.Body)
}
