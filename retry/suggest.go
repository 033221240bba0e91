package retry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// parseStrict is like parse, but an unknown condition is an error.
func parseStrict(on string) (conditions, error) {
	c, unknown := parse(on)
	switch {
	case len(unknown) != 0:
		return c, unknownWords(unknown)
	case strings.TrimSpace(on) != "" && c == conditions{}:
		return c, fmt.Errorf("retry: Config.On: %q has no condition; leave it empty for the default conditions", on)
	}
	return c, nil
}

// unknownWords returns an error that suggests a correction and lists all conditions.
func unknownWords(unknown []string) error {
	var b strings.Builder
	b.WriteString("retry: Config.On: ")
	for _, word := range unknown {
		fmt.Fprintf(&b, "%q is no retry condition", word)
		if meant := suggest(word); meant != "" {
			b.WriteString(" (did you mean " + meant + "?)")
		}
		b.WriteString("; ")
	}
	b.WriteString("the conditions are " + strings.Join(legalWords(), ", ") + ", separated by commas")
	return errors.New(b.String())
}

// legalWords returns all conditions of a Config's On, first the two that Envoy does not have.
func legalWords() []string {
	return append([]string{defaultWord, idempotentWord}, slices.Sorted(maps.Keys(words))...)
}

// meanings maps likely mistakes to the conditions meant.
//
//nolint:gochecknoglobals // read-only table
var meanings = map[string]string{
	"timeout":            "reset, which covers the per-try timeout",
	"per-try-timeout":    "reset, which covers the per-try timeout",
	"4xx":                "retriable-4xx",
	"connection-failure": "connect-failure",
	"connection-refused": "connect-failure",
	"connect-error":      "connect-failure",
	"connection-error":   "connect-failure",
	"connection-reset":   "reset",
	"rate-limited":       "envoy-ratelimited",
	"ratelimited":        "envoy-ratelimited",
}

// suggest returns what an unknown word probably means, or "" if nothing is close.
func suggest(word string) string {
	plain := strings.NewReplacer("_", "-", " ", "-").Replace(strings.ToLower(word))
	if slices.Contains(legalWords(), plain) {
		return plain
	}
	if meant, ok := meanings[plain]; ok {
		return meant
	}
	if code, err := strconv.Atoi(plain); err == nil && isStatus(code) {
		return fmt.Sprintf("retriable-status-codes, with RetriableStatusCodes: []int{%d}", code)
	}
	if list := suggestList(word); list != "" {
		return list
	}
	return nearest(plain)
}

// suggestList returns a suggestion for a list with other separators than commas.
func suggestList(word string) string {
	list := strings.FieldsFunc(word, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_'
	})
	if len(list) < 2 {
		return ""
	}
	for i, element := range list {
		if slices.Contains(legalWords(), element) {
			continue
		}
		if list[i] = suggest(element); list[i] == "" {
			return ""
		}
	}
	return strings.Join(list, ",")
}

// nearest returns a condition that begins with plain, or differs in at most two letters.
func nearest(plain string) string {
	best, least := "", 3
	for _, word := range legalWords() {
		if len(plain) >= 4 && strings.HasPrefix(word, plain) {
			return word
		}
		if d := distance(plain, word); d < least && d < len(plain)/2 {
			best, least = word, d
		}
	}
	return best
}

// distance returns the number of letters to insert, delete or replace to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
