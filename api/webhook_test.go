package api_test

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/upstream"
)

const notOurs = `{"id":"evt_1","object":"event","type":"price.created","api_version":"2020-08-27","data":{"object":{"id":"price_1"}}}`

// TestWebhookSignature: only what Stripe signed, now, with a secret of ours.
func TestWebhookSignature(t *testing.T) {
	t.Parallel()
	const second = "whsec_the_next_one"
	w := start(t, func(s *settings) {
		s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec), upstream.NewSecret(second)}
	})
	now := time.Now()
	sign := func(payload, secret string, at time.Time) string {
		return hex.EncodeToString(webhook.ComputeSignature(at, []byte(payload), secret))
	}
	header := func(at time.Time, signatures ...string) string {
		h := fmt.Sprintf("t=%d", at.Unix())
		for _, s := range signatures {
			h += ",v1=" + s
		}
		return h
	}
	good := sign(notOurs, whsec, now)
	tests := []struct {
		name, signature string
		status          int
	}{
		{"first secret", header(now, good), 200},
		{"second secret", header(now, sign(notOurs, second, now)), 200},
		{"both, while rolled", header(now, sign(notOurs, "whsec_other", now), good), 200},
		{"4 minutes old", header(now.Add(-4*time.Minute), sign(notOurs, whsec, now.Add(-4*time.Minute))), 200},
		{"4 minutes ahead", header(now.Add(4*time.Minute), sign(notOurs, whsec, now.Add(4*time.Minute))), 200},
		{"none", "", 400},
		{"garbage", "garbage", 400},
		{"only a time", header(now), 400},
		{"empty", header(now, ""), 400},
		{"not hex", header(now, "zz"), 400},
		{"other secret", header(now, sign(notOurs, "whsec_other", now)), 400},
		{"empty secret", header(now, sign(notOurs, "", now)), 400},
		{"of another body", header(now, sign(notOurs+" ", whsec, now)), 400},
		{"of another time", header(now.Add(time.Second), good), 400},
		{"scheme v0", strings.ReplaceAll(header(now, good), "v1", "v0"), 400},
		{"no time", "v1=" + good, 400},
		{"6 minutes old", header(now.Add(-6*time.Minute), sign(notOurs, whsec, now.Add(-6*time.Minute))), 400},
		{"6 minutes ahead", header(now.Add(6*time.Minute), sign(notOurs, whsec, now.Add(6*time.Minute))), 400},
		{"old, with a second time in front", fmt.Sprintf("t=%d,", now.Unix()) + header(now.Add(-6*time.Minute), sign(notOurs, whsec, now.Add(-6*time.Minute))), 400},
		{"old, with a second time behind", header(now.Add(-6*time.Minute), sign(notOurs, whsec, now.Add(-6*time.Minute))) + fmt.Sprintf(",t=%d", now.Unix()), 400},
		{"year 292277026596", "t=9223372036854775807,v1=" + good, 400},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := w.do("POST", "/api/stripe/webhook", notOurs, "Stripe-Signature", test.signature)
			want := map[int]string{200: "", 400: "The webhook signature is not valid"}[test.status]
			if got.status != test.status || got.field("error") != want {
				t.Errorf("webhook = %d %s; want %d %q", got.status, got.body, test.status, want)
			}
		})
	}
	if stripe, supabase := w.stripe.Calls(), w.supabase.Calls(); len(stripe)+len(supabase) != 0 {
		t.Errorf("calls = %v, %v; want none for an Event that is not ours", stripe, supabase)
	}
}

// TestWebhookOff: without a secret there is no route, rather than an open one.
func TestWebhookOff(t *testing.T) {
	t.Parallel()
	w := start(t)
	for _, secret := range []string{"", whsec} {
		if got := w.deliver(notOurs, secret, time.Now()); got.status != 404 {
			t.Errorf("webhook without STRIPE_WEBHOOK_SECRET = %d %s; want 404", got.status, got.body)
		}
	}
}

// TestWebhookBodies: what was signed and is no use is not taken for done.
func TestWebhookBodies(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) { s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)} })
	tests := []struct {
		name, payload string
		status        int
	}{
		{"not JSON", `<html>`, 400},
		{"empty", ``, 400},
		{"array", `[]`, 400},
		{"no type", `{}`, 200},
		{"another account's", `{"id":"evt_1","type":"customer.subscription.updated","account":"acct_1","data":{"object":{"id":"sub_1"}}}`, 200},
		{"no object", `{"id":"evt_1","type":"customer.subscription.updated"}`, 500},
		{"an object without id", `{"id":"evt_1","type":"invoice.paid","data":{"object":{}}}`, 500},
		{"an object of another shape", `{"id":"evt_1","type":"checkout.session.completed","data":{"object":[1]}}`, 500},
		{"unknown to Stripe", `{"id":"evt_1","type":"checkout.session.completed","data":{"object":{"id":"cs_gone"}}}`, 200},
		{"of the other mode", `{"id":"evt_1","type":"checkout.session.completed","livemode":true,"data":{"object":{"id":"cs_1"}}}`, 200},
		{"a charge without payment intent", `{"id":"evt_1","type":"charge.refunded","data":{"object":{"id":"ch_1","payment_intent":null}}}`, 200},
		{"too large", strings.Repeat(" ", 1<<20) + notOurs, 413},
		{"as large as can be", notOurs + strings.Repeat(" ", 1<<20-len(notOurs)), 200},
	}
	for _, test := range tests {
		if got := w.deliver(test.payload, whsec, time.Now()); got.status != test.status {
			t.Errorf("%s: webhook = %d %s; want %d", test.name, got.status, got.body, test.status)
		}
	}
	warnings := 0
	for _, line := range w.logs.lines(t) {
		if line["level"] == "WARN" && line["status"] == 200. && line["err"] != nil {
			warnings++
		}
		if line["path"] == "/api/stripe/webhook" && line["status"] == 500. && (line["event_id"] != "evt_1" || line["event_type"] == nil || line["err"] == nil) {
			t.Errorf("log line = %v; want event_id, event_type and err", line)
		}
	}
	if warnings != 2 {
		t.Errorf("warnings for what Stripe does not have and for the other mode = %d; want 2\n%s", warnings, w.logs)
	}
}

// TestEveryEvent: each type has its meaning, which is to fetch what it is about.
func TestEveryEvent(t *testing.T) {
	t.Parallel()
	const (
		session, subscription   = "GET /v1/checkout/sessions/cs_1", "GET /v1/subscriptions/sub_1"
		invoice, customer       = "GET /v1/invoices/in_1", "GET /v1/customers/cus_1"
		payment                 = "GET /v1/checkout/sessions"
		aboutSession, aboutSub  = `{"id":"cs_1"}`, `{"id":"sub_1"}`
		aboutInvoice, aboutCus  = `{"id":"in_1"}`, `{"id":"cus_1"}`
		aboutCharge, aboutOther = `{"id":"ch_1","payment_intent":"pi_1"}`, `{"id":"re_1","payment_intent":"pi_1"}`
	)
	tests := map[string][2]string{
		"checkout.session.completed":               {aboutSession, session},
		"checkout.session.async_payment_succeeded": {aboutSession, session},
		"checkout.session.async_payment_failed":    {aboutSession, session},
		"checkout.session.expired":                 {aboutSession, session},
		"customer.subscription.created":            {aboutSub, subscription},
		"customer.subscription.updated":            {aboutSub, subscription},
		"customer.subscription.deleted":            {aboutSub, subscription},
		"customer.subscription.paused":             {aboutSub, subscription},
		"customer.subscription.resumed":            {aboutSub, subscription},
		"invoice.paid":                             {aboutInvoice, invoice},
		"invoice.payment_failed":                   {aboutInvoice, invoice},
		"charge.refunded":                          {aboutCharge, payment},
		"charge.refund.updated":                    {aboutOther, payment},
		"refund.updated":                           {aboutOther, payment},
		"refund.failed":                            {aboutOther, payment},
		"charge.dispute.created":                   {aboutOther, payment},
		"charge.dispute.updated":                   {aboutOther, payment},
		"charge.dispute.closed":                    {aboutOther, payment},
		"customer.deleted":                         {aboutCus, customer},
	}
	if got, want := billing.HandledEvents(), slices.Sorted(maps.Keys(tests)); !slices.Equal(got, want) {
		t.Errorf("HandledEvents = %q; want %q", got, want)
	}
	w := start(t, func(s *settings) { s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)} })
	for event, test := range tests {
		w.stripe.ForgetCalls()
		w.deliver(`{"id":"evt_1","type":"`+event+`","data":{"object":`+test[0]+`}}`, whsec, time.Now())
		var got []string
		for _, c := range w.stripe.Calls() {
			got = append(got, c.Method+" "+c.Path)
		}
		if !slices.Equal(got, []string{test[1]}) {
			t.Errorf("%s: calls to Stripe = %q; want %q", event, got, test[1])
		}
	}
}
