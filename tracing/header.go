package tracing

import (
	"maps"
	"slices"
	"strings"
)

// HeaderName is the name of X-Ray's trace header.
const HeaderName = "X-Amzn-Trace-Id"

// Decision says whether a trace is recorded.
type Decision uint8

// The decisions of a trace header.
const (
	Undecided  Decision = iota // no decision, or Sampled=?: the receiver decides
	Sampled                    // Sampled=1
	NotSampled                 // Sampled=0
)

// Field is a part of a trace header that has no meaning in this package, such as Lineage.
type Field struct{ Key, Value string }

// Header is the content of a trace header. The zero value is an empty header. Functions of
// this package do not change a Header; its copies may share Fields.
type Header struct {
	Root    string   // the trace; "" for none
	Parent  string   // the segment that called; "" for none
	Sampled Decision // whether the trace is recorded
	Fields  []Field  // the other fields, in their order; at most 32 fields and 1 KiB in all are sent on
	State   string   // the W3C tracestate of the trace; see [Config] W3C
}

// The limits on other fields. A caller must not be able to make all requests that follow
// from its own large.
const (
	maxFields     = 32
	maxFieldBytes = 1 << 10
)

// maxHeader is the number of bytes of a trace header that [Segment.Incoming] keeps. Parts
// of a longer header are copied, so that they do not keep all of it in memory.
const maxHeader = 4 << 10

// ParseHeader parses the value of X-Amzn-Trace-Id. It never fails: anything that it does
// not understand becomes a field or is dropped. It parses as the gem does: fields are
// separated by semicolons, spaces are ignored everywhere, the last of several fields with
// the same name counts, and names are case-sensitive. Unlike the gem, it keeps the text
// after a second equals sign, and a last field that is empty. It drops fields that are not
// printable ASCII, because gRPC would refuse to send them.
//
// ParseHeader does not validate ids: they may be any text. A segment with an illegal trace
// id begins a new trace.
func ParseHeader(s string) Header {
	if len(s) > maxHeader {
		return parseHeader(s).clone()
	}
	return parseHeader(s)
}

func parseHeader(s string) Header {
	if strings.IndexByte(s, ' ') >= 0 {
		s = strings.ReplaceAll(s, " ", "")
	}
	var h Header
	room := maxFieldBytes
	for s != "" {
		var field string
		field, s, _ = strings.Cut(s, ";")
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "":
		case "Root":
			h.Root = value
		case "Parent":
			h.Parent = value
		case "Sampled":
			h.Sampled = parseDecision(value)
		default:
			room = h.keep(Field{key, value}, room)
		}
	}
	return h
}

func parseDecision(s string) Decision {
	switch s {
	case "1":
		return Sampled
	case "0":
		return NotSampled
	}
	return Undecided
}

// clone returns a copy of h that does not keep the text of the parsed header in memory.
func (h Header) clone() Header {
	h.Root, h.Parent, h.State = strings.Clone(h.Root), strings.Clone(h.Parent), strings.Clone(h.State)
	for i, f := range h.Fields {
		h.Fields[i] = Field{strings.Clone(f.Key), strings.Clone(f.Value)}
	}
	return h
}

// keep adds a field, or replaces the field of the same name, if there is room for it. It
// returns the remaining room. A field that cannot be sent is not kept.
func (h *Header) keep(f Field, room int) int {
	size := len(f.Key) + len(f.Value) + len(";=")
	i := slices.IndexFunc(h.Fields, func(old Field) bool { return old.Key == f.Key })
	if i >= 0 {
		size -= len(h.Fields[i].Key) + len(h.Fields[i].Value) + len(";=")
	}
	if size > room || (i < 0 && len(h.Fields) == maxFields) || !f.sendable() {
		return room
	}
	if i >= 0 {
		h.Fields[i] = f
	} else {
		h.Fields = append(h.Fields, f)
	}
	return room - size
}

// sendable reports whether s may be sent in an HTTP header and in gRPC metadata, which
// allows only printable ASCII.
func sendable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// sendable reports whether a trace header that contains f parses as it was written.
func (f Field) sendable() bool {
	switch f.Key {
	case "", "Root", "Parent", "Sampled":
		return false
	}
	return sendable(f.Key) && sendable(f.Value) && !strings.ContainsAny(f.Key, "=;") && !strings.Contains(f.Value, ";")
}

// sendableFields returns the fields that may be sent, with the limits of [ParseHeader]. It
// returns all fields that ParseHeader returned.
func sendableFields(fields []Field) []Field {
	size := 0
	for _, f := range fields {
		size += len(f.Key) + len(f.Value) + len(";=")
	}
	refused := func(f Field) bool { return !f.sendable() }
	if len(fields) <= maxFields && size <= maxFieldBytes && !slices.ContainsFunc(fields, refused) {
		return fields
	}
	var h Header
	room := maxFieldBytes
	for _, f := range fields {
		room = h.keep(f, room)
	}
	return h.Fields
}

// String returns the value of X-Amzn-Trace-Id, in the gem's order: Root, Sampled, Parent,
// then the other fields. Empty parts are omitted.
func (h Header) String() string {
	root, sampled, parent := "", "", ""
	if h.Root != "" {
		root = ";Root="
	}
	switch h.Sampled {
	case Sampled:
		sampled = ";Sampled=1"
	case NotSampled:
		sampled = ";Sampled=0"
	case Undecided:
	}
	if h.Parent != "" {
		parent = ";Parent="
	}
	return strings.TrimPrefix(root+h.Root+sampled+parent+h.Parent+restOf(h.Fields), ";")
}

// restOf writes the other fields.
func restOf(fields []Field) string {
	if len(fields) == 0 {
		return ""
	}
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(";" + f.Key + "=" + f.Value)
	}
	return b.String()
}

// withoutSelf removes the field Self, in which a load balancer names its own hop. It does
// not apply to the next hop.
func withoutSelf(fields []Field) []Field {
	self := func(f Field) bool { return f.Key == "Self" }
	if !slices.ContainsFunc(fields, self) {
		return fields
	}
	return slices.DeleteFunc(slices.Clone(fields), self)
}

// fieldsOf returns the fields of a header that the SDK keeps, sorted by name, because the
// SDK does not keep their order.
func fieldsOf(data map[string]string) []Field {
	var h Header
	room := maxFieldBytes
	for _, key := range slices.Sorted(maps.Keys(data)) {
		room = h.keep(Field{key, data[key]}, room)
	}
	return h.Fields
}
