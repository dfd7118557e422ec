package hypercall

import "encoding/binary"

// Struct is an argument structure of Xen's public headers. Each one states its members once, in the order of the C declaration and
// with the C types; where they lie under each [ABI] follows from the rules in this file, and is compared with what the C compilers
// say in the package's tests.
type Struct interface {
	// Size is the size of the structure in bytes, as sizeof has it.
	Size(abi ABI) int
	// Marshal writes the structure to b, which is at least Size long. Padding is set to zero.
	Marshal(abi ABI, b []byte)
	// Unmarshal reads the structure from b, which is at least Size long. Padding is ignored.
	Unmarshal(abi ABI, b []byte)
}

// WordBytes is the size in bytes of C's xen_ulong_t and xen_pfn_t, of guest handles inside structures, and of the words of the
// 2-level event channel bitmaps. These are equal within each ABI.
func (abi ABI) WordBytes() int {
	if abi == X86_32 {
		return 4
	}
	return 8
}

// align64 is the alignment of a uint64_t inside a structure: i386 has 4.
func (abi ABI) align64() int {
	if abi == X86_32 {
		return 4
	}
	return 8
}

func (abi ABI) String() string {
	switch abi {
	case X86_64:
		return "x86_64"
	case X86_32:
		return "x86_32"
	case ARM64:
		return "arm64"
	}
	return "unknown ABI"
}

type codecMode uint8

const (
	measuring codecMode = iota
	writing
	reading
)

// codec walks over the members of a structure in C's order, and measures, writes or reads them.
type codec struct {
	abi    ABI
	mode   codecMode
	b      []byte
	off    int // where the next member may begin
	align  int // the strictest alignment so far
	handle int // the offset of the last guest handle
}

func measure(abi ABI) codec          { return codec{abi: abi, mode: measuring, align: 1} }
func writer(abi ABI, b []byte) codec { return codec{abi: abi, mode: writing, b: b, align: 1} }
func reader(abi ABI, b []byte) codec { return codec{abi: abi, mode: reading, b: b, align: 1} }

// place returns where the next member of n bytes is, which is aligned to al bytes, and moves past it.
func (c *codec) place(n, al int) int {
	at := (c.off + al - 1) &^ (al - 1)
	if at != c.off {
		c.pad(at)
	}
	c.align = max(c.align, al)
	c.off = at + n
	return at
}

// pad moves over padding, which is zeroed when writing.
func (c *codec) pad(to int) {
	if c.mode == writing {
		clear(c.b[c.off:to])
	}
	c.off = to
}

// end pads the structure to its alignment and returns its size.
func (c *codec) end() int { return c.place(0, c.align) }

// u8 passes over one uint8_t or int8_t.
func u8[T ~uint8 | ~int8](c *codec, p *T) {
	at := c.place(1, 1)
	switch c.mode {
	case writing:
		c.b[at] = byte(*p)
	case reading:
		*p = T(c.b[at])
	}
}

// u16 passes over one uint16_t, int16_t or domid_t.
func u16[T ~uint16 | ~int16](c *codec, p *T) {
	at := c.place(2, 2)
	switch c.mode {
	case writing:
		binary.LittleEndian.PutUint16(c.b[at:], uint16(*p))
	case reading:
		*p = T(binary.LittleEndian.Uint16(c.b[at:]))
	}
}

// u32 passes over one uint32_t, int or unsigned int.
func u32[T ~uint32 | ~int32](c *codec, p *T) {
	at := c.place(4, 4)
	switch c.mode {
	case writing:
		binary.LittleEndian.PutUint32(c.b[at:], uint32(*p))
	case reading:
		*p = T(binary.LittleEndian.Uint32(c.b[at:]))
	}
}

// u64 passes over one uint64_t.
func u64[T ~uint64](c *codec, p *T) {
	at := c.place(8, c.abi.align64())
	switch c.mode {
	case writing:
		binary.LittleEndian.PutUint64(c.b[at:], uint64(*p))
	case reading:
		*p = T(binary.LittleEndian.Uint64(c.b[at:]))
	}
}

// word passes over one xen_ulong_t or xen_pfn_t. Bits that a 32-bit word has no room for are lost.
func word[T ~uint64](c *codec, p *T) {
	w := c.abi.WordBytes()
	at := c.place(w, w)
	switch c.mode {
	case writing:
		putWord(c.abi, c.b[at:], uint64(*p))
	case reading:
		*p = T(getWord(c.abi, c.b[at:]))
	}
}

// guestHandle passes over one XEN_GUEST_HANDLE: an address, for which a DataRef stands in a Call.
func guestHandle(c *codec, p *uint64) {
	word(c, p)
	c.handle = c.off - c.abi.WordBytes()
}

// chars passes over an array of char, as long as p.
func chars(c *codec, p []byte) {
	at := c.place(len(p), 1)
	switch c.mode {
	case writing:
		copy(c.b[at:], p)
	case reading:
		copy(p, c.b[at:])
	}
}

func putWord(abi ABI, b []byte, v uint64) {
	if abi.WordBytes() == 4 {
		binary.LittleEndian.PutUint32(b, uint32(v))
		return
	}
	binary.LittleEndian.PutUint64(b, v)
}

func getWord(abi ABI, b []byte) uint64 {
	if abi.WordBytes() == 4 {
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

// PutWords writes vs to b as an array of xen_pfn_t or xen_ulong_t. b is at least len(vs)*abi.WordBytes() long.
func PutWords[T ~uint64](abi ABI, b []byte, vs []T) {
	w := abi.WordBytes()
	for i, v := range vs {
		putWord(abi, b[i*w:], uint64(v))
	}
}

// GetWords reads vs from b, an array of xen_pfn_t or xen_ulong_t. b is at least len(vs)*abi.WordBytes() long.
func GetWords[T ~uint64](abi ABI, b []byte, vs []T) {
	w := abi.WordBytes()
	for i := range vs {
		vs[i] = T(getWord(abi, b[i*w:]))
	}
}
