package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

const maxBody = 64 << 10 // bytes

// field is a field of the request's JSON object and where its text goes.
type field struct {
	name  string
	value *string
}

// decodeBody reads the request's JSON object and sets the strings of
// fields; a missing field and null leave the string empty. Names are matched to
// the letter and a wrong type is reported by name, neither of which
// encoding/json does for a struct.
func decodeBody(w http.ResponseWriter, r *http.Request, fields ...field) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return errBodyTooLarge
	case err != nil: // cut off, or slower than the server waits
		return errBodyUnread
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return badRequest("The request body must be one JSON object")
	}
	for _, f := range fields {
		raw, ok := object[f.name]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, f.value); err != nil { // null is no error and changes nothing
			return badRequest(f.name + " must be a string")
		}
	}
	return nil
}
