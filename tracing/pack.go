package tracing

import (
	"unicode/utf8"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// packetHeader is the header that the daemon requires before a document, as the gem and the
// SDK write it.
const packetHeader = `{"format": "json", "version": 1}` + "\n"

// maxPacket is the size of the largest packet that UDP carries over IPv4. X-Ray accepts
// documents up to 64 KiB, which is slightly more.
const maxPacket = 65507

// The parts that are removed from a document that is too large on its own.
const (
	levelWhole = iota // nothing
	levelLong         // values and strings over 4 KiB, frames over 50
	levelShort        // values and strings over 250 bytes, frames over 10
	levelBare         // annotations, metadata, causes, queries and AWS data
)

// limit returns the maximum length of a string or a value at the writer's level.
func (w *writer) limit() int {
	switch w.level {
	case levelWhole:
		return maxPacket * 1024
	case levelLong:
		return 4 << 10
	default:
		return maxShort
	}
}

// mostFrames returns the maximum number of stack frames at the writer's level.
func (w *writer) mostFrames(most int) int {
	switch w.level {
	case levelWhole:
	case levelLong:
		most = min(most, 50)
	default:
		most = min(most, maxStatusFrames)
	}
	return most
}

// short cuts a string that is too long for the level.
func (w *writer) short(s string) string {
	limit := w.limit()
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + cutMark
}

// cutMark replaces what was cut.
const cutMark = "…(cut)"

// shorten replaces a value that is too long for the level.
func (w *writer) shorten(value any) any {
	switch v := value.(type) {
	case string:
		return w.short(v)
	case frozen:
		if len(v) > w.limit() {
			return cutMark
		}
	case tooLong:
		w.incomplete = true
	}
	return value
}

// markName is the namespace of the metadata that marks a document from which values were
// removed.
const markName = "pillion"

// pack writes x as packets of one document each, and passes them to send. If the whole tree
// fits into one packet, there is one. Otherwise the embedded subsegments are sent
// separately, with x as parent, and documents that are still too large are cut and marked.
// pack returns the number of packets beyond the first, and the number of documents that
// were cut. The caller holds no lock. A packet is valid only until send returns.
func (w *writer) pack(x *xray.Segment, send func([]byte)) (split, cuts int) {
	x.Lock()
	defer x.Unlock()
	return w.packTree(x, x.ParentID, send)
}

func (w *writer) packTree(x *xray.Segment, parent string, send func([]byte)) (split, cuts int) {
	kids := children(x)
	if w.fits(x, parent, kids, levelWhole) {
		send(w.b)
		return 0, 0
	}
	for _, kid := range kids {
		kid.Lock()
		more, lost := w.packTree(kid, x.ID, send)
		kid.Unlock()
		split += more + 1
		cuts += lost
	}
	for level := levelWhole; level <= levelBare; level++ {
		if w.fits(x, parent, nil, level) {
			break
		}
	}
	if w.level > levelWhole {
		cuts++
	}
	send(w.b)
	return split, cuts
}

// fits writes the packet at a level, and reports whether it is small enough.
func (w *writer) fits(x *xray.Segment, parent string, kids []*xray.Segment, level int) bool {
	w.level, w.incomplete = level, false
	w.b = append(w.b[:0], packetHeader...)
	w.document(x, parent, false, kids)
	w.b = append(w.b, '\n')
	return len(w.b) <= maxPacket && (level > levelWhole || !w.incomplete)
}
