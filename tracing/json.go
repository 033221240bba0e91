package tracing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// frozen is a value that has been written as JSON.
type frozen []byte

// MarshalJSON returns the text.
func (f frozen) MarshalJSON() ([]byte, error) { return f, nil }

// tooLong stands for a value whose JSON is too long for any document.
type tooLong struct{}

// freeze writes a value that may change later, or that only its own goroutine may read.
// Scalars stay as they are, except for a string that is too long for any document.
func freeze(value any) any {
	switch v := value.(type) {
	case nil, bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, frozen, tooLong, callerStack, callersMore:
		return v
	case string:
		return cutBytes(v, maxPacket)
	case float32:
		return legalFloat(float64(v))
	case float64:
		return legalFloat(v)
	default:
		return freezeJSON(marshal(v))
	}
}

func freezeJSON(text []byte) any {
	if len(text) > maxPacket {
		return tooLong{}
	}
	return frozen(text)
}

// marshal returns value as JSON. A value that cannot be written becomes a string with the
// error.
func marshal(value any) []byte {
	text, err := tryMarshal(value)
	if err != nil {
		return quote(nil, fmt.Sprintf("(%T cannot be written: %v)", value, err))
	}
	return text
}

// tryMarshal returns value as JSON. It converts a panic in a method of the value to an
// error.
func tryMarshal(value any) (text []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// writeValue writes a scalar or a frozen value.
func writeValue(b []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(b, "null"...)
	case string:
		return quote(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case uint64:
		return strconv.AppendUint(b, v, 10)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return quote(b, strconv.FormatFloat(v, 'g', -1, 64))
		}
		return append(b, marshal(v)...)
	case frozen:
		return append(b, v...)
	case tooLong:
		return quote(b, cutMark)
	default:
		return append(b, marshal(v)...)
	}
}

// quote appends s as a JSON string. It writes raw UTF-8 where JSON allows it, and omits
// bytes that are not UTF-8.
func quote(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf && c != 0x7f {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || size != 1 {
				i += size
				continue
			}
		}
		b = append(b, s[start:i]...)
		b = escape(b, c)
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// escape writes a character that must be escaped.
func escape(b []byte, c byte) []byte {
	switch {
	case c >= utf8.RuneSelf:
		return b
	case c == '"' || c == '\\':
		return append(b, '\\', c)
	case c == '\n':
		return append(b, `\n`...)
	case c == '\t':
		return append(b, `\t`...)
	case c == '\r':
		return append(b, `\r`...)
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}
