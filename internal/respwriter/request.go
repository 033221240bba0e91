package respwriter

import "net/http"

// HandBack sets in the request that middleware got what a handler has added to the copy that
// it was given: the forms, whose files the server removes, and the pattern, which outer
// middleware reports.
func HandBack(got, given *http.Request) {
	if got == given {
		return
	}
	got.Form, got.PostForm, got.MultipartForm = given.Form, given.PostForm, given.MultipartForm
	got.Pattern = given.Pattern
}
