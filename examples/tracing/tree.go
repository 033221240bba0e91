package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// daemon takes the place of the X-Ray daemon: it reads the packets.
type daemon struct{ conn net.PacketConn }

func listen(ctx context.Context) (*daemon, error) {
	var l net.ListenConfig
	conn, err := l.ListenPacket(ctx, "udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &daemon{conn}, nil
}

func (d *daemon) address() string { return d.conn.LocalAddr().String() }

func (d *daemon) close() { _ = d.conn.Close() }

// document is a segment or a subsegment, with the fields that the tree shows.
type document struct {
	Name      string  `json:"name"`
	ID        string  `json:"id"`
	TraceID   string  `json:"trace_id"`
	ParentID  string  `json:"parent_id"`
	Type      string  `json:"type"`
	Namespace string  `json:"namespace"`
	Start     float64 `json:"start_time"`
	End       float64 `json:"end_time"`
	Error     bool    `json:"error"`
	Fault     bool    `json:"fault"`
	HTTP      struct {
		Request  struct{ Method, URL string }
		Response struct{ Status int }
	} `json:"http"`
	Annotations map[string]any `json:"annotations"`
}

// take reads n packets, which have been sent already.
func (d *daemon) take(n uint64) ([]document, error) {
	if err := d.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	var docs []document
	buf := make([]byte, 64<<10)
	for range n {
		size, _, err := d.conn.ReadFrom(buf)
		if err != nil {
			return nil, err
		}
		_, body, _ := bytes.Cut(buf[:size], []byte("\n"))
		var doc document
		if err := json.Unmarshal(body, &doc); err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

// tree returns the documents as a tree: each below its parent, in the order of time.
func tree(docs []document) string {
	var out strings.Builder
	slices.SortFunc(docs, func(a, b document) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	below := map[string][]document{}
	for _, d := range docs {
		below[d.ParentID] = append(below[d.ParentID], d)
	}
	for _, root := range below[""] {
		out.WriteString("trace " + root.TraceID + "\n")
		branch(&out, below, root, "", "")
	}
	return out.String()
}

// branch writes a document and those below it.
func branch(out *strings.Builder, below map[string][]document, d document, first, rest string) {
	out.WriteString(first + d.line() + "\n")
	children := below[d.ID]
	for i, child := range children {
		if i == len(children)-1 {
			branch(out, below, child, rest+"└─ ", rest+"   ")
		} else {
			branch(out, below, child, rest+"├─ ", rest+"│  ")
		}
	}
}

// line describes a document.
func (d document) line() string {
	var b strings.Builder
	if d.Type == "" {
		b.WriteString("■ ") // a service
	}
	b.WriteString(d.Name)
	if d.Namespace != "" {
		b.WriteString(" (" + d.Namespace + ")")
	}
	if d.HTTP.Response.Status != 0 {
		fmt.Fprintf(&b, " %s %d", d.HTTP.Request.Method, d.HTTP.Response.Status)
	}
	for _, key := range []string{"attempt", "attempts", "dish"} {
		if v, ok := d.Annotations[key]; ok {
			fmt.Fprintf(&b, " %s=%v", key, v)
		}
	}
	switch {
	case d.Fault:
		b.WriteString(" FAULT")
	case d.Error:
		b.WriteString(" ERROR")
	}
	fmt.Fprintf(&b, " %.1fms", (d.End-d.Start)*1000)
	return b.String()
}
