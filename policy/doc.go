// Package policy contains what policies and adapters are made of: the engine that takes a call
// through the policies of an upstream. Programs that only configure policies need package pillion
// alone.
//
// It knows no protocol. Imports point one way: pillion and the adapters import the policies, the
// policies import this package, and this package imports envoy.
//
// # Writing a policy
//
// A policy wraps a [Func], the rest of the chain. Wrap runs once for each upstream. The state of
// each call is in the [Call]:
//
//	type Stopwatch struct{ Report func(upstream string, d time.Duration) }
//
//	func (w Stopwatch) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
//		began, epoch := b.Slot(), time.Now()
//		stop := func(c *policy.Call, _ *policy.Outcome) {
//			w.Report(c.Upstream(), time.Since(epoch)-time.Duration(c.State(began).N))
//		}
//		return func(ctx context.Context, c *policy.Call) *policy.Outcome {
//			c.State(began).N = int64(time.Since(epoch))
//			o := next(ctx, c)
//			o.OnEnd(c, stop)
//			return o
//		}, nil
//	}
//
// Wrap makes the slot and the hook once, so that a call costs no allocation. A policy outside retry
// sees calls, a policy inside it sees attempts. [Outcome.OnEnd] calls the hook when the response's
// body has ended. The hook should test Outcome.Conditions in this order: [Refused], [Cancelled],
// [Timeout], [Failure]; anything else is a success. [Discarded] marks a response that was discarded
// in favor of another attempt. If next panics, no hook is registered, so what must be released
// needs a defer as well.
//
// These names are for policies: [Policy] and what describes its place, [Builder], [Func], [Call],
// [Slot], [State], [Outcome], [Hook], [Condition], [Event], [Listener], [BackOff], [Scope] and the
// error types. Package pillion has aliases of those that programs need.
//
// # Writing an adapter
//
// An adapter takes the calls of a protocol through a [Chain]. It implements [Exchange], embeds a
// [Frame] in its storage of a call, and reports what happens to an attempt with the methods of
// [Attempt] and, once the caller has the response, of [Stream].
//
// These names are for adapters: [Chain], [Frame], [Attempt], [Stream], [Exchange] and the
// interfaces beside it, [Request], [Header], [Protocol], [Observer] and [Report]. They may still
// change: the adapters of this module are the only known ones.
package policy
