package tracing

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"sync"
	"unicode/utf8"
)

// schemaText describes in JSON Schema what X-Ray accepts. It is written from the field
// rules in AWS's developer guide ("AWS X-Ray segment documents"): the fields, their types,
// lengths and places, and which are required.
//
//go:embed testdata/segment-schema.json
var schemaText []byte

// schema is a JSON Schema, with the keywords that segment-schema.json uses.
type schema struct {
	Ref        string             `json:"$ref"`
	Type       string             `json:"type"`
	Properties map[string]*schema `json:"properties"`
	Additional *schema            `json:"additionalProperties"`
	Closed     bool               `json:"closed"` // no other properties
	Keys       string             `json:"keys"`   // a pattern that all names match
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	Pattern    string             `json:"pattern"`
	MaxLength  int                `json:"maxLength"`
	Enum       []any              `json:"enum"`
	Minimum    *float64           `json:"minimum"`
	AnyOf      []*schema          `json:"anyOf"`
	AllOf      []*schema          `json:"allOf"`
	If         *schema            `json:"if"`
	Then       *schema            `json:"then"`
	Else       *schema            `json:"else"`
	Not        *schema            `json:"not"`
	Defs       map[string]*schema `json:"$defs"`
}

var documentSchema = func() *schema {
	var s schema
	if err := json.Unmarshal(schemaText, &s); err != nil {
		panic(err)
	}
	return &s
}()

// schemaProblems returns the violations of the schema in a document.
func schemaProblems(doc any) []string { return documentSchema.check("#", doc) }

func (s *schema) check(at string, v any) []string {
	if s.Ref != "" {
		s = documentSchema.Defs[s.Ref]
	}
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, at+": "+fmt.Sprintf(format, args...)) }
	if s.Type != "" && typeOf(v) != s.Type && (s.Type != "number" || typeOf(v) != "integer") {
		say("got %v of type %s, want %s", v, typeOf(v), s.Type)
		return bad
	}
	if len(s.Enum) != 0 && !slices.Contains(s.Enum, v) {
		say("got %v, want one of %v", v, s.Enum)
	}
	switch v := v.(type) {
	case string:
		if s.Pattern != "" && !compiled(s.Pattern).MatchString(v) {
			say("%q does not match %s", v, s.Pattern)
		}
		if n := utf8.RuneCountInString(v); s.MaxLength != 0 && n > s.MaxLength {
			say("got %d characters, want at most %d", n, s.MaxLength)
		}
	case float64:
		if s.Minimum != nil && v < *s.Minimum {
			say("got %v, want at least %v", v, *s.Minimum)
		}
	case []any:
		if s.Items != nil {
			for i, item := range v {
				bad = append(bad, s.Items.check(fmt.Sprintf("%s/%d", at, i), item)...)
			}
		}
	case map[string]any:
		bad = append(bad, s.checkObject(at, v)...)
	}
	return append(bad, s.checkCombined(at, v)...)
}

func (s *schema) checkObject(at string, v map[string]any) []string {
	var bad []string
	for _, key := range s.Required {
		if _, ok := v[key]; !ok {
			bad = append(bad, at+": "+key+" is missing")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		if s.Keys != "" && !compiled(s.Keys).MatchString(key) {
			bad = append(bad, fmt.Sprintf("%s: the name %q does not match %s", at, key, s.Keys))
		}
		switch property, ok := s.Properties[key]; {
		case ok:
			bad = append(bad, property.check(at+"/"+key, v[key])...)
		case s.Additional != nil:
			bad = append(bad, s.Additional.check(at+"/"+key, v[key])...)
		case s.Closed:
			bad = append(bad, at+": "+key+" is no field")
		}
	}
	return bad
}

func (s *schema) checkCombined(at string, v any) []string {
	var bad []string
	for _, all := range s.AllOf {
		bad = append(bad, all.check(at, v)...)
	}
	if len(s.AnyOf) != 0 && !slices.ContainsFunc(s.AnyOf, func(o *schema) bool { return len(o.check(at, v)) == 0 }) {
		bad = append(bad, at+": none of the alternatives holds")
	}
	if s.Not != nil && len(s.Not.check(at, v)) == 0 {
		bad = append(bad, at+": what must not be is")
	}
	if s.If != nil {
		branch := s.Else
		if len(s.If.check(at, v)) == 0 {
			branch = s.Then
		}
		if branch != nil {
			bad = append(bad, branch.check(at, v)...)
		}
	}
	return bad
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case float64:
		if v == math.Trunc(v) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	default:
		return "object"
	}
}

var patterns sync.Map

func compiled(pattern string) *regexp.Regexp {
	if re, ok := patterns.Load(pattern); ok {
		return re.(*regexp.Regexp)
	}
	re, _ := patterns.LoadOrStore(pattern, regexp.MustCompile(pattern))
	return re.(*regexp.Regexp)
}
