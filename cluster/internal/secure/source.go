package secure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

// largest is the maximum size of a file.
const largest = 16 << 20

// read returns the text of s.
func (s Source) read() ([]byte, error) {
	if s.File == "" {
		return []byte(s.Inline), nil
	}
	f, err := os.Open(s.File)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading only
	text, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err == nil && len(text) > largest {
		err = fmt.Errorf("%s has more than %d bytes", s.File, largest)
	}
	return text, err
}

// String returns the name of s in errors.
func (s Source) String() string {
	if s.File == "" {
		return "inline text"
	}
	return s.File
}

// blocks returns the PEM blocks in text. Unlike package pem it does not skip malformed blocks: a
// file that is only partly written must not become a shorter list.
func blocks(text []byte) ([]*pem.Block, error) {
	var all []*pem.Block
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		all = append(all, b)
	}
	if n := bytes.Count(text, []byte("-----BEGIN ")); n != len(all) {
		return nil, fmt.Errorf("%d of %d PEM blocks are malformed", n-len(all), n)
	}
	if len(all) == 0 {
		return nil, errors.New("contains no PEM block")
	}
	return all, nil
}

// sum is a hash of the texts of sources.
type sum [sha256.Size]byte

func sumOf(texts [][]byte) sum {
	h := sha256.New()
	for _, t := range texts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(t))))
		h.Write(t)
	}
	return sum(h.Sum(nil))
}
