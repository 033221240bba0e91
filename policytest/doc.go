// Package policytest checks policies and adapters against the contract of package policy. It is for
// the tests of custom policies and adapters.
//
//	func TestContract(t *testing.T) {
//		policytest.Policy(t, func() policy.Policy { return mine.Config{Most: 3} })
//	}
//
// The checks report with t.Errorf. The engine itself panics if an adapter breaks the contract in
// certain ways: see [policy.Attempt].
package policytest
