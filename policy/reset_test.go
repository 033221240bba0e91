package policy

import (
	"context"
	"reflect"
	"testing"
	"unsafe"
)

// TestCall_reset fills all fields of a Call: what reset leaves would reach the next call.
func TestCall_reset(t *testing.T) {
	c := &Call{}
	fill(t, reflect.ValueOf(c).Elem())
	c.reset()
	want := &Call{frame: c.frame, self: c.self, from: c.from, spare: c.spare}
	want.number(1)
	want.hooks.first = c.hooks.first // count hides them
	fields, wanted := reflect.ValueOf(c).Elem(), reflect.ValueOf(want).Elem()
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Name
		if name == "watching" {
			continue // it belongs to the sweep
		}
		if got, want := open(fields.Field(i)), open(wanted.Field(i)); !same(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// same is reflect.DeepEqual that compares the functions of hooks by their identity.
func same(got, want any) bool {
	if h, ok := got.(hooks); ok {
		w := want.(hooks) //nolint:forcetypeassert // the same field
		return h.count == w.count && h.more == w.more
	}
	return reflect.DeepEqual(got, want)
}

// open returns the value of a field, exported or not.
func open(v reflect.Value) any {
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem().Interface()
}

// fill sets all fields of a struct to values that are not zero.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	v = reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(t, field)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.String:
		v.SetString("seven")
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.UnsafePointer:
		v.SetPointer(unsafe.Pointer(new(int)))
	case reflect.Func:
		v.Set(reflect.MakeFunc(v.Type(), func([]reflect.Value) []reflect.Value { return nil }))
	case reflect.Interface:
		switch {
		case v.Type() == reflect.TypeFor[error]():
			v.Set(reflect.ValueOf(context.Canceled))
		case v.NumMethod() == 0:
			v.Set(reflect.ValueOf(7))
		default:
			t.Fatalf("no value of %v", v.Type())
		}
	default:
		t.Fatalf("no value of %v", v.Type())
	}
}
