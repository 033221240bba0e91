// Package page prints what the examples report, in lines that fit a terminal of 80
// columns.
package page

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Width is the number of columns that a line may use.
const Width = 80

// Row is one line of a table.
type Row []string

// Table writes rows as columns: the first is aligned left, the others right. A row
// may be shorter than the others; an empty one is an empty line.
func Table(w io.Writer, rows []Row) error {
	widths := columnWidths(rows)
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(row.line(widths) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func columnWidths(rows []Row) []int {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

func (r Row) line(widths []int) string {
	var b strings.Builder
	for i, cell := range r {
		space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if i == 0 {
			b.WriteString(cell + space)
			continue
		}
		b.WriteString("  " + space + cell)
	}
	return strings.TrimRight(b.String(), " ")
}

// Percent returns n as a percentage of a number of things, or "-" if there is none of them.
func Percent(n, of int) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(of))
}

// Untidy returns the lines of a text that are wider than [Width], end in spaces or
// contain control characters. The examples' tests use it.
func Untidy(text string) []string {
	var bad []string
	for line := range strings.SplitSeq(text, "\n") {
		if utf8.RuneCountInString(line) > Width || strings.HasSuffix(line, " ") || strings.ContainsFunc(line, isControl) {
			bad = append(bad, line)
		}
	}
	return bad
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
