package main

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestBuyers clicks what a site can set beyond the defaults.
func TestBuyers(t *testing.T) {
	t.Setenv("CHECKOUT_REQUIRE_SIGN_IN", "subscription")
	t.Setenv("CHECKOUT_ONE_SUBSCRIPTION", "true")
	t.Setenv("CHECKOUT_PARAMS", "locale=en-GB")
	t.Setenv("CLAIM_GUEST_PURCHASES", "true")
	b := openBrowser(t)

	t.Run("claim what was bought as a guest", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.buy("price_lifetime")
		w.do(chromedp.SetValue(css(`#email`), "claim@example.com"))
		w.pay("4242 4242 4242 4242")
		w.signIn("claim@example.com", "correct horse", "Sign up")
		w.do(chromedp.Evaluate[chromedp.Void](`{
			fetch('/api/stripe/sync', { method: 'POST' }).then(r => r.json()).then(bought => { window.purchases = bought.purchases.length })
		}`))
		w.becomes(`window.purchases === 1`)
	})

	t.Run("sign in first", func(t *testing.T) {
		w := b.tab(t)
		w.do(chromedp.Click(offer("price_pro_monthly")), chromedp.WaitVisible(css(`#notice:focus`)))
		w.is("notice", `document.querySelector('#notice').textContent`, "Sign in to subscribe.")
		w.do(chromedp.RemoveAttribute(offer("price_pro_monthly"), "signin-url"), chromedp.Click(offer("price_pro_monthly")))
		w.alerts(offer("price_pro_monthly"), "Not signed in")
		w.buy("price_lifetime") // which a guest may
		if session := b.stripe("/v1/checkout/sessions")[0]; session["locale"] != "en-GB" {
			t.Errorf("Checkout Session = %v; want the locale of CHECKOUT_PARAMS", session)
		}
	})

	t.Run("prices", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		shown := func(price string) string {
			return fmt.Sprintf(`document.querySelector('button-price[price=%s]').shadowRoot.textContent`, price)
		}
		for _, page := range []struct{ language, basic, lifetime string }{{"en", "$9 / month", "$199"}, {"de", "9\u00a0$ / Monat", "199\u00a0$"}, {"ja", "$9 / 月", "$199"}} {
			w.do(chromedp.Evaluate[chromedp.Void](`{
				document.documentElement.lang = "` + page.language + `"
				for (const e of document.querySelectorAll('button-price')) e.setAttribute('price', e.getAttribute('price'))
			}`))
			w.becomes(shown("price_basic_monthly") + ` === "` + page.basic + `" && ` + shown("lifetime") + ` === "` + page.lifetime + `"`)
		}
		w.picture("prices")
		w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector('button-price').setAttribute('price', 'price_x')`))
		w.becomes(`!!document.querySelector('button-price[price=price_x]').shadowRoot.querySelector('slot')`)
		w.is("requests", `String(performance.getEntriesByType('resource').filter(e => e.name.endsWith('/api/stripe/prices')).length)`, "1")
		w.do(chromedp.SetAttributeValue(offer("price_lifetime"), "price", "lifetime"))
		w.buy("lifetime")
	})

	t.Run("one subscription", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.signIn("once@example.com", "correct horse", "Sign up")
		w.buy("price_pro_monthly")
		first, err := chromedp.Run(w.ctx, chromedp.Location())
		if err != nil {
			t.Fatal(err)
		}
		w.do(chromedp.Navigate(b.site), chromedp.WaitVisible(css(`#sign-out`)))
		w.buy("price_basic_monthly")
		second, err := chromedp.Run(w.ctx, chromedp.Location())
		if err != nil {
			t.Fatal(err)
		}
		w.do(chromedp.Navigate(first))
		w.sees("This page has expired. Please start again.")
		w.do(chromedp.Navigate(second), chromedp.WaitVisible(css(`#card`)))
		w.pay("4242 4242 4242 4242")
		w.do(chromedp.Click(offer("price_pro_monthly")))
		w.sees("Renews on") // the portal
	})

	t.Run("quantity and steps of the portal", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.signIn(demoEmail, demoPassword, "Sign in")
		five := css(`button-checkout[quantity="5"]:defined`)
		w.do(chromedp.SetAttributeValue(five, "quantity", "a few"), chromedp.Click(css(`button-checkout[quantity="a few"]`)))
		w.alerts(`button-checkout[quantity="a few"]`, "quantity must be a whole number from 1 to 999999")
		w.do(chromedp.SetAttributeValue(css(`button-checkout[quantity]`), "quantity", "5"), chromedp.Click(five), chromedp.WaitVisible(css(`#card`)))
		w.sees("Basic × 5")
		w.pay("4242 4242 4242 4242")
		w.becomes(`performance.getEntriesByType('resource').some(e => e.name.endsWith('/api/stripe/sync') && e.responseStatus === 200)`)
		w.sees("Subscribed Basic × 5, renews on")
		open := func(flow, text string) {
			t.Helper()
			w.do(chromedp.Click(css(`button-account[flow=` + flow + `]:defined`)))
			w.sees(text)
			w.picture("flow-" + flow)
		}
		back := []step{chromedp.Click(css(`button.main`)), chromedp.WaitVisible(css(`#sign-out`))}
		open("payment_method_update", "Change your card")
		w.do(append([]step{chromedp.SendKeys(css(`#card`), "4242 4242 4242 4242")}, back...)...)
		open("subscription_update", "Change Basic")
		w.do(append([]step{chromedp.Click(css(`[value=price_pro_monthly]`))}, back...)...)
		w.sees("Subscribed Pro × 5, renews on")
		open("subscription_cancel", "Cancel Pro")
		w.do(back...)
		w.sees("Subscribed Pro × 5, ends on")
	})
}

// TestTrialOnce clicks a trial, and buys again without one.
func TestTrialOnce(t *testing.T) {
	t.Setenv("CHECKOUT_TRIAL_DAYS", "14")
	b := openBrowser(t)
	w := b.tab(t)
	w.signIn("trial@example.com", "correct horse", "Sign up")
	for _, want := range []string{"14", "<nil>"} {
		w.buy("price_pro_monthly")
		w.pay("4242 4242 4242 4242")
		subscriptions := b.stripe("/v1/subscriptions")
		days := "<nil>"
		if end, ok := subscriptions[0]["trial_end"].(float64); ok {
			days = fmt.Sprint((end - subscriptions[0]["trial_start"].(float64)) / 86400)
		}
		if days != want {
			t.Errorf("trial of the newest subscription = %s days; want %s", days, want)
		}
	}
}
