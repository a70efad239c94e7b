package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

const maxBody = 64 << 10 // bytes

// body is a request's JSON object, whose fields are read one by one, in the
// order in which the contract checks them. Their names are matched to the
// letter, which encoding/json does not do for a struct.
type body map[string]json.RawMessage

func readBody(w http.ResponseWriter, r *http.Request) (body, error) {
	raw, err := readAll(w, r, maxBody, errBodyTooLarge)
	if err != nil {
		return nil, err
	}
	var b body
	if err := json.Unmarshal(raw, &b); err != nil || b == nil {
		return nil, badRequest("The request body must be one JSON object")
	}
	return b, nil
}

// readAll reads a request's body; tooLarge is the error for more than limit bytes.
func readAll(w http.ResponseWriter, r *http.Request, limit int64, tooLarge error) ([]byte, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge
	case err != nil: // cut off, or slower than the server waits
		return nil, errBodyUnread
	}
	return raw, nil
}

// text sets value to a field of the body; missing is the error where there is
// none, or null, or nothing in it.
func (b body) text(name string, value *string, missing error) error {
	if raw, ok := b[name]; ok {
		if err := json.Unmarshal(raw, value); err != nil { // null is no error
			return badRequest(name + " must be a string")
		}
	}
	if *value == "" {
		return missing
	}
	return nil
}
