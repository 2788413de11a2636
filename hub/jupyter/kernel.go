package jupyter

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
)

// TryKernel starts a kernel of the server's default kind, has it compute 6*7, and shuts it down
// whatever came of it. It ends within ctx's deadline, or 30 s.
func (Client) TryKernel(ctx context.Context, t hub.Target) error {
	ctx, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	kernel, err := boot(ctx, t)
	if err != nil {
		return err
	}
	page := "api/kernels/" + url.PathEscape(kernel)
	defer func() {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), replyWithin)
		defer done()
		_, _, _ = call(ctx, t, http.MethodDelete, page) // the server ends it with itself at the latest
	}()
	return compute(ctx, t, page+"/channels")
}

// boot starts a kernel and gives its id.
func boot(ctx context.Context, t hub.Target) (id string, err error) {
	ctx, done := context.WithTimeout(ctx, bootWithin)
	defer done()
	status, body, err := send(ctx, t, http.MethodPost, "api/kernels", strings.NewReader("{}"))
	if err != nil {
		return "", err
	}
	if status != http.StatusCreated {
		return "", hub.Errorf(hub.Unavailable, "start kernel", "the server answered with status %d", status)
	}
	var kernel struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(body, &kernel); err != nil || kernel.ID == "" || len(kernel.ID) > 100 {
		return "", hub.Errorf(hub.Unavailable, "start kernel", "the server's answer is malformed")
	}
	return kernel.ID, nil
}

// capped is a connection that ends after so many bytes were read: the websocket's handshake is read
// by code that would take headers without end.
type capped struct {
	net.Conn
	left int
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, hub.Errorf(hub.Unavailable, "hear kernel", "it said more than %d bytes", maxTalk)
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// compute asks a kernel for 6*7 over its websocket and reads until the reply.
func compute(ctx context.Context, t hub.Target, page string) error {
	session := rand.Text()
	dialer := websocket.Dialer{
		NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: dialWithin}).DialContext(ctx, t.Endpoint.Network(), t.Endpoint.Address())
			if err != nil {
				return nil, err
			}
			return &capped{conn, maxTalk}, nil
		},
		HandshakeTimeout: replyWithin,
		ReadBufferSize:   4 << 10,
		WriteBufferSize:  4 << 10,
	}
	conn, res, err := dialer.DialContext(ctx, "ws://"+host(t.Endpoint)+t.BasePath+page+"?session_id="+session,
		http.Header{"Authorization": {"token " + t.Token.Reveal()}})
	if res != nil {
		res.Body.Close()
	}
	if err != nil {
		return hub.Wrap(hub.Unavailable, "open kernel's websocket", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	conn.SetReadLimit(maxBody)
	id := rand.Text()
	if err := conn.WriteJSON(executeRequest(id, session)); err != nil {
		return hub.Wrap(hub.Unavailable, "ask kernel", err)
	}
	for range 200 { // a kernel that talks for ever without answering is no working kernel
		var msg message
		if err := conn.ReadJSON(&msg); err != nil {
			return hub.Wrap(hub.Unavailable, "hear kernel", err)
		}
		if msg.Parent.ID != id || msg.Header.Type != "execute_reply" {
			continue
		}
		if !saysFortyTwo(msg.Content) {
			return hub.Errorf(hub.Unavailable, "hear kernel", "6*7 did not come back as 42")
		}
		return nil
	}
	return hub.Errorf(hub.Unavailable, "hear kernel", "no reply among its first messages")
}

// saysFortyTwo reads the content of an execute_reply.
func saysFortyTwo(content json.RawMessage) bool {
	var reply struct {
		Status      string `json:"status"`
		Expressions struct {
			Answer struct {
				Data map[string]any `json:"data"`
			} `json:"answer"`
		} `json:"user_expressions"`
	}
	return json.Unmarshal(content, &reply) == nil && reply.Status == "ok" && reply.Expressions.Answer.Data["text/plain"] == "42"
}

// message is a Jupyter message in the websocket's JSON form (Jupyter messaging 5.3, "general message format").
type message struct {
	Header   header          `json:"header"`
	Parent   header          `json:"parent_header"`
	Metadata json.RawMessage `json:"metadata"`
	Content  json.RawMessage `json:"content"`
	Channel  string          `json:"channel"`
	Buffers  []string        `json:"buffers"`
}

type header struct {
	ID      string `json:"msg_id,omitempty"`
	Type    string `json:"msg_type,omitempty"`
	Session string `json:"session,omitempty"`
	User    string `json:"username,omitempty"`
	Version string `json:"version,omitempty"`
	Date    string `json:"date,omitempty"`
}

func executeRequest(id, session string) message {
	content := `{"code":"","silent":true,"store_history":false,"user_expressions":{"answer":"6*7"},"allow_stdin":false,"stop_on_error":false}`
	return message{
		Header:   header{ID: id, Type: "execute_request", Session: session, User: "carrel", Version: "5.3", Date: fmt.Sprint(time.Now().UTC().Format(time.RFC3339))},
		Metadata: json.RawMessage(`{}`), Content: json.RawMessage(content), Channel: "shell", Buffers: []string{},
	}
}
