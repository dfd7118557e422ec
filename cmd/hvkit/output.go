package main

import (
	"fmt"
	"io"
	"sync/atomic"
)

// output is a command's standard output. It remembers the first write that failed, so that no command needs to look at each.
type output struct {
	io.Writer
	failed atomic.Pointer[error]
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// err says that not all was written, if so.
func (o *output) err() error {
	if err := o.failed.Load(); err != nil {
		return fmt.Errorf("write the output: %w", *err)
	}
	return nil
}

// plain returns the file or buffer behind a stream, for who must know what it is.
func plain(stream any) any {
	if o, ok := stream.(*output); ok {
		return o.Writer
	}
	return stream
}
