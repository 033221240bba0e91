package pillion

import "github.com/pillion-go/pillion/policy"

// Policy is a rule for the calls of an upstream: see [policy.Policy].
type Policy = policy.Policy

// Listener is a [Policy] that receives the events of calls: see [policy.Listener].
type Listener = policy.Listener

// AnyOrder is a [Policy] that only allows an order of policies that New would refuse.
type AnyOrder = policy.AnyOrder

// TimeoutError reports which limit on time ended a call or an attempt: see [policy.TimeoutError].
type TimeoutError = policy.TimeoutError

// UpstreamError describes a failure of the network or the upstream: see [policy.UpstreamError].
type UpstreamError = policy.UpstreamError

// StatusError is the error that stands for a response whose status counts against the upstream:
// see [policy.StatusError].
type StatusError = policy.StatusError

// PanicError is the error that stands for a panic of a handler: see [policy.PanicError].
type PanicError = policy.PanicError
