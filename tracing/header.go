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

// What a trace header can say.
const (
	Undecided  Decision = iota // nothing, or Sampled=?: whoever gets it decides
	Sampled                    // Sampled=1
	NotSampled                 // Sampled=0
)

// Field is a part of a trace header that has no meaning here, such as Lineage.
type Field struct{ Key, Value string }

// Header is what a trace header says. The zero value says nothing. A Header is
// not changed by anything in this package; its copies may share Fields.
type Header struct {
	Root    string   // the trace; "" for none
	Parent  string   // the segment that called; "" for none
	Sampled Decision // whether the trace is recorded
	Fields  []Field  // what else it has, in its order; at most 32, and 1 KiB in all, are sent on
	State   string   // W3C tracestate that goes on with the trace; see [Config] W3C
}

// How much of the fields without a meaning is kept. A caller must not be able to
// make every request that follows from its own a large one.
const (
	maxFields     = 32
	maxFieldBytes = 1 << 10
)

// maxHeader is how much of a trace header [Segment.Incoming] keeps. What is kept of a
// longer one is copied, so that a small part does not hold all of it in memory.
const maxHeader = 4 << 10

// ParseHeader reads the value of X-Amzn-Trace-Id. It never fails: what it does not
// understand becomes a field, or is left out. It reads as the gem does: fields are
// separated by semicolons, spaces mean nothing anywhere, the last of several fields
// of one name counts, names are case-sensitive. Unlike the gem it keeps what follows
// a second equals sign, and a last field that is empty. It leaves out fields that are not
// printable ASCII, which gRPC would refuse to send.
//
// ParseHeader does not validate ids: they may be any text. A trace that begins with an id
// that is not legal gets a new one.
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

// clone copies what h has, so that it does not hold the header in memory that it was
// read from.
func (h Header) clone() Header {
	h.Root, h.Parent, h.State = strings.Clone(h.Root), strings.Clone(h.Parent), strings.Clone(h.State)
	for i, f := range h.Fields {
		h.Fields[i] = Field{strings.Clone(f.Key), strings.Clone(f.Value)}
	}
	return h
}

// keep adds a field, or replaces the one of its name, as far as there is room for
// it. It returns the room that is left. A field that cannot be sent is not kept.
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

// sendable reports whether s may be sent in a header of HTTP and in metadata of gRPC,
// which takes printable ASCII alone.
func sendable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// sendable reports whether a trace header with f reads as it was written.
func (f Field) sendable() bool {
	switch f.Key {
	case "", "Root", "Parent", "Sampled":
		return false
	}
	return sendable(f.Key) && sendable(f.Value) && !strings.ContainsAny(f.Key, "=;") && !strings.Contains(f.Value, ";")
}

// sendableFields returns the fields that may be sent, as many as [ParseHeader] keeps.
// These are all of those that it returned.
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

// String gives the value of X-Amzn-Trace-Id, in the gem's order: Root, Sampled,
// Parent, then the other fields. What is not known is left out.
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

// restOf writes the fields that have no meaning.
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

// withoutSelf leaves out the field in which a load balancer names its own hop: it
// says nothing about the next one.
func withoutSelf(fields []Field) []Field {
	self := func(f Field) bool { return f.Key == "Self" }
	if !slices.ContainsFunc(fields, self) {
		return fields
	}
	return slices.DeleteFunc(slices.Clone(fields), self)
}

// fieldsOf gives the fields that the SDK keeps of a header, in the order of their
// names: it forgets the one that they came in.
func fieldsOf(data map[string]string) []Field {
	var h Header
	room := maxFieldBytes
	for _, key := range slices.Sorted(maps.Keys(data)) {
		room = h.keep(Field{key, data[key]}, room)
	}
	return h.Fields
}
