package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Via is a guest that can map memory of another one, and so bring files to it.
type Via struct {
	*Client
	Self, Dom int // the numbers of its domain and of the other one
}

// windowPages is how large a window is: 2 MiB.
const windowPages = 512

// windowReply tells which grants a window has.
type windowReply struct {
	ID   int64
	Refs []uint32
}

// putWindow writes a file through granted memory.
func (c *Client) putWindow(ctx context.Context, path string, mode fs.FileMode, r io.Reader) (err error) {
	size := url.Values{"dom": {strconv.Itoa(c.via.Self)}, "pages": {strconv.Itoa(windowPages)}}
	resp, err := c.do(ctx, http.MethodPost, "/window", size, nil, nil)
	if err != nil {
		return err
	}
	var w windowReply
	err = json.NewDecoder(resp.Body).Decode(&w)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("window: %w", err)
	}
	id := strconv.FormatInt(w.ID, 10)
	defer func() {
		err = errors.Join(err, c.request(context.WithoutCancel(ctx), http.MethodDelete, "/window", url.Values{"id": {id}}, nil))
	}()
	var refs []string
	for _, ref := range w.Refs {
		refs = append(refs, strconv.FormatUint(uint64(ref), 10))
	}
	fill := url.Values{"dom": {strconv.Itoa(c.via.Dom)}, "refs": {strings.Join(refs, ",")}}
	take := url.Values{"id": {id}, "path": {path}, "mode": {strconv.FormatUint(uint64(mode.Perm()), 8)}}
	buf := make([]byte, len(w.Refs)*4096)
	for more := true; more; {
		n, err := io.ReadFull(r, buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			more = false
		case err != nil:
			return err
		}
		if err := c.via.request(ctx, http.MethodPut, "/window", fill, bytes.NewReader(buf[:n])); err != nil {
			return err
		}
		take.Set("n", strconv.Itoa(n))
		take.Del("more")
		if more {
			take.Set("more", "1")
		}
		if err := c.request(ctx, http.MethodPost, "/window/take", take, nil); err != nil {
			return err
		}
	}
	return nil
}

// request makes a request whose reply has nothing to say.
func (c *Client) request(ctx context.Context, method, path string, q url.Values, body io.Reader) error {
	resp, err := c.do(ctx, method, path, q, nil, body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return resp.Body.Close()
}
