package respwriter

import (
	"io"
	"io/fs"
)

// sniffed is the number of bytes that net/http copies before it passes a file to the kernel.
const sniffed = 512

// ReadFrom writes the rest of src. As in net/http, the response begins with the first byte
// of src.
func (r readerFrom) ReadFrom(src io.Reader) (n int64, err error) {
	if !isFile(src) {
		return r.v.writer().copyFrom(src)
	}
	if !r.v.begun {
		n, err = io.Copy(onlyWriter{r.v}, io.LimitReader(src, sniffed))
		if err != nil || n < sniffed {
			return n, err
		}
	}
	m, err := r.v.writer().sendFrom(src)
	return n + m, err
}

// onlyWriter hides ReadFrom from io.Copy.
type onlyWriter struct{ io.Writer }

// isFile reports whether src is a regular file, or the rest of one: the kernel can send it,
// and reading it does not wait.
func isFile(src io.Reader) bool {
	if limited, ok := src.(*io.LimitedReader); ok {
		src = limited.R
	}
	file, ok := src.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular()
}

// sendFrom passes a file unchanged to the wrapped writer.
func (w *Writer) sendFrom(file io.Reader) (n int64, err error) {
	w.watcher.Enter()
	defer func() { w.watcher.Leave(n, err) }()
	return w.wrapped.(io.ReaderFrom).ReadFrom(file) //nolint:forcetypeassert // abilities has checked it
}

// copyFrom passes src to the wrapped writer. The time that src takes does not count as a wait for
// the client, and an error of src does not count as an error of the client.
func (w *Writer) copyFrom(src io.Reader) (n int64, err error) {
	s := &source{src: src, w: w}
	w.watcher.Enter()
	defer func() {
		if s.err != nil {
			w.watcher.Leave(n, nil)
			return
		}
		w.watcher.Leave(n, err)
	}()
	return w.wrapped.(io.ReaderFrom).ReadFrom(s) //nolint:forcetypeassert // abilities has checked it
}

// source is a reader whose bytes become a response.
type source struct {
	src io.Reader
	w   *Writer
	err error // of src
}

// Read reads from src. The response begins with the first byte.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.read(p)
	if n > 0 {
		s.w.Begin(200)
	}
	if err != nil && err != io.EOF { //nolint:errorlint // as io.Copy compares
		s.err = err
	}
	return n, err
}

func (s *source) read(p []byte) (int, error) {
	s.w.watcher.Leave(0, nil)
	defer s.w.watcher.Enter()
	return s.src.Read(p)
}
