package tracing

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// TestSplit has the SDK record a tree that does not fit into a packet. Each subsegment
// arrives, with the right parent.
func TestSplit(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	parents := map[string]string{}
	err := xray.Capture(ctx, "top", func(ctx context.Context) error {
		parents[xray.GetSegment(ctx).ID] = seg.ID()
		for range 50 {
			_ = xray.Capture(ctx, "middle", func(inner context.Context) error {
				parents[xray.GetSegment(inner).ID] = xray.GetSegment(ctx).ID
				_ = xray.AddMetadata(inner, "big", strings.Repeat("x", 2000))
				return xray.Capture(inner, "leaf", func(leaf context.Context) error {
					parents[xray.GetSegment(leaf).ID] = xray.GetSegment(inner).ID
					return nil
				})
			})
		}
		return nil
	})
	seg.End(&err)
	got := map[string]string{}
	for _, d := range sent.documents(t, tracer) {
		flatten(got, d, d.str("parent_id"))
	}
	delete(got, seg.ID())
	if !maps.Equal(got, parents) {
		t.Errorf("got %d subsegments, want %d with their parents", len(got), len(parents))
	}
	if s := tracer.Stats(); s.Split == 0 || s.Cut != 0 || s.Dropped() != 0 {
		t.Errorf("got %+v, want some split and none cut", s)
	}
}

// flatten returns the parent of each document and of the subsegments that are embedded in
// it.
func flatten(parents map[string]string, d map[string]any, parent string) {
	id, _ := d["id"].(string)
	parents[id] = parent
	for _, sub := range list(d["subsegments"]) {
		flatten(parents, sub.(map[string]any), id)
	}
}

// TestCut sends documents that are too large on their own. They arrive with their short
// values, and with a mark that values are missing.
func TestCut(t *testing.T) {
	for _, tc := range []struct {
		name string
		fill func(*Segment)
		keep string // metadata that must still be there
	}{
		{"one large value", func(s *Segment) { s.AddMetadata("big", strings.Repeat("é", 100000)); s.AddMetadata("small", "kept") }, "kept"},
		{"one large object", func(s *Segment) {
			s.AddMetadata("big", slices.Repeat([]string{"soup"}, 50000))
			s.AddMetadata("small", "kept")
		}, "kept"},
		{"many values", func(s *Segment) {
			for i := range 2000 {
				s.AddMetadata(fmt.Sprint("key", i), strings.Repeat("x", 100))
			}
		}, ""},
		{"many annotations", func(s *Segment) {
			for i := range 2000 {
				s.Annotate(fmt.Sprint("key", i), strings.Repeat("x", 100))
			}
		}, ""},
		{"a long error", func(s *Segment) {
			s.SetError(fmt.Errorf("%s", strings.Repeat("x", 100000)))
			s.AddMetadata("small", "kept")
		}, "kept"},
		{"a long query", func(s *Segment) {
			s.SetSQL(SQL{Query: strings.Repeat("SELECT ", 20000), URL: strings.Repeat("u", 70000)})
		}, ""},
		{"long keys", func(s *Segment) { s.AddMetadataTo(strings.Repeat("n", 70000), strings.Repeat("k", 70000), 1) }, ""},
		{"its own mark", func(s *Segment) { s.AddMetadataTo(markName, "cut", strings.Repeat("k", 70000)) }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, Config{})
			_, seg := tracer.Trace(t.Context(), "")
			tc.fill(seg)
			seg.End(nil)
			docs := sent.documents(t, tracer)
			if len(docs) != 1 || docs[0].str("id") != seg.ID() {
				t.Fatalf("got %d documents, want the one", len(docs))
			}
			if docs[0].str("metadata", "pillion", "cut") == "" || docs[0].str("metadata", "default", "small") != tc.keep {
				t.Errorf("got %.300v, want a mark, and %q", docs[0]["metadata"], tc.keep)
			}
			if s := tracer.Stats(); s.Cut != 1 || s.Sent != 1 {
				t.Errorf("got %+v, want one cut", s)
			}
		})
	}
}

// TestFrozen changes metadata after it was added, and adds values that cannot be written.
func TestFrozen(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	counts := map[string]int{"n": 1}
	seg.AddMetadata("map", counts)
	counts["n"] = 2
	seg.AddMetadata("chan", make(chan int))
	seg.AddMetadata("nan", math.NaN())
	seg.AddMetadata("deep nan", []float64{math.Inf(1)})
	seg.AddMetadata("panics", badJSON{})
	seg.AddMetadata("raw", json.RawMessage("{not json"))
	seg.AddMetadata("bytes \xff", "caf\xc3\xa9 \xff\xfe <&>\u2028\x00\x1f\"\\")
	seg.AddMetadata("float32", float32(1.5))
	seg.Annotate("float32", float32(math.Inf(-1)))
	_ = xray.AddMetadata(ctx, "sdk", counts)
	seg.End(nil)
	counts["n"] = 3
	m := sent.documents(t, tracer)[0].at("metadata", "default").(map[string]any)
	for key, want := range map[string]any{
		"map": map[string]any{"n": 1.0}, "sdk": map[string]any{"n": 2.0}, "nan": "NaN", "float32": 1.5,
		"bytes ": "café  <&>\u2028\x00\x1f\"\\",
	} {
		if fmt.Sprint(m[key]) != fmt.Sprint(want) {
			t.Errorf("got %q for %s, want %q", m[key], key, want)
		}
	}
	for _, key := range []string{"chan", "deep nan", "panics", "raw"} {
		if s, _ := m[key].(string); !strings.Contains(s, "cannot be written") {
			t.Errorf("got %v for %s, want the reason why it cannot be written", m[key], key)
		}
	}
}

type badJSON struct{}

func (badJSON) MarshalJSON() ([]byte, error) { panic("no") }

// FuzzPack checks that each packet fits and is valid, and that each segment arrives exactly
// once with its parent, whether this package or the SDK made it.
func FuzzPack(f *testing.F) {
	f.Add("name", "key", "value", 3, 2, uint16(10))
	f.Add("", "\xff", "\x00\xff\n", 40, 3, uint16(3000))
	f.Add(strings.Repeat("ä", 300), "", strings.Repeat("é", 100), 1, 1, uint16(60000))
	f.Fuzz(func(t *testing.T, name, key, value string, width, depth int, size uint16) {
		width, depth = max(0, min(width%50, 40)), max(0, depth%4)
		tracer, sent := newTestTracer(t, Config{})
		ctx, seg := tracer.Trace(t.Context(), name)
		big := strings.Repeat(value, 1+int(size)/(len(value)+1))
		want := map[string]string{seg.ID(): ""}
		for i := range width {
			inner, parent := ctx, seg.ID()
			var ends []func(error)
			for d := range depth {
				if (i+d)%3 == 0 {
					c, sub := StartSubsegment(inner, name)
					sub.Annotate(key, value)
					sub.AddMetadataTo(key, value, big)
					want[sub.ID()], parent, inner = parent, sub.ID(), c
					ends = append(ends, func(err error) { sub.End(&err) })
				} else {
					c, sub := xray.BeginSubsegment(inner, name)
					_ = sub.AddAnnotation(key, value)
					_ = sub.AddMetadata(key, []string{big})
					want[sub.ID], parent, inner = parent, sub.ID, c
					ends = append(ends, sub.Close)
				}
			}
			for _, c := range slices.Backward(ends) {
				c(fmt.Errorf("%s", value))
			}
		}
		seg.End(nil)
		got := map[string]string{}
		for _, d := range sent.documents(t, tracer) {
			flat := map[string]string{}
			flatten(flat, d, d.str("parent_id"))
			for id, parent := range flat {
				if _, twice := got[id]; twice {
					t.Errorf("%s was sent twice", id)
				}
				got[id] = parent
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}
