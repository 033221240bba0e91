package balance

import "testing"

// TestMurmurHash2 pins what std::hash<std::string> of GNU's libstdc++ returns.
func TestMurmurHash2(t *testing.T) {
	for text, want := range map[string]uint64{
		"": 6142509188972423790, "a": 4993892634952068459, "hello": 2762169579135187400, "12345678": 10113836418918046885,
		"127.0.0.1:80_0": 17613279263364193813, "a longer text of more than sixteen bytes": 3389785649085319133,
	} {
		if got := murmurHash2([]byte(text)); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

// TestXXHash64 pins values of the reference implementation.
func TestXXHash64(t *testing.T) {
	if got := Hash(""); got != 0xef46db3751d8e999 {
		t.Errorf("empty text: got %x, want ef46db3751d8e999", got)
	}
	if got := Hash("abc"); got != 0x44bc2cf5ad770999 {
		t.Errorf("abc: got %x, want 44bc2cf5ad770999", got)
	}
	if xxHash64("abc", 0) != Hash("abc") || xxHash64("abc", 1) == Hash("abc") {
		t.Error("the seed is not honored")
	}
}

func TestCombineHashes(t *testing.T) {
	if got := CombineHashes(0, 7); got != 7 {
		t.Errorf("no hash before: got %d, want 7", got)
	}
	if got := CombineHashes(1<<63|1, 4); got != 3^4 {
		t.Errorf("got %d, want %d", got, 3^4)
	}
}

// TestMersenne pins what std::mt19937 returns: first, second and 10,000th word.
func TestMersenne(t *testing.T) {
	for seed, want := range map[uint32][3]uint32{
		0: {2357136044, 2546248239, 1543171712}, 1: {1791095845, 4282876139, 1237896635},
		5489: {3499211612, 581869302, 4123659995}, 4294967295: {419326371, 479346978, 1117955853},
	} {
		var m mersenne
		m.seed(seed)
		got := [3]uint32{m.word(), m.word()}
		for range 9998 {
			got[2] = m.word()
		}
		if got != want {
			t.Errorf("seed %d: got %v, want %v", seed, got, want)
		}
	}
}
