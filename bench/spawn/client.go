package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"carrel/internal/program"
	"carrel/internal/visitor"
)

// A client drives a hub over its REST interface, which both sides have.
type client struct {
	base  string                     // "http://127.0.0.1:8000/"
	token func(person string) string // the token to act for a person with
	http  *http.Client
}

func newClient(base string, token func(string) string) *client {
	return &client{base, token, &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// maxPage is more than any page that is read here.
const maxPage = 4 << 20

func (c *client) do(ctx context.Context, method, path, person string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "token "+c.token(person))
	res, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxPage))
	return res.StatusCode, b, err
}

// start asks for a person's server and returns how long it took until its page answered. Nothing
// is polled while the hub is at work: its progress stream says when the server is ready, as its
// own pages learn it.
func (c *client) start(ctx context.Context, person string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	begin := time.Now()
	status, body, err := c.do(ctx, http.MethodPost, "hub/api/users/"+person+"/server", person)
	if err != nil {
		return 0, err
	}
	switch status {
	case http.StatusCreated:
	case http.StatusAccepted:
		if err := c.waitReady(ctx, person); err != nil {
			return 0, err
		}
	default:
		return 0, fmt.Errorf("start request: status %d: %.300s", status, body)
	}
	for {
		status, body, err := c.do(ctx, http.MethodGet, "user/"+person+"/lab", person)
		if err != nil {
			return 0, err
		}
		if status == http.StatusOK {
			if !bytes.Contains(body, []byte("jupyter-config-data")) {
				return 0, fmt.Errorf("what answers is not JupyterLab: %.300s", body)
			}
			return time.Since(begin), nil
		}
		if err := program.Pause(ctx, 20*time.Millisecond); err != nil {
			return 0, fmt.Errorf("/lab answers %d: %.300s: %w", status, body, err)
		}
	}
}

// cell starts a kernel and runs a first cell in it.
func (c *client) cell(ctx context.Context, person string) error {
	home := "user/" + person + "/api/kernels"
	status, body, err := c.do(ctx, http.MethodPost, home, person)
	if err != nil {
		return err
	}
	id, err := kernelID(status, body)
	if err != nil {
		return err
	}
	d := websocket.Dialer{HandshakeTimeout: cellWithin}
	said, err := execute(ctx, d, c.base+home+"/"+id+"/channels", http.Header{"Authorization": {"token " + c.token(person)}}, "print(6*7)")
	if err == nil && said != "42" {
		err = fmt.Errorf("the first cell says %q", said)
	}
	return err
}

// cellWithin is how long a kernel may take to open, and a cell to run.
const cellWithin = 2 * time.Minute

// kernelID reads what a server says of a kernel that it has begun to start.
func kernelID(status int, body []byte) (string, error) {
	var k struct{ ID string }
	if err := json.Unmarshal(body, &k); err != nil || k.ID == "" {
		return "", fmt.Errorf("start a kernel: status %d: %.300s", status, body)
	}
	return k.ID, nil
}

// execute opens a kernel's websocket, and gives what a cell says.
func execute(ctx context.Context, d websocket.Dialer, at string, h http.Header, code string) (string, error) {
	conn, res, err := d.DialContext(ctx, "ws"+strings.TrimPrefix(at, "http"), h)
	if res != nil {
		defer res.Body.Close()
	}
	if err != nil && res != nil {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 300)) // what there is of it
		return "", fmt.Errorf("open the kernel: status %d: %s: %w", res.StatusCode, said, err)
	}
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return visitor.Execute(conn, code, cellWithin)
}

// waitReady follows the progress stream to its end.
func (c *client) waitReady(ctx context.Context, person string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"hub/api/users/"+person+"/server/progress", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "token "+c.token(person))
	req.Header.Set("Accept", "text/event-stream")
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("progress: status %d", res.StatusCode)
	}
	_, err = lastStep(res.Body)
	return err
}

// lastStep reads a progress stream to its end, and gives the address that it leads to. A stream that ends
// without a word is no error: the page will tell.
func lastStep(stream io.Reader) (string, error) {
	lines := bufio.NewScanner(stream)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue
		}
		var p struct {
			Ready, Failed bool
			Message, URL  string
		}
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			return "", fmt.Errorf("progress: %w", err)
		}
		if p.Failed {
			return "", fmt.Errorf("the start failed: %s", p.Message)
		}
		if p.Ready {
			return p.URL, nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("progress: %w", err)
	}
	return "", nil
}

// stop ends a person's server and waits until the hub has forgotten it.
func (c *client) stop(ctx context.Context, person string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	status, body, err := c.do(ctx, http.MethodDelete, "hub/api/users/"+person+"/server", person)
	if err != nil {
		return err
	}
	if status != http.StatusNoContent && status != http.StatusAccepted {
		return fmt.Errorf("status %d: %.300s", status, body)
	}
	for {
		status, body, err := c.do(ctx, http.MethodGet, "hub/api/users/"+person, person)
		if err != nil {
			return err
		}
		var user struct {
			Servers map[string]json.RawMessage `json:"servers"`
		}
		if status == http.StatusOK && json.Unmarshal(body, &user) == nil && len(user.Servers) == 0 {
			return nil
		}
		if err := program.Pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("it is still there: status %d: %.300s: %w", status, body, err)
		}
	}
}
