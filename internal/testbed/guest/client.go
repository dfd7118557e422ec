package guest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Cmd is a program to run in a guest.
type Cmd struct {
	Path string // with a slash, or looked for in PATH
	Args []string
	Env  []string // added to the guest's
	Dir  string   // "" is /
	// Stdin is the program's input; nil is /dev/null. Who reads it in Run's stead may be in a Read still when Run has returned.
	Stdin io.Reader
	// Stdout and Stderr take the program's outputs; nil drops them. They are written from one goroutine.
	Stdout, Stderr io.Writer
	// Terminal gives the program a terminal of that size in place of three pipes. Its output goes to Stdout.
	Terminal *Size
}

// Size is that of a terminal, in characters.
type Size struct{ Rows, Cols uint16 }

// spec is what the agent is told of a Cmd.
type spec struct {
	Path     string
	Args     []string
	Env      []string `json:",omitempty"`
	Dir      string   `json:",omitempty"`
	Stdin    bool     `json:",omitempty"`
	Terminal *Size    `json:",omitempty"`
}

// specHeader carries the spec of /run.
const specHeader = "Hvkit-Spec"

// ExitError is a program that ended with a status other than 0.
type ExitError struct {
	Path   string
	Code   int    // -1 where a signal ended it
	Signal string // its name, or ""
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("%s: %s", e.Path, e.Signal)
	}
	return fmt.Sprintf("%s: exit status %d", e.Path, e.Code)
}

// Client talks to the agent of one guest. It is safe for concurrent use.
type Client struct {
	conn net.Conn
	http *http.Client
	via  *Via
}

// ClientConfig says what a Client's connection is like. The zero value is for a fast one.
type ClientConfig struct {
	// Console is for a connection to a console of Linux's hvc driver. It takes the byte 0x0f (^O) for the beginning of a magic system
	// request, unless it comes twice.
	Console bool
	// Via brings files to the guest; nil has them go over the connection.
	Via *Via
}

// Await reads conn until the agent at its other end has said that it is ready, and returns the connection to go on with. ctx bounds the
// waiting, and conn is closed when it ends; conn need not have deadlines.
func Await(ctx context.Context, conn net.Conn) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	r := bufio.NewReader(conn)
	err := readPast(oneByte{r}, Ready)
	if !stop() || err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("testbed: waiting for the agent of the guest: %w", err)
	}
	return &readerConn{conn, r}, nil
}

// NewClient returns a client of the agent at the other end of conn, which the client owns. The agent is ready: see [Await].
func NewClient(conn net.Conn, cfg *ClientConfig) *Client {
	if cfg == nil {
		cfg = new(ClientConfig)
	}
	c := &Client{conn: conn, via: cfg.Via}
	only := &onlyConn{Conn: conn, gone: make(chan struct{})}
	c.conn = only
	if cfg.Console {
		conn = &hvcConn{only}
	} else {
		conn = only
	}
	c.http = &http.Client{Transport: transport(conn, only.gone, cfg.Console)}
	return c
}

// onlyConn is a connection beside which there is no other.
type onlyConn struct {
	net.Conn
	once sync.Once
	gone chan struct{} // closed by Close
}

// Close implements net.Conn.
func (c *onlyConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// transport returns one that speaks HTTP/2 over conn, and over no other connection.
func transport(conn net.Conn, gone <-chan struct{}, slow bool) *http.Transport {
	var used atomic.Bool
	t := &http.Transport{
		// Requests that come before the first has its connection each dial. They are given the same one when it is there, and wait for
		// that.
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if !used.Swap(true) {
				return conn, nil
			}
			select {
			case <-gone:
			case <-ctx.Done():
			}
			return nil, net.ErrClosed
		},
		Protocols:          new(http.Protocols),
		DisableCompression: true,
		HTTP2:              new(http.HTTP2Config),
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	t.HTTP2.MaxReceiveBufferPerStream = 1 << 20
	if slow {
		t.HTTP2.MaxReceiveBufferPerStream = 64 << 10
		t.HTTP2.MaxReceiveBufferPerConnection = 256 << 10
	}
	return t
}

// oneByte reads single bytes, so that nothing after the line that is waited for is taken.
type oneByte struct{ r *bufio.Reader }

func (o oneByte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.r.Read(p[:1])
}

// readPast reads r until what.
func readPast(r io.Reader, what string) error {
	var tail []byte
	one := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, one); err != nil {
			return err
		}
		if one[0] == '\r' {
			continue // consoles put them before line feeds
		}
		if tail = append(tail, one[0]); len(tail) > len(what) {
			tail = tail[1:]
		}
		if string(tail) == what {
			return nil
		}
	}
}

// Close ends the connection. Programs that were started over it are killed. A second Close returns nil.
func (c *Client) Close() error {
	c.http.CloseIdleConnections() // closes the connection where nothing is under way
	if err := c.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Run runs a program and returns when it has ended: nil, an [*ExitError], or what went wrong. When ctx ends, the program and its
// children are killed.
func (c *Client) Run(ctx context.Context, cmd *Cmd) error {
	s, err := json.Marshal(&spec{cmd.Path, cmd.Args, cmd.Env, cmd.Dir, cmd.Stdin != nil, cmd.Terminal})
	if err != nil {
		return err
	}
	header := http.Header{specHeader: {base64.StdEncoding.EncodeToString(s)}}
	var in io.Reader
	if cmd.Stdin != nil {
		// A program may end while its input waits for a key. The transport closes a pipe then; it could not end the reading of a terminal.
		pr, pw := io.Pipe()
		go func() {
			_, err := io.Copy(pw, cmd.Stdin)
			pw.CloseWithError(err)
		}()
		in = pr
	}
	resp, err := c.do(ctx, http.MethodPost, "/run", nil, header, in)
	if err != nil {
		return fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	out := func(kind byte, p []byte) error {
		w := cmd.Stdout
		if kind == frameStderr {
			w = cmd.Stderr
		}
		if w == nil {
			return nil
		}
		_, err := w.Write(p)
		return err
	}
	e, err := readFrames(resp.Body, out)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("run %s: %w", cmd.Path, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("run %s: the guest's answer: %w", cmd.Path, err)
	case e.Error != "":
		return fmt.Errorf("run %s: %s", cmd.Path, e.Error)
	case e.Code != 0 || e.Signal != "":
		return &ExitError{cmd.Path, e.Code, e.Signal}
	}
	return nil
}

// Output runs a program and returns what it wrote to its standard output, without spaces around it. The error has what it wrote to the
// other one.
func (c *Client) Output(ctx context.Context, path string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	err := c.Run(ctx, &Cmd{Path: path, Args: args, Stdout: &out, Stderr: &errs})
	if err != nil && errs.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), err
}

// Put writes a file, and makes the directories above it.
func (c *Client) Put(ctx context.Context, path string, mode fs.FileMode, r io.Reader) error {
	var err error
	if c.via != nil {
		err = c.putWindow(ctx, path, mode, r)
	} else {
		err = c.request(ctx, http.MethodPut, "/file", url.Values{"path": {path}, "mode": {strconv.FormatUint(uint64(mode.Perm()), 8)}}, r)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", path, err)
	}
	return nil
}

// Get returns a file's content. The caller closes it.
func (c *Client) Get(ctx context.Context, path string) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/file", url.Values{"path": {path}}, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return resp.Body, nil
}

// Pipe opens a device of the guest, without a terminal's cooking, as a connection. It has no deadlines. ctx bounds the opening only.
func (c *Client) Pipe(ctx context.Context, path string) (net.Conn, error) {
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	pr, pw := io.Pipe()
	resp, err := c.do(whole, http.MethodPost, "/pipe", url.Values{"path": {path}}, nil, pr)
	if !stop() && err == nil {
		_ = resp.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		_ = pw.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &pipeConn{resp.Body, pw, func() error {
		cancel()
		return errors.Join(pw.Close(), resp.Body.Close())
	}}, nil
}

// Wake tells a guest what it cannot know after it was restored from a snapshot: the time, and new random numbers.
func (c *Client) Wake(ctx context.Context) error {
	seed := make([]byte, 64)
	_, _ = rand.Read(seed) // never fails
	q := url.Values{"time": {time.Now().Format(time.RFC3339Nano)}}
	return c.request(ctx, http.MethodPost, "/wake", q, bytes.NewReader(seed))
}

// do makes a request. A reply other than 200 is an error, with the agent's words.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "guest", Path: path, RawQuery: q.Encode()}
	if _, pipe := body.(*io.PipeReader); body != nil && !pipe {
		body = io.NopCloser(body) // the transport would close the caller's
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	_ = resp.Body.Close()
	err = errors.New(strings.TrimSpace(string(text)))
	if resp.StatusCode == http.StatusNotFound {
		err = fmt.Errorf("%w (%s)", os.ErrNotExist, text)
	}
	return nil, err
}
