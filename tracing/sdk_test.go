package tracing

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/aws/aws-xray-sdk-go/v2/header"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// TestErrorsThroughTheSDK records errors in subsegments that the SDK's emitter sends, and
// in segments that the SDK made.
func TestErrorsThroughTheSDK(t *testing.T) {
	daemon, theirs := listenUDP(t)
	emitter, err := xray.NewDefaultEmitter(daemon)
	if err != nil {
		t.Fatal(err)
	}
	ctx, seg := xray.NewSegmentFromHeader(sdkContext(t, emitter, "1.0"), "theirs", nil,
		&header.Header{TraceID: someRoot, ParentID: someParent, AdditionalData: map[string]string{"Foo": "bar", "Baz": "qux"}})
	_, sub := StartSubsegment(ctx, "by hand?")
	err = errBroken
	if got, want := sub.Downstream().String(), "Root="+someRoot+";Sampled=1;Parent="+sub.ID()+";Baz=qux;Foo=bar"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	sub.End(&err)
	handle := Current(ctx)
	handle.SetResponse(503, 7)
	handle.SetStatus(503)
	handle.SetUser("u")
	handle.End(nil)
	for _, want := range []struct{ name, message string }{{"by hand_", "broken"}, {"theirs", "Got 5xx"}} {
		d := theirs(t)
		if d.str("name") != want.name || d.str("cause", "exceptions", "message") != want.message || d.at("fault") != true ||
			d.str("trace_id") != someRoot || d.at("cause", "exceptions", "stack") == nil {
			t.Errorf("got %v, want %s with %s", d, want.name, want.message)
		}
	}
	if handle.Incoming() == "" || seg.HTTP.Response.ContentLength != 7 {
		t.Errorf("got %q and %+v", handle.Incoming(), seg.HTTP.Response)
	}
}

// TestWithinTheSDK annotates a subsegment that the SDK made within a segment of this
// package.
func TestWithinTheSDK(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Continue(t.Context(), "", ParseHeader("Root="+someRoot+";Sampled=1;Foo=bar"))
	_ = xray.Capture(ctx, "sdk", func(ctx context.Context) error {
		Current(ctx).Annotate("k-1", "v")
		Current(ctx).SetError(errBroken)
		if got := Current(ctx).Downstream(); len(got.Fields) != 1 || got.Root != someRoot {
			t.Errorf("got %+v, want the trace's fields", got)
		}
		return nil
	})
	seg.End(nil)
	d := find(t, sent.documents(t, tracer), "sdk")
	if d.str("annotations", "k_1") != "v" || d.str("cause", "exceptions", "message") != "broken" {
		t.Errorf("got %v, want the annotations", d)
	}
}

// fakeDB is a database that accepts every query.
type (
	fakeDB   struct{}
	fakeRows struct{}
)

func (fakeDB) Open(string) (driver.Conn, error)    { return fakeDB{}, nil }
func (fakeDB) Prepare(string) (driver.Stmt, error) { return nil, errBroken }
func (fakeDB) Close() error                        { return nil }
func (fakeDB) Begin() (driver.Tx, error)           { return nil, errBroken }
func (fakeRows) Columns() []string                 { return nil }
func (fakeRows) Close() error                      { return nil }
func (fakeRows) Next([]driver.Value) error         { return errBroken }
func (fakeDB) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return fakeRows{}, nil
}

// registerFake registers the driver once, however often tests run.
var registerFake = sync.OnceFunc(func() { sql.Register("fake", fakeDB{}) })

// TestSQLContext makes queries through the SDK's driver within a segment of this package.
func TestSQLContext(t *testing.T) {
	registerFake()
	db, err := xray.SQLContext("fake", "fake://user:secret@db:1/menu")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	rows, err := db.QueryContext(ctx, "SELECT ?")
	if err != nil {
		t.Fatal(err)
	}
	rows.Close()
	seg.End(nil)
	docs := sent.documents(t, tracer)
	if d := docs[1]; d.str("sql", "sanitized_query") != "SELECT ?" || d.str("sql", "url") != "fake://user@db:1/menu" || d.str("parent_id") != seg.ID() {
		t.Errorf("got %v, want the query after the connect", docs)
	}
}

// TestSchema checks that the schema of the tests refuses the documents that X-Ray refuses.
func TestSchema(t *testing.T) {
	const good = `"name":"a","id":"53995c3f42cd8ad8","trace_id":"` + someRoot + `","start_time":1.5,"end_time":2`
	for _, tc := range []struct {
		doc string
		ok  bool
	}{
		{good, true},
		{good + `,"annotations":{"k":null}`, false},
		{good + `,"annotations":{"k":[1]}`, false},
		{good + `,"annotations":{"k-1":1}`, false},
		{good + `,"metadata":{"k":1}`, false},
		{good + `,"in_progress":true`, false},
		{good + `,"type":"subsegment"`, false},
		{good + `,"namespace":"remote"`, false},
		{good + `,"type":"subsegment","parent_id":"53995c3f42cd8ad8","namespace":"remote"`, true},
		{good + `,"type":"subsegment","parent_id":"53995c3f42cd8ad8","namespace":"other"`, false},
		{good + `,"http":{"request":{"traced":true}}`, false},
		{good + `,"http":{"response":{"length":1}}`, false},
		{good + `,"http":{"response":{"status":"200"}}`, false},
		{good + `,"cause":{"exceptions":[{"id":"53995c3f42cd8ad8","stack":[{"line":"1"}]}]}`, false},
		{good + `,"cause":{"exceptions":[{"id":"53995c3f42cd8ad8","cause":null}]}`, false},
		{good + `,"Dummy":false`, false},
		{good + `,"subsegments":[{"name":"b","id":"1"}]`, false},
		{`"name":"a*b"` + good[len(`"name":"a"`):], false},
		{`"name":""` + good[len(`"name":"a"`):], false},
	} {
		var d any
		if err := json.Unmarshal([]byte("{"+tc.doc+"}"), &d); err != nil {
			t.Fatal(err)
		}
		if problems := schemaProblems(d); (len(problems) == 0) != tc.ok {
			t.Errorf("{%s}: got %v, want valid: %v", tc.doc, fmt.Sprint(problems), tc.ok)
		}
	}
}
