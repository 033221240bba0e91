package soak

import (
	"errors"
	"io"
	"strings"
	"sync"
	"time"
)

// upload is a request body that misbehaves in the middle. Its call's record counts it while it is
// open.
type upload struct {
	dice
	record  *record
	how     uploadKind
	left    int           // the bytes that are not read yet
	awkward int           // the value of left at which it misbehaves
	end     chan struct{} // closed at the end of the storm
	once    sync.Once
	closed  chan struct{}
}

type uploadKind int

const (
	uploadSteady uploadKind = iota
	uploadSlow
	uploadStalls   // until it is closed
	uploadStallsOn // until the end of the storm
	uploadFails
	uploadPanics
	uploadKinds
)

var errUpload = errors.New("soak: the upload failed")

// upload makes a body of size bytes.
func (r *round) upload(rec *record, d dice, size int) *upload {
	rec.use("request body")
	u := &upload{
		dice: newDice(d.Uint64()), record: rec, how: uploadKind(d.IntN(int(uploadKinds))),
		left: size, awkward: d.IntN(size + 1), end: make(chan struct{}), closed: make(chan struct{}),
	}
	r.leave(func() { close(u.end) })
	return u
}

// Read reads a part.
func (u *upload) Read(p []byte) (int, error) {
	if u.left <= u.awkward {
		u.awkward = -1
		if err := u.misbehave(); err != nil {
			return 0, err
		}
	}
	if u.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, strings.Repeat("x", min(u.left, 1+u.IntN(2000))))
	u.left -= n
	return n, nil
}

func (u *upload) misbehave() error {
	switch u.how {
	case uploadSlow:
		time.Sleep(u.upTo(50 * time.Millisecond))
	case uploadStalls:
		select {
		case <-u.closed:
			return io.ErrClosedPipe
		case <-u.end:
		}
	case uploadStallsOn:
		<-u.end
	case uploadFails:
		return errUpload
	case uploadPanics:
		panic("an upload")
	case uploadSteady, uploadKinds:
	}
	return nil
}

// Close may be called any number of times.
func (u *upload) Close() error {
	u.once.Do(func() {
		u.record.free("request body")
		close(u.closed)
	})
	return nil
}
