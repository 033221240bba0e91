package tracing

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// What X-Ray indexes of an annotation: longer ones are cut.
const (
	maxAnnotationKey   = 500
	maxAnnotationValue = 1000
)

// Annotate adds an annotation, which X-Ray indexes for searches. As in the gem, a
// dash in the key becomes an underscore, other characters than letters, digits and
// underscores are left out, and of two values for one key the later holds. Values are
// strings, numbers and booleans; anything else is written as fmt.Sprint does. Keys are cut
// at 500 characters, values at 1000. An annotation that would not be legal is left out: an
// empty key, a nil value; a number that JSON has no word for becomes a string, "NaN".
func (s *Segment) Annotate(key string, value any) {
	s.change(func(x *xray.Segment) { annotate(&x.Annotations, key, value) })
}

// annotate adds a normalised annotation to m.
func annotate(m *map[string]any, key string, value any) {
	key, value = annotationKey(key), annotationValue(value)
	if key == "" || value == nil {
		return
	}
	if *m == nil {
		*m = map[string]any{}
	}
	(*m)[key] = value
}

// annotationKey makes a key legal.
func annotationKey(key string) string {
	legal := strings.Map(func(r rune) rune {
		switch {
		case r == '-':
			return '_'
		case r == '_', r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			return r
		}
		return -1
	}, key)
	return cutBytes(legal, maxAnnotationKey)
}

// annotationValue makes a value legal: a string, a number or a boolean, nil for none.
func annotationValue(value any) any {
	switch v := value.(type) {
	case nil:
		return nil
	case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return v
	case float32:
		return legalFloat(float64(v))
	case float64:
		return legalFloat(v)
	case json.Number:
		return legalNumber(v)
	case string:
		return strings.Clone(cut(legalText(v), maxAnnotationValue))
	default:
		return cut(legalText(sprint(v)), maxAnnotationValue)
	}
}

// legalFloat gives what JSON has no word for as a string.
func legalFloat(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return f
}

// legalNumber keeps the text of a number of any size.
func legalNumber(n json.Number) any {
	if b := []byte(n); json.Valid(b) && len(b) != 0 && (b[0] == '-' || (b[0] >= '0' && b[0] <= '9')) {
		return n
	}
	return cut(legalText(n.String()), maxAnnotationValue)
}

// sprint is fmt.Sprint, which puts panics of String methods into the text.
func sprint(v any) string { return fmt.Sprint(v) }

// legalText is valid UTF-8: what is not is left out.
func legalText(s string) string { return strings.ToValidUTF8(s, "") }

// AddMetadata adds metadata to the namespace "default", as xray.AddMetadata does.
// Metadata is not indexed, and may be anything that encoding/json can write. A value
// that is no scalar is written at once, so that it may change afterwards; one that
// cannot be written is replaced by the error.
func (s *Segment) AddMetadata(key string, value any) { s.AddMetadataTo("default", key, value) }

// AddMetadataTo adds metadata to a namespace. X-Ray keeps those that begin with
// "AWS." for itself.
func (s *Segment) AddMetadataTo(namespace, key string, value any) {
	s.change(func(x *xray.Segment) {
		if x.Metadata == nil {
			x.Metadata = map[string]map[string]any{}
		}
		namespace, key = cutBytes(namespace, maxPacket), cutBytes(key, maxPacket)
		if x.Metadata[namespace] == nil {
			x.Metadata[namespace] = map[string]any{}
		}
		x.Metadata[namespace][key] = freeze(value)
	})
}

// SQL describes a query, in the subsegment of one. Empty fields are left out.
type SQL struct {
	URL             string // the database; user, password, query and fragment are left out
	DatabaseType    string
	DatabaseVersion string
	DriverVersion   string
	User            string
	Preparation     string // "call" or "statement"; anything else is left out
	Query           string // with its values left out
}

// SetSQL says what query the subsegment is of. For database/sql, xray.SQLContext
// does so by itself.
func (s *Segment) SetSQL(q SQL) {
	s.change(func(x *xray.Segment) {
		x.SQL = &xray.SQLData{
			URL: cutBytes(bareURL(q.URL), maxPacket), SanitizedQuery: cutBytes(q.Query, maxPacket),
			DatabaseType: cut(q.DatabaseType, maxShort), DatabaseVersion: cut(q.DatabaseVersion, maxShort),
			DriverVersion: cut(q.DriverVersion, maxShort), User: cut(q.User, maxShort),
		}
		if q.Preparation == "call" || q.Preparation == "statement" {
			x.SQL.Preparation = q.Preparation
		}
	})
}

// SetUser says on whose behalf the segment works. X-Ray takes it for segments only.
func (s *Segment) SetUser(user string) {
	s.change(func(x *xray.Segment) { x.User = cut(user, maxShort) })
}

// legalName makes a name that X-Ray accepts: other characters than it allows become
// underscores, the rest over 200 characters is cut, and an empty one is "unnamed".
func legalName(name string) string {
	if name == "" {
		return "unnamed"
	}
	if len(name) <= maxName && plainName(name) {
		return name
	}
	name = cut(strings.Map(func(r rune) rune {
		if nameRune(r) {
			return r
		}
		return '_'
	}, name), maxName)
	return name
}

const maxName = 200

// plainName reports whether all of name is ASCII that may stand in a name.
func plainName(name string) bool {
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf || !nameRune(rune(name[i])) {
			return false
		}
	}
	return true
}
