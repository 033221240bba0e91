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
	Fields  []Field  // what else it has, in its order; at most 32, and 1 KiB in all
	State   string   // W3C tracestate that goes on with the trace; see [Config] W3C
}

// How much of the fields without a meaning is kept. A caller must not be able to
// make every request that follows from its own a large one.
const (
	maxFields     = 32
	maxFieldBytes = 1 << 10
)

// ParseHeader reads the value of X-Amzn-Trace-Id. It never fails: what it does not
// understand becomes a field, or is left out. It reads as the gem does: fields are
// separated by semicolons, spaces mean nothing anywhere, the last of several fields
// of one name counts, names are case-sensitive. Unlike the gem it keeps what follows
// a second equals sign, and a last field that is empty.
//
// Nothing is validated: an id may be any text. A trace that begins with one that is
// not legal gets a new one.
func ParseHeader(s string) Header {
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

// keep adds a field, or replaces the one of its name, as far as there is room for
// it. It gives the room that is left. What cannot stand in an HTTP header is not kept.
func (h *Header) keep(f Field, room int) int {
	size := len(f.Key) + len(f.Value) + len(";=")
	i := slices.IndexFunc(h.Fields, func(old Field) bool { return old.Key == f.Key })
	if i >= 0 {
		size -= len(h.Fields[i].Key) + len(h.Fields[i].Value) + len(";=")
	}
	if size > room || (i < 0 && len(h.Fields) == maxFields) || !sendable(f.Key) || !sendable(f.Value) {
		return room
	}
	if i >= 0 {
		h.Fields[i] = f
	} else {
		h.Fields = append(h.Fields, f)
	}
	return room - size
}

// sendable reports whether s may stand in the value of an HTTP header.
func sendable(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
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
