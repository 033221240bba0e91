package fault

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/pillion-go/pillion/policy"
)

// parts is the number of parts of a body that arrive in a second, as in Envoy.
const parts = 20

// interval is the time between two parts.
const interval = time.Second / parts

// pace limits the body of o's response to kbps KiB per second. It does nothing if there is no body to
// limit.
func pace(ctx context.Context, o *policy.Outcome, kbps uint64) {
	resp, ok := o.Value.(*http.Response)
	a := o.Pending()
	if !ok || a == nil || a.Upgraded() || resp.Body == http.NoBody {
		return
	}
	resp.Body = &pacedBody{
		ReadCloser: resp.Body, ctx: ctx, stream: a.Stream(), closed: make(chan struct{}), epoch: time.Now(), bucket: newBucket(kbps),
	}
}

// pacedBody is a body whose rate is limited. One goroutine reads it at a time.
type pacedBody struct {
	io.ReadCloser

	ctx    context.Context //nolint:containedctx // of the call
	stream *policy.Stream
	epoch  time.Time
	bucket bucket
	close  sync.Once
	closed chan struct{}
}

// Read reads at most what may have arrived, and waits until that is at least one byte.
func (b *pacedBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return b.ReadCloser.Read(p)
	}
	n, wait := b.bucket.take(time.Since(b.epoch), len(p))
	for n == 0 {
		if err := b.stream.Pause(b.ctx, wait, b.closed); err != nil {
			return 0, b.why(err)
		}
		n, wait = b.bucket.take(time.Since(b.epoch), len(p))
	}
	read, err := b.ReadCloser.Read(p[:n])
	b.bucket.put(n - max(0, read))
	return read, err
}

// why returns err, or net/http's error if the body was closed.
func (b *pacedBody) why(err error) error {
	select {
	case <-b.closed:
		return http.ErrBodyReadAfterClose
	default:
		return err
	}
}

// Close closes the body. A Read that waits returns an error.
func (b *pacedBody) Close() error {
	b.close.Do(func() { close(b.closed) })
	return b.ReadCloser.Close()
}

// bucket determines how many bytes may arrive. It holds up to the bytes of one second; each interval
// adds one part. All instants are arguments. Mirrors Envoy's StreamRateLimiter.
type bucket struct {
	slice  int           // the number of bytes of a part
	left   int           // the rest of the current part, in bytes
	tokens int           // the number of further parts
	filled time.Duration // the instant of the last addition to tokens, a multiple of interval
}

func newBucket(kbps uint64) bucket {
	const most = 1 << 40 // KiB per second
	return bucket{slice: int(max(1, min(kbps, most)*1024/parts)), tokens: 1}
}

// take takes up to n bytes at the instant now. If there are none, it returns the time until there
// are some.
func (b *bucket) take(now time.Duration, n int) (taken int, wait time.Duration) {
	if due := int64((now - b.filled) / interval); due > 0 {
		b.filled += time.Duration(due) * interval
		b.tokens = int(min(int64(b.tokens)+due, parts))
	}
	if b.left == 0 && b.tokens > 0 {
		b.tokens--
		b.left = b.slice
	}
	if b.left == 0 {
		return 0, b.filled + interval - now
	}
	taken = min(n, b.left)
	b.left -= taken
	return taken, 0
}

// put puts back n bytes that Read did not read.
func (b *bucket) put(n int) { b.left += n }
