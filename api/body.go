package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

// intake bounds what some routes take in together. A body is read before its
// request has room: connections that send a header and no body would take all
// the room there is. The probes have no such bounds, or an orchestrator would kill a
// service for being busy.
type intake struct {
	least    int64               // bytes that a request counts as, however short its body
	limit    int64               // bytes of a body
	tooLarge error               // for more
	patience time.Duration       // for the whole body
	unread   Shares              // of bodies that have not arrived yet
	room     *semaphore.Weighted // bytes, for requests that are worked on
}

// read returns a request's body.
func (in *intake) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	leave, ok := in.unread.Take(entryOf(r.Context()).client())
	if !ok {
		return nil, errOverloaded
	}
	defer leave()
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Now().Add(in.patience)) // a test's recorder has none
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, in.limit))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, in.tooLarge
	case err != nil: // cut off, or slower than the server waits
		return nil, errBodyUnread
	}
	_ = connection.SetReadDeadline(time.Time{}) // from here on it would end the request
	return raw, nil
}

// body is a request's JSON object, whose fields are read one by one, in the
// order in which the contract checks them. Their names are matched to the
// letter, which encoding/json does not do for a struct.
type body map[string]json.RawMessage

func parseBody(raw []byte) (body, error) {
	var b body
	if err := json.Unmarshal(raw, &b); err != nil || b == nil {
		return nil, badRequest("The request body must be one JSON object")
	}
	return b, nil
}

// whole sets value to a field of the body, a whole number from 1 to most, and
// leaves it alone where there is none, or null.
func (b body) whole(name string, value *int64, most int64) error {
	var number *float64
	err := json.Unmarshal([]byte(cmp.Or(string(b[name]), "null")), &number)
	switch {
	case err != nil, number != nil && (*number != math.Trunc(*number) || *number < 1 || *number > float64(most)):
		return badRequest(fmt.Sprintf("%s must be a whole number from 1 to %d", name, most))
	case number != nil:
		*value = int64(*number)
	}
	return nil
}

// text sets value to a field of the body; missing is the error where there is
// none, or null, or nothing in it.
func (b body) text(name string, value *string, missing error) error {
	if raw, ok := b[name]; ok {
		if err := json.Unmarshal(raw, value); err != nil { // null is not an error
			return badRequest(name + " must be a string")
		}
	}
	if *value == "" {
		return missing
	}
	return nil
}
