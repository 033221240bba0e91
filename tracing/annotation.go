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

// X-Ray's limits on annotations. Longer keys and values are cut.
const (
	maxAnnotationKey   = 500
	maxAnnotationValue = 1000
)

// Annotate adds an annotation. X-Ray indexes annotations for searches. As in the gem, a
// dash in the key becomes an underscore, and characters other than letters, digits and
// underscores are removed. If a key is added twice, the later value wins. Values are
// strings, numbers and booleans; any other value is formatted with fmt.Sprint. Keys are cut
// at 500 characters, values at 1000. An annotation with an empty key or a nil value is
// dropped. A number that JSON cannot represent becomes a string, such as "NaN".
func (s *Segment) Annotate(key string, value any) {
	s.change(func(x *xray.Segment) { annotate(&x.Annotations, key, value) })
}

// annotate adds a normalized annotation to m.
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

// annotationKey returns the legal form of key.
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

// annotationValue returns the legal form of value: a string, a number or a boolean. It
// returns nil if there is no legal form.
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

// legalFloat returns f, or its text if JSON cannot represent it.
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

// sprint is fmt.Sprint, which recovers panics of String methods and puts them into the
// text.
func sprint(v any) string { return fmt.Sprint(v) }

// legalText returns s without the bytes that are not valid UTF-8.
func legalText(s string) string { return strings.ToValidUTF8(s, "") }

// AddMetadata adds metadata to the namespace "default", as xray.AddMetadata does. Metadata
// is not indexed. The value may be anything that encoding/json can write. A value that is
// not a scalar is written immediately, so that the caller may change it afterwards. A value
// that cannot be written is replaced by the error.
func (s *Segment) AddMetadata(key string, value any) { s.AddMetadataTo("default", key, value) }

// AddMetadataTo adds metadata to a namespace. X-Ray reserves namespaces that begin with
// "AWS.".
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

// SQL describes the query of a subsegment. Empty fields are omitted.
type SQL struct {
	URL             string // the database; user, password, query and fragment are removed
	DatabaseType    string
	DatabaseVersion string
	DriverVersion   string
	User            string
	Preparation     string // "call" or "statement"; any other value is omitted
	Query           string // without its values
}

// SetSQL records the query that the subsegment makes. For database/sql, xray.SQLContext
// does this.
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

// SetUser records the user for whom the segment works. X-Ray accepts it in segments only.
func (s *Segment) SetUser(user string) {
	s.change(func(x *xray.Segment) { x.User = cut(user, maxShort) })
}

// legalName returns the legal form of a name: characters that X-Ray does not allow become
// underscores, names over 200 characters are cut, and an empty name becomes "unnamed".
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

// plainName reports whether name consists of ASCII characters that X-Ray allows.
func plainName(name string) bool {
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf || !nameRune(rune(name[i])) {
			return false
		}
	}
	return true
}
