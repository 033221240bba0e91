package respwriter

import "net/http"

// HandBack copies to got, the request that middleware received, what a handler has added to given,
// the copy that the handler received: the forms, whose files the server removes, and the pattern,
// which outer middleware reports.
func HandBack(got, given *http.Request) {
	if got == given {
		return
	}
	got.Form, got.PostForm, got.MultipartForm = given.Form, given.PostForm, given.MultipartForm
	got.Pattern = given.Pattern
}
