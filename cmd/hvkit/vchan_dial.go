package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

type vchanDialCmd struct {
	connFlags
	stdioFlags
	Timeout time.Duration `default:"10s" help:"How long to wait for an offer; 0 waits for ever."`
	Remote  string        `arg:"" help:"The domain that listens."`
	Port    string        `arg:"" help:"Its port, or a path in Xenstore."`
}

// Help has the examples.
func (*vchanDialCmd) Help() string {
	return `The end of the input closes the connection (--at-eof=close), or the command goes on receiving until the peer closes (wait). auto
closes, unless the input was empty and no file, as /dev/null: then there was only something to receive.

Examples:

    hvkit vchan dial --domain client server 5000 < file
    hvkit vchan dial --domain client server backup | tar x
    echo question | hvkit vchan dial --domain client --at-eof wait server 5000
    hvkit vchan dial --domain client 3 /local/domain/3/data/qemu    # a path, as libxenvchan's`
}

// Run makes one connection.
func (c *vchanDialCmd) Run(ctx context.Context, s *streams) error {
	if err := c.check(); err != nil {
		return err
	}
	d, err := c.join(ctx)
	if err != nil {
		return err
	}
	return bounded(ctx, func() error {
		defer d.Close()
		limited, cancel := within(ctx, c.Timeout)
		defer cancel()
		conn, err := c.dial(limited, d, c.Remote, c.Port)
		if err != nil {
			return c.failed(err)
		}
		return c.handle(ctx, conn, &c.connFlags, s)
	})
}

// failed says in whose words the connection could not be made: the user's, not the numbers that they stand for.
func (c *vchanDialCmd) failed(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("nothing was offered within %v", c.Timeout)
	}
	return fmt.Errorf("dial %s:%s: %w", c.Remote, c.Port, inner(err))
}
