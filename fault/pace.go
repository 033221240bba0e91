package fault

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/pillion-go/pillion/policy"
)

// parts are how many parts a second's bytes come in, as in Envoy.
const parts = 20

// interval is the time between two parts.
const interval = time.Second / parts

// pace has the body of o's response arrive at no more than so many KiB a second. o is open and
// has hooks: its end matters.
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

// pacedBody is a body that arrives slowly. One goroutine reads it at a time.
type pacedBody struct {
	io.ReadCloser

	ctx    context.Context //nolint:containedctx // the call's, whose body it is
	stream *policy.Stream
	epoch  time.Time
	bucket bucket
	close  sync.Once
	closed chan struct{}
}

// Read reads what may arrive by now, and waits until that is something.
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

// why is err, or what net/http says of a closed body.
func (b *pacedBody) why(err error) error {
	select {
	case <-b.closed:
		return http.ErrBodyReadAfterClose
	default:
		return err
	}
}

// Close closes the body, and ends a Read that waits.
func (b *pacedBody) Close() error {
	b.close.Do(func() { close(b.closed) })
	return b.ReadCloser.Close()
}

// bucket is how much may arrive. It holds up to a second's bytes, and gets a part of them each
// interval. Mirrors Envoy's StreamRateLimiter. It depends on nothing but the instants that it is
// given.
type bucket struct {
	slice  int           // the bytes of a part
	left   int           // of the parts that were taken out
	tokens int           // parts that may arrive
	filled time.Duration // when tokens was brought up to date, a multiple of interval
}

func newBucket(kbps uint64) bucket {
	const most = 1 << 40 // KiB a second
	return bucket{slice: int(max(1, min(kbps, most)*1024/parts)), tokens: 1}
}

// take takes up to n bytes at the instant now. If there are none, it returns how long until there
// are.
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

// put puts bytes back that were not there to be read.
func (b *bucket) put(n int) { b.left += n }
