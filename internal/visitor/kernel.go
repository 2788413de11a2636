package visitor

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Execute runs code in a kernel through its websocket, and returns what it printed and its last
// value, with errors' names and values (Jupyter's messaging protocol 5.3). The error is that of the
// connection, or that within passed.
func Execute(conn *websocket.Conn, code string, within time.Duration) (string, error) {
	id := rand.Text()
	type msg map[string]any
	deadline := time.Now().Add(within)
	if err := conn.SetWriteDeadline(deadline); err != nil {
		return "", err
	}
	err := conn.WriteJSON(msg{
		"header":        msg{"msg_id": id, "msg_type": "execute_request", "session": rand.Text(), "username": "t", "version": "5.3", "date": time.Now().UTC().Format(time.RFC3339)},
		"parent_header": msg{}, "metadata": msg{}, "channel": "shell", "buffers": []string{},
		"content": msg{"code": code, "silent": false, "store_history": false, "user_expressions": msg{}, "allow_stdin": false, "stop_on_error": true},
	})
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := conn.SetReadDeadline(deadline); err != nil {
		return "", err
	}
	for {
		var m struct {
			Header struct {
				Type string `json:"msg_type"`
			}
			Parent struct {
				ID string `json:"msg_id"`
			} `json:"parent_header"`
			Content struct {
				Text, Ename, Evalue string
				State               string `json:"execution_state"`
				Data                map[string]any
			}
		}
		if err := conn.ReadJSON(&m); err != nil {
			return out.String(), err
		}
		if m.Parent.ID != id {
			continue
		}
		switch m.Header.Type {
		case "stream":
			out.WriteString(m.Content.Text)
		case "error":
			out.WriteString(m.Content.Ename + ": " + m.Content.Evalue)
		case "execute_result":
			fmt.Fprint(&out, m.Content.Data["text/plain"])
		case "status":
			if m.Content.State == "idle" {
				return strings.TrimSpace(out.String()), nil
			}
		}
	}
}
