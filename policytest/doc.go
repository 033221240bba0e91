// Package policytest checks policies and adapters against the contract of package policy. It is for
// the tests of those who write them.
//
//	func TestContract(t *testing.T) {
//		policytest.Policy(t, func() policy.Policy { return mine.Config{Most: 3} })
//	}
//
// What the checks find is reported with t.Errorf. The engine itself does not lose track of a
// policy or an adapter that breaks the contract: see [policy.Attempt] for what panics.
package policytest
