package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// intake bounds what some routes take in together. A body is read before its
// request has a slot: connections that send a header and no body would take all
// the slots there are.
type intake struct {
	limit      int64         // bytes
	tooLarge   error         // for more
	patience   time.Duration // for the whole body
	perNetwork int           // bodies that one client may leave unread at once
	all        int           // likewise, all clients together
	slots      chan struct{} // one for each request that may be worked on at once

	mu     sync.Mutex
	unread map[netip.Prefix]int
	total  int
}

// enter counts a body that is to be read; leave must follow. ok is false when
// there are too many.
func (in *intake) enter(client netip.Prefix) (leave func(), ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.total >= in.all || client.IsValid() && in.unread[client] >= in.perNetwork {
		return nil, false
	}
	if in.unread == nil {
		in.unread = map[netip.Prefix]int{}
	}
	in.total++
	in.unread[client]++
	return func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.total--
		if in.unread[client]--; in.unread[client] == 0 {
			delete(in.unread, client)
		}
	}, true
}

// slot takes a slot, which release gives back; ok is false when there is none.
// The probes have no such bound, or an orchestrator would kill a service for
// being busy.
func (in *intake) slot() (release func(), ok bool) {
	select {
	case in.slots <- struct{}{}:
		return func() { <-in.slots }, true
	default:
		return nil, false
	}
}

// read returns a request's body. client is who sends it, the zero Prefix when
// that is unknown.
func (in *intake) read(w http.ResponseWriter, r *http.Request, client netip.Prefix) ([]byte, error) {
	leave, ok := in.enter(client)
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
		if err := json.Unmarshal(raw, value); err != nil { // null is no error
			return badRequest(name + " must be a string")
		}
	}
	if *value == "" {
		return missing
	}
	return nil
}
