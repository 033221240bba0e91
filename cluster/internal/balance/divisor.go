package balance

import "math/bits"

// divisor is a number by which a pick divides. A division takes about as long as the rest of a pick;
// a multiplication by the inverse does not.
type divisor struct{ n, inverse uint64 }

// newDivisor returns the divisor n, or that of no remainder if n is 0.
func newDivisor(n uint64) divisor {
	if n == 0 {
		return divisor{}
	}
	return divisor{n, ^uint64(0) / n}
}

// rest returns x % n. The product is short of the quotient by one at most.
func (d divisor) rest(x uint64) uint64 {
	quotient, _ := bits.Mul64(x, d.inverse)
	if x -= quotient * d.n; x >= d.n {
		x -= d.n
	}
	return x
}
