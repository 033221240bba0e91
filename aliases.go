package pillion

import "github.com/pillion-go/pillion/policy"

// Policy is one rule that the calls of an upstream are put under: see [policy.Policy].
type Policy = policy.Policy

// Listener is a [Policy] that is told what happens to calls: see [policy.Listener].
type Listener = policy.Listener

// AnyOrder is a [Policy] that allows an order of policies that New would refuse.
type AnyOrder = policy.AnyOrder

// TimeoutError says which limit on time ended a call or an attempt: see [policy.TimeoutError].
type TimeoutError = policy.TimeoutError

// UpstreamError says what the network or the upstream did to a call: see [policy.UpstreamError].
type UpstreamError = policy.UpstreamError

// StatusError stands for a response whose status counts against the upstream: see
// [policy.StatusError].
type StatusError = policy.StatusError

// PanicError stands for a panic of a handler: see [policy.PanicError].
type PanicError = policy.PanicError
