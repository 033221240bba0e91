package tracing

import (
	"maps"
	"slices"
	"strconv"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/exception"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Version is the version of this package, in metadata.tracing_sdk.
const Version = "0.1.0"

// defaults is the content that all documents share. The parts that never change are written
// once.
type defaults struct {
	annotations     map[string]any
	metadata        map[string]map[string]any
	annotationsText []byte // for documents without annotations
	metadataText    []byte
	service         []byte // including the comma; empty without a version
}

func newDefaults(c Config) defaults {
	d := defaults{metadata: map[string]map[string]any{}}
	own := c.Annotations
	if own == nil {
		own = hostname()
	}
	for _, key := range slices.Sorted(maps.Keys(own)) {
		annotate(&d.annotations, key, own[key])
	}
	metadata := c.Metadata
	if metadata == nil {
		metadata = map[string]map[string]any{"tracing_sdk": {"name": "pillion", "version": Version}}
	}
	for namespace, values := range metadata {
		d.metadata[namespace] = map[string]any{}
		for key, value := range values {
			d.metadata[namespace][key] = freeze(value)
		}
	}
	w := writer{defaults: &d}
	w.annotations(nil)
	d.annotationsText, w.b = w.b, nil
	w.metadata(nil)
	d.metadataText, w.b = w.b, nil
	if v := cut(legalText(c.version()), maxShort); v != "" {
		d.service = append(quote([]byte(`"service":{"version":`), v), `},`...)
	}
	return d
}

// writer writes documents, completely or as far as its level allows.
type writer struct {
	defaults *defaults
	b        []byte
	level    int

	incomplete bool // a value was omitted
}

// document writes x and, embedded in it, the subsegments that the SDK made within it, which
// are kids. The caller holds x's lock.
func (w *writer) document(x *xray.Segment, parent string, embedded bool, kids []*xray.Segment) {
	d := owner(x)
	w.b = append(w.b, '{')
	w.text("name", legalName(legalText(x.Name)))
	w.text("id", x.ID)
	if !embedded {
		w.text("trace_id", x.ParentSegment.TraceID)
	}
	w.key("start_time")
	w.b = append(strconv.AppendFloat(w.b, x.StartTime, 'f', 6, 64), ',')
	w.extras(x)
	w.httpData(x, d)
	w.times(x)
	w.errors(x, d)
	if isSegmentID(parent) {
		w.text("parent_id", parent)
	}
	if x.ParentSegment != x && !embedded {
		w.b = append(w.b, `"type":"subsegment",`...)
	}
	if x.Namespace == "remote" || x.Namespace == "aws" {
		w.text("namespace", x.Namespace)
	}
	w.sql(x.SQL)
	w.rest(x)
	w.embed(kids)
	w.b[len(w.b)-1] = '}' // replaces the last comma
}

// extras writes the annotations, the metadata and the service.
func (w *writer) extras(x *xray.Segment) {
	if w.level >= levelBare {
		w.metadata(nil)
		return
	}
	w.annotations(x.Annotations)
	w.metadata(x.Metadata)
	w.b = append(w.b, w.defaults.service...)
}

// annotations writes the default annotations and x's own, which take precedence.
func (w *writer) annotations(own map[string]any) {
	if len(own) == 0 && w.defaults.annotationsText != nil {
		w.b = append(w.b, w.defaults.annotationsText...)
		return
	}
	w.key("annotations")
	w.b = append(w.b, '{')
	all := own
	if len(w.defaults.annotations) != 0 {
		all = map[string]any{}
		maps.Copy(all, w.defaults.annotations)
	}
	for _, key := range slices.Sorted(maps.Keys(own)) {
		annotate(&all, key, own[key]) // those of the SDK are not normalized
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if annotationKey(key) != key || key == "" {
			continue
		}
		w.b = quote(w.b, key)
		w.b = append(w.b, ':')
		w.b = append(writeValue(w.b, w.shorten(all[key])), ',')
	}
	w.close('}')
}

// metadata writes the default metadata and x's own, which takes precedence.
func (w *writer) metadata(own map[string]map[string]any) {
	if len(own) == 0 && w.level == levelWhole && w.defaults.metadataText != nil {
		w.b = append(w.b, w.defaults.metadataText...)
		return
	}
	w.key("metadata")
	w.b = append(w.b, '{')
	names := slices.Collect(maps.Keys(own))
	for name := range w.defaults.metadata {
		if _, both := own[name]; !both {
			names = append(names, name)
		}
	}
	if _, has := own[markName]; !has && w.level > levelWhole {
		names = append(names, markName)
	}
	slices.Sort(names)
	for _, name := range names {
		w.key(name)
		w.b = append(w.b, '{')
		if name == markName && w.level > levelWhole {
			w.text("cut", "the document was too large: long or many values were left out")
		}
		values := own[name]
		for _, key := range slices.Sorted(maps.Keys(w.defaults.metadata[name])) {
			if _, both := values[key]; !both {
				w.value(key, w.defaults.metadata[name][key])
			}
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			w.value(key, values[key])
		}
		w.close('}')
	}
	w.close('}')
}

// value writes one entry of a map.
func (w *writer) value(key string, value any) {
	w.key(key)
	w.b = append(writeValue(w.b, w.shorten(value)), ',')
}

// key writes a name and a colon.
func (w *writer) key(name string) { w.b = append(quote(w.b, w.short(name)), ':') }

// text writes a string, unless it is empty.
func (w *writer) text(name, value string) {
	if value == "" {
		return
	}
	w.key(name)
	w.b = append(quote(w.b, w.short(value)), ',')
}

func (w *writer) flag(name string, value bool) {
	w.key(name)
	w.b = append(strconv.AppendBool(w.b, value), ',')
}

func (w *writer) number(name string, value int) {
	w.key(name)
	w.b = append(strconv.AppendInt(w.b, int64(value), 10), ',')
}

// close ends an object or a list. It replaces the last comma.
func (w *writer) close(end byte) {
	if last := len(w.b) - 1; w.b[last] == ',' {
		w.b[last] = end
	} else {
		w.b = append(w.b, end)
	}
	w.b = append(w.b, ',')
}

// httpData writes the request and the response. As in the gem, a segment always has
// x_forwarded_for, and a subsegment always has traced, even if they are false.
func (w *writer) httpData(x *xray.Segment, d *document) {
	if x.HTTP == nil || (x.HTTP.Request == nil && x.HTTP.Response == nil) {
		return
	}
	w.b = append(w.b, `"http":{`...)
	if r := x.HTTP.Request; r != nil {
		w.b = append(w.b, `"request":{`...)
		w.text("method", cut(r.Method, maxShort))
		w.text("url", cut(r.URL, maxURL))
		w.text("user_agent", cut(r.UserAgent, maxURL))
		w.text("client_ip", cut(r.ClientIP, maxShort))
		if x.ParentSegment == x {
			w.flag("x_forwarded_for", r.XForwardedFor)
		} else {
			w.flag("traced", r.Traced)
		}
		w.close('}')
	}
	if r := x.HTTP.Response; r != nil {
		w.b = append(w.b, `"response":{`...)
		if r.Status != 0 {
			w.number("status", r.Status)
		}
		if r.ContentLength > 0 || (d != nil && d.sized) {
			w.number("content_length", r.ContentLength)
		}
		w.close('}')
	}
	w.close('}')
}

func (w *writer) times(x *xray.Segment) {
	if x.EndTime == 0 {
		w.b = append(w.b, `"in_progress":true,`...)
		return
	}
	w.key("end_time")
	w.b = append(strconv.AppendFloat(w.b, max(x.EndTime, x.StartTime), 'f', 6, 64), ',')
}

// errors writes the cause, and all three flags if any of them is set.
func (w *writer) errors(x *xray.Segment, d *document) {
	if !flagged(x) {
		return
	}
	w.flag("error", x.Error)
	w.flag("throttle", x.Throttle)
	w.flag("fault", x.Fault)
	var own *thrown
	if d != nil {
		own = d.thrown
	}
	if own == nil && (x.Cause == nil || len(x.Cause.Exceptions) == 0) {
		return
	}
	if w.level >= levelBare {
		return
	}
	w.b = append(w.b, `"cause":{`...)
	w.text("working_directory", workingDirectory())
	w.b = append(w.b, `"paths":[],"exceptions":[`...)
	if own != nil {
		stack, truncated := stackOf(own.stack, w.mostFrames(own.most))
		w.exception(exception.Exception{
			ID: own.id, Type: own.kind, Message: own.message, Remote: own.remote, Stack: stack,
		}, truncated)
	}
	if x.Cause != nil {
		for _, e := range x.Cause.Exceptions {
			truncated := max(0, len(e.Stack)-w.mostFrames(maxErrorFrames))
			e.Stack = e.Stack[:len(e.Stack)-truncated]
			w.exception(e, truncated)
		}
	}
	w.close(']')
	w.close('}')
}

func (w *writer) exception(e exception.Exception, truncated int) {
	w.b = append(w.b, '{')
	id := e.ID
	if !isSegmentID(id) {
		id = newSegmentID()
	}
	w.text("id", id)
	w.text("message", e.Message)
	w.text("type", cut(e.Type, maxShort))
	w.flag("remote", e.Remote)
	w.number("truncated", truncated)
	w.key("stack")
	w.frames(e.Stack)
	w.b = append(w.b, ',')
	w.close('}')
}

// frames writes a list of stack frames.
func (w *writer) frames(stack []exception.Stack) {
	w.b = append(w.b, '[')
	for _, f := range stack {
		w.b = append(w.b, '{')
		w.text("path", f.Path)
		w.number("line", f.Line)
		w.text("label", f.Label)
		w.close('}')
	}
	w.close(']')
	w.b = w.b[:len(w.b)-1]
}

func (w *writer) sql(q *xray.SQLData) {
	if q == nil {
		return
	}
	w.b = append(w.b, `"sql":{`...)
	w.text("connection_string", q.ConnectionString)
	w.text("url", q.URL)
	w.text("database_type", cut(q.DatabaseType, maxShort))
	w.text("database_version", cut(q.DatabaseVersion, maxShort))
	w.text("driver_version", cut(q.DriverVersion, maxShort))
	w.text("user", cut(q.User, maxShort))
	w.text("preparation", cut(q.Preparation, maxShort))
	if w.level < levelBare {
		w.text("sanitized_query", q.SanitizedQuery)
	}
	w.close('}')
}

// rest writes the fields that only the SDK and its instrumentation set.
func (w *writer) rest(x *xray.Segment) {
	if x.ParentSegment == x {
		w.text("user", cut(x.User, maxShort))
		w.text("origin", cut(x.Origin, maxShort))
	}
	w.text("resource_arn", cut(x.ResourceARN, maxShort))
	if len(x.AWS) != 0 && w.level < levelBare {
		w.b = append(w.b, `"aws":{`...)
		for _, key := range slices.Sorted(maps.Keys(x.AWS)) {
			w.value(key, x.AWS[key])
		}
		w.close('}')
	}
	if len(x.PrecursorIDs) != 0 && w.level < levelBare {
		w.b = append(w.b, `"precursor_ids":[`...)
		for _, id := range x.PrecursorIDs {
			if isSegmentID(id) {
				w.b = append(quote(w.b, id), ',')
			}
		}
		w.close(']')
	}
}

// embed writes the subsegments that the SDK made within x.
func (w *writer) embed(kids []*xray.Segment) {
	if len(kids) == 0 {
		return
	}
	w.b = append(w.b, `"subsegments":[`...)
	for _, kid := range kids {
		kid.Lock()
		w.document(kid, "", true, children(kid))
		kid.Unlock()
		w.b = append(w.b, ',')
	}
	w.close(']')
}
