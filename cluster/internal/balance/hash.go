package balance

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// Hash returns the hash of a part of a request, such as a header. It mirrors Envoy's
// HashUtil::xxHash64.
func Hash(value string) uint64 { return xxhash.Sum64String(value) }

// CombineHashes adds the hash of one more hash policy to the hash of the previous ones, as
// in Envoy.
func CombineHashes(before, next uint64) uint64 { return bits.RotateLeft64(before, 1) ^ next }

// lower returns the lower half of a number.
func lower(n uint64) uint32 { return uint32(n & math.MaxUint32) }

// below maps the lower half of a random number to a number from 0 to n-1.
func below(random uint64, n int) int {
	return int(uint64(lower(random)) * uint64(n) >> 32) //nolint:gosec // n is the length of a list
}

// xxHash64 returns the hash of text with a seed.
func xxHash64(text string, seed uint64) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(seed)
	_, _ = d.WriteString(text) // never fails
	return d.Sum64()
}

// murmurHash2 returns what std::hash<string> of GNU's libstdc++ returns on 64 bits.
func murmurHash2(text []byte) uint64 {
	const (
		mul  = 0xc6a4a7935bd1e995
		seed = 0xc70f6907
	)
	mix := func(v uint64) uint64 { return v ^ v>>47 }
	hash := seed ^ uint64(len(text))*mul
	for ; len(text) >= 8; text = text[8:] {
		hash ^= mix(binary.LittleEndian.Uint64(text)*mul) * mul
		hash *= mul
	}
	if len(text) > 0 {
		var tail [8]byte
		copy(tail[:], text)
		hash ^= binary.LittleEndian.Uint64(tail[:])
		hash *= mul
	}
	return mix(mix(hash) * mul)
}
