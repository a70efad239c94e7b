package billing

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"github.com/stripe/stripe-go/v76"
)

// ErrNoCustomer says that the user has never had a Stripe Customer, or that
// Stripe no longer has it.
var ErrNoCustomer = errors.New("no Stripe customer")

// ErrCustomersUnavailable wraps every failure to read or write the record of
// customers: whether the user has a Customer could not be found out.
var ErrCustomersUnavailable = errors.New("customers unavailable")

// ErrUserUnknown says that a Customer could not be recorded, ErrCustomersUnavailable
// too, because the database does not know the user: deleted, perhaps.
var ErrUserUnknown = errors.New("the user is not in the database")

// ErrOtherMode says that a Customer, or what an Event is about, belongs to live
// mode while the key is for test mode, or the reverse.
var ErrOtherMode = errors.New("the Stripe key is for the other mode: test and live were mixed up")

// StripeError is a call that Stripe refused or that never got an answer.
type StripeError struct {
	// Public is Stripe's own message where the caller's request was at fault and
	// the message is fit for strangers, else "".
	Public    string
	RequestID string // req_…, "" when there was no answer
	// IdempotencyMismatch: the Idempotency-Key was used before with other parameters.
	IdempotencyMismatch bool

	code     stripe.ErrorCode
	param    string // the parameter that Stripe complains of, "" for none
	replayed string // req_… of the call whose failure was saved and answered again; "" for none
	cause    string // for the log; no key, no e-mail
	wrapped  error  // a connection's error when there was no answer, or ErrOtherMode
}

// Unwrap returns what went wrong on the way, or ErrOtherMode; else nil.
func (e *StripeError) Unwrap() error { return e.wrapped }

// otherMode is what Stripe says of an object that the key's mode does not have.
var otherMode = regexp.MustCompile(`a similar object exists in (?:live|test) mode`)

// Error returns the cause, for the log. It holds no key and no e-mail address.
func (e *StripeError) Error() string { return e.cause }

// sensitive matches what must be neither in an answer nor in a log: e-mail
// addresses, API keys and webhook secrets (also with their middle starred out,
// as Stripe quotes them), JSON Web Tokens, Bearer credentials, and the URLs of
// billing portal sessions, which are credentials themselves.
var sensitive = regexp.MustCompile(`(?i)[^\s@"'<>(]+(?:@|%40)[^\s@"'<>)]+` +
	`|\b(?:sk|rk|pk|whsec|sb_secret|sb_publishable)_[\w*.…-]+` +
	`|\beyJ[\w.-]{8,}` +
	`|\bBearer\s+\S+` +
	`|https?://billing\.stripe\.com/\S+`)

// Redact takes out of a text what no log may hold: e-mail addresses, keys,
// tokens and the URLs of billing portal sessions.
func Redact(text string) string { return sensitive.ReplaceAllString(text, "[redacted]") }

// stripeError classifies an error of stripe-go; nil stays nil.
// https://docs.stripe.com/api/errors
func stripeError(doing string, err error) error {
	if err == nil {
		return nil
	}
	var s *stripe.Error
	if !errors.As(err, &s) {
		// A connection that failed, a deadline, or an answer that was not JSON,
		// of which stripe-go quotes the beginning.
		return &StripeError{cause: fmt.Sprintf("%s: %.500s", doing, Redact(err.Error())), wrapped: err}
	}
	e := &StripeError{
		RequestID:           s.RequestID,
		IdempotencyMismatch: s.Type == stripe.ErrorTypeIdempotency && s.HTTPStatusCode == http.StatusBadRequest,
		code:                s.Code,
		param:               s.Param,
		cause: fmt.Sprintf("%s: stripe answered %d %s %s param=%q: %s", doing, s.HTTPStatusCode, s.Type, s.Code, s.Param,
			Redact(s.Msg)),
	}
	if s.Code == stripe.ErrorCodeResourceMissing && otherMode.MatchString(s.Msg) {
		e.wrapped = ErrOtherMode
	}
	if r := s.LastResponse; r != nil && s.HTTPStatusCode >= 500 && r.Header.Get("Idempotent-Replayed") == "true" {
		e.replayed = r.Header.Get("Original-Request")
	}
	if s.Type == stripe.ErrorTypeInvalidRequest && !sensitive.MatchString(s.Msg) {
		switch s.HTTPStatusCode {
		case http.StatusBadRequest, http.StatusPaymentRequired, http.StatusNotFound:
			e.Public = s.Msg
		}
	}
	return e
}

// incomplete is the error for an answer that is a success and lacks what every
// such answer of Stripe's has, as when something else has answered for Stripe.
func incomplete(doing string, r stripe.APIResource) error {
	return &StripeError{RequestID: requestID(r), cause: doing + ": the answer lacks what was asked for"}
}

// answered is the error of a call to Stripe: Stripe's own or, where a success has ""
// for what every such answer has, that it is incomplete.
func answered(doing string, err error, has string, r stripe.APIResource) error {
	if err == nil && has == "" {
		return incomplete(doing, r)
	}
	return stripeError(doing, err)
}

// missing returns the parameter that names an object which Stripe does not have, in
// the key's mode at least; "" for every other error.
func missing(err error) string {
	var e *StripeError
	if errors.As(err, &e) && e.code == stripe.ErrorCodeResourceMissing {
		return e.param
	}
	return ""
}

// gone tells whether Stripe does not have, or no longer has, what a call was about:
// deleted, or made with the key of another account. What it knows in the other mode is
// not gone.
func gone(err error) bool { return missing(err) != "" && !errors.Is(err, ErrOtherMode) }

// customerGone tells whether that is the Customer.
func customerGone(err error) bool { return missing(err) == "customer" && gone(err) }

// quantityRefused tells whether Stripe complained of the line item or of its
// quantity, but not of its price.
func quantityRefused(err error) bool {
	var e *StripeError
	return errors.As(err, &e) && (e.param == "line_items[0]" || e.param == "line_items[0][quantity]")
}

// unavailable says of an error of the Store what it means; nil stays nil.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrCustomersUnavailable, err)
}
