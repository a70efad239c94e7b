package main

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// TestPlan: what was bought is read from the site's own database, where the
// webhook has written it.
func TestPlan(t *testing.T) {
	t.Parallel()
	w := openBrowser(t).tab(t)
	w.signIn(demoEmail, demoPassword, "Sign in")
	w.buy("price_basic_monthly")
	w.pay("4242 4242 4242 4242")
	w.sees("Subscribed Basic, renews on")
	w.picture("plan-1-subscribed")
	for _, turn := range []struct{ button, state, plan string }{
		{"Cancel subscription", "Ends on", "Subscribed Basic, ends on"},
		{"Resume subscription", "Renews on", "Subscribed Basic, renews on"},
	} {
		w.do(chromedp.Click(css(`button-account`)), chromedp.Click(xpath(`//button[.="`+turn.button+`"]`)))
		w.sees(turn.state)
		w.do(chromedp.Click(xpath(`//a[contains(., "Return to the site")]`)))
		w.sees(turn.plan)
		w.picture("plan-2-after-" + turn.button)
	}

	// Of several subscriptions each has steps of its own, and one that ends cannot
	// be canceled again.
	w.buy("price_pro_monthly")
	w.pay("4242 4242 4242 4242")
	steps := func(plan string) string {
		return `[...[...document.querySelectorAll('#bought li')].find(e => e.textContent.includes('` + plan + `')).querySelectorAll('button-account')].map(e => e.textContent).join()`
	}
	w.sees("Subscribed Pro, renews on")
	w.is("steps of Basic", steps("Basic"), "Change plan,Cancel")
	w.do(chromedp.Click(xpath(`//li[contains(., "Basic")]//button-account[.="Cancel"]`)))
	w.sees("Cancel Basic")
	w.do(chromedp.Click(css(`button.main`)))
	w.sees("Subscribed Basic, ends on")
	w.is("steps of Basic", steps("Basic"), "Resume in billing")
	w.is("steps of Pro", steps("Pro"), "Change plan,Cancel")
	w.picture("plan-3-two")
	w.do(chromedp.Click(xpath(`//button-account[.="Resume in billing"]`)))
	w.sees("Ends on")
	w.do(chromedp.Click(xpath(`//a[contains(., "Return to the site")]`)), chromedp.WaitVisible(css(`#sign-out`)))

	// Row level security: another user sees nothing of it.
	w.do(chromedp.Click(css(`#sign-out`)), chromedp.WaitVisible(css(`#email`)))
	w.signIn("other@example.com", "correct horse", "Sign up")
	w.becomes(`document.querySelector('#plan').hidden`)
}
