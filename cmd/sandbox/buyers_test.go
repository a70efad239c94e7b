package main

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// TestBuyers clicks what a site can set beyond the defaults.
func TestBuyers(t *testing.T) {
	t.Setenv("CHECKOUT_REQUIRE_SIGN_IN", "subscription")
	b := openBrowser(t)

	t.Run("sign in first", func(t *testing.T) {
		w := b.tab(t)
		w.do(chromedp.Click(offer("price_pro_monthly")), chromedp.WaitVisible(css(`#email:focus`)))
		w.is("page", `location.hash`, "#email")
		w.do(chromedp.RemoveAttribute(offer("price_pro_monthly"), "signin-url"), chromedp.Click(offer("price_pro_monthly")))
		w.alerts(offer("price_pro_monthly"), "Not signed in")
		w.buy("price_lifetime") // which a guest may
	})
}
