package health

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

func TestPayload(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		segments []string
		data     string
		want     bool
	}{
		{nil, "", true},
		{nil, "x", true},
		{[]string{"a"}, "", false},
		{[]string{"a", "a"}, "a", false},
		{[]string{"a", "a"}, "ba-ab", true},
		{[]string{"aa", "a"}, "aa", false},
		{[]string{"ab", "bc"}, "abc", false}, // segments do not share bytes
		{[]string{"ab", "bc"}, "abbc", true},
		{[]string{"b", "a"}, "ab", false},
	} {
		var p payload
		for _, s := range test.segments {
			p = append(p, []byte(s))
		}
		if got := p.in([]byte(test.data)); got != test.want {
			t.Errorf("%q in %q: got %v, want %v", test.segments, test.data, got, test.want)
		}
	}
}

// FuzzPayload compares a matcher whose data arrives in pieces with a regular expression on the
// whole. A matcher keeps less than one segment, and does not change the data.
func FuzzPayload(f *testing.F) {
	f.Add([]byte("po|ng"), []byte("--po--ng"), byte(3))
	f.Add([]byte("aa|a"), []byte("aaaa"), byte(1))
	f.Add([]byte("ab|ba|ab"), []byte("abababab"), byte(2))
	f.Fuzz(func(t *testing.T, segments, data []byte, size byte) {
		var p payload
		var pattern strings.Builder
		pattern.WriteString("(?s)") // a dot is any character
		for segment := range bytes.SplitSeq(segments, []byte("|")) {
			if len(segment) > 0 {
				p = append(p, segment)
				pattern.WriteString(".*?" + regexp.QuoteMeta(latin1(segment)))
			}
		}
		if size == 0 || len(p) > 20 {
			return
		}
		want := regexp.MustCompile(pattern.String()).MatchString(latin1(data))
		if got := p.in(data); got != want {
			t.Errorf("%q in %q: got %v, want %v", p, data, got, want)
		}
		before := bytes.Clone(data)
		m, got := matcher{left: p}, len(p) == 0
		for rest := data; len(rest) > 0 && !got; {
			n := min(int(size), len(rest))
			got = m.feed(rest[:n])
			rest = rest[n:]
			if len(m.left) > 0 && len(m.tail) >= len(m.left[0]) {
				t.Errorf("got %d bytes kept, want less than %d", len(m.tail), len(m.left[0]))
			}
		}
		if got != want {
			t.Errorf("%q in %q, %d bytes at a time: got %v, want %v", p, data, size, got, want)
		}
		if !bytes.Equal(data, before) {
			t.Errorf("got %q, want the data unchanged: %q", data, before)
		}
	})
}

// latin1 makes a string of which each byte is one character.
func latin1(data []byte) string {
	runes := make([]rune, len(data))
	for i, b := range data {
		runes[i] = rune(b)
	}
	return string(runes)
}
