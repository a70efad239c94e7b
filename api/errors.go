package api

import (
	"errors"
	"net/http"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
)

// answer is what the API says when a request fails: a status and a text for
// strangers. The private cause stays in the error that wraps it, for the log.
type answer struct {
	status     int
	text       string
	retryAfter int // seconds, 0 for none
}

func (a *answer) Error() string { return a.text }

func badRequest(text string) *answer {
	return &answer{status: http.StatusBadRequest, text: text}
}

// The texts that are part of the contract, and those next to them.
var (
	errPriceMissing    = badRequest("Price ID is required")
	errURLsMissing     = badRequest("Success and cancel URLs are required")
	errMode            = badRequest("Mode is required (either 'payment' for one-time payments or 'subscription' for recurring subscription)")
	errReturnMissing   = badRequest("Return URL is required")
	errPriceNotForSale = badRequest("This price is not for sale")
	errNoCustomer      = badRequest("You don't have a billing account yet. Make a purchase first.")
	errFlow            = badRequest("flow must be payment_method_update, subscription_cancel or subscription_update")
	errNotSubscribed   = badRequest("You don't have a subscription.")
	errNotTheirs       = badRequest("You don't have this subscription.")
	errWhichOne        = badRequest("subscription is required: you have more than one")

	errBodyUnread = badRequest("The request body could not be read")
	errSignature  = badRequest("The webhook signature is not valid")

	errNotSignedIn  = &answer{status: http.StatusUnauthorized, text: "Not signed in"}
	errCrossOrigin  = &answer{status: http.StatusForbidden, text: "Requests from this site are not allowed"}
	errNotFound     = &answer{status: http.StatusNotFound, text: "Not found"}
	errMethod       = &answer{status: http.StatusMethodNotAllowed, text: "Method not allowed"}
	errBodyTooLarge = &answer{status: http.StatusRequestEntityTooLarge, text: "The request body is larger than 64 KiB"}

	errCookies = &answer{status: http.StatusRequestHeaderFieldsTooLarge, text: "The cookies are larger than 64 KiB"}

	errEventTooLarge  = &answer{status: http.StatusRequestEntityTooLarge, text: "The event is larger than 1 MiB"}
	errEventNotStored = &answer{status: http.StatusInternalServerError, text: "The event could not be stored. Please send it again."}

	errRateLimited = &answer{status: http.StatusTooManyRequests, text: "Too many requests. Please try again later."}

	errInternal = &answer{status: http.StatusInternalServerError, text: "Something went wrong. Please try again."}
	errStripe   = &answer{status: http.StatusInternalServerError, text: "The payment provider could not complete the request. Please try again."}
	errSetUp    = &answer{status: http.StatusInternalServerError, text: "Billing is not set up correctly. Please contact the site."}
	errReused   = &answer{status: http.StatusInternalServerError, text: "This Idempotency-Key was used before with another request. Use a new one."}

	errSignInUnchecked  = &answer{status: http.StatusServiceUnavailable, text: "Sign-in could not be checked. Please try again.", retryAfter: 5}
	errBillingUnchecked = &answer{status: http.StatusServiceUnavailable, text: "Your billing account could not be checked. Please try again.", retryAfter: 5}
	errOverloaded       = &answer{status: http.StatusServiceUnavailable, text: "Too many requests at once. Please try again.", retryAfter: 1}
	errStopping         = &answer{status: http.StatusServiceUnavailable, text: "Stopping", retryAfter: 1}
)

// sentinels is the one table from the errors of the packages below to answers.
var sentinels = []struct {
	err    error
	answer *answer
}{
	{auth.ErrUnavailable, errSignInUnchecked},
	{auth.ErrSignedOut, errNotSignedIn},
	{auth.ErrInsufficient, errNotSignedIn},
	{auth.ErrCookiesTooLarge, errCookies},
	{billing.ErrNoCustomer, errNoCustomer},
	{billing.ErrNotSubscribed, errNotSubscribed},
	{billing.ErrNotTheirs, errNotTheirs},
	{billing.ErrSeveral, errWhichOne},
	{billing.ErrSignature, errSignature},
	{billing.ErrOtherMode, errSetUp},
	{billing.ErrCustomersUnavailable, errBillingUnchecked},
}

// answerTo says what the caller is told about err.
func answerTo(err error) *answer {
	var a *answer
	if errors.As(err, &a) {
		return a
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return s.answer
		}
	}
	var s *billing.StripeError
	switch {
	case errors.As(err, &s) && s.IdempotencyMismatch:
		return errReused
	case errors.As(err, &s) && s.Public != "":
		return &answer{status: http.StatusInternalServerError, text: s.Public}
	case errors.As(err, &s):
		return errStripe
	}
	return errInternal
}
