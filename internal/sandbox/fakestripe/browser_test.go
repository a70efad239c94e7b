package fakestripe

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"8space.app/stripe-sidecar/internal/sandbox/browsertest"
)

// smallTargets is a script that lists what is clicked and less than 24 px high.
// https://www.w3.org/WAI/WCAG22/Understanding/target-size-minimum
const smallTargets = `[...document.querySelectorAll('a, button, summary, select, input:not(label input)')]
	.filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 24).map(e => e.outerHTML).join()`

// otherNames is one that lists what is not called by what it shows first.
// https://www.w3.org/WAI/WCAG22/Understanding/label-in-name
const otherNames = `[...document.querySelectorAll('a[aria-label], button[aria-label]')]
	.filter(e => !e.ariaLabel.startsWith(e.textContent)).map(e => e.outerHTML).join()`

// TestPagesInBrowser uses the pages as a buyer does, on a phone. With SCREENSHOTS,
// a folder, it does so on a desktop and in the dark too, and leaves pictures there.
func TestPagesInBrowser(t *testing.T) {
	t.Parallel()
	ctx, stop := browsertest.Start(t)
	defer stop()
	s := New(Options{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/site" {
			fmt.Fprint(w, "<h1>The site</h1>")
			return
		}
		s.ServeHTTP(w, r)
	}))
	s.base = "http://" + server.Listener.Addr().String()
	s.o.PublicURL = s.base
	server.Start()
	defer server.Close()

	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	type step = chromedp.Action[chromedp.Void]
	type css = chromedp.CSS
	do := func(what string, steps ...step) {
		t.Helper()
		for i, step := range steps {
			if err := chromedp.Do(ctx, step); err != nil {
				t.Fatalf("%s, step %d = %v; want no error", what, i+1, err)
			}
		}
	}
	is := func(script, want string) {
		t.Helper()
		if got, err := chromedp.Run(ctx, chromedp.Evaluate[string](script)); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %q", script, got, err, want)
		}
	}
	folder, width := os.Getenv("SCREENSHOTS"), int64(0)
	picture := func(name string) {
		t.Helper()
		is(fmt.Sprintf(`String(document.documentElement.scrollWidth > %d)`, width), "false")
		is(smallTargets, "")
		is(otherNames, "")
		if folder != "" {
			png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
			if err == nil {
				err = os.WriteFile(filepath.Join(folder, name+".png"), png, 0o644)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	button := func(text string) chromedp.Search {
		return chromedp.Search(fmt.Sprintf(`//*[self::button or self::a or self::summary][.=%q]`, text))
	}
	back := chromedp.WaitVisible(chromedp.Search(`//h1[.="The site"]`))

	emulate := func(method string, params map[string]any) step {
		return func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
			return chromedp.Void{}, target.Call(ctx, "Emulation."+method, params, nil)
		}
	}
	do("focus", emulate("setFocusEmulationEnabled", map[string]any{"enabled": true}))
	screens := []string{"phone", "desktop", "dark"}
	if folder == "" {
		screens = screens[:1]
	}
	for _, screen := range screens {
		scheme, height, mobile := "light", int64(800), []chromedp.EmulateViewportOption{}
		width = 1280
		switch screen {
		case "phone":
			width, height, mobile = 390, 844, append(mobile, chromedp.EmulateMobile)
		case "dark":
			scheme = "dark"
		}
		do(screen, chromedp.EmulateViewport(width, height, mobile...), emulate("setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}))
		known, _ := post(t, s, "/v1/customers", "email="+screen+"@example.com").Get("id").(string)
		sell := func(price, mode, more string) string {
			return s.base + "/c/pay/" + newCheckout(t, s, price, mode, "allow_promotion_codes=true&success_url="+s.base+"/site&"+more)
		}

		// A trial, by keyboard: Enter in a field of the card pays, and does not apply a code.
		do("trial", chromedp.Navigate(sell("price_pro_monthly", "subscription", "subscription_data[trial_period_days]=7&customer="+known)), chromedp.WaitVisible(css(`#card`)))
		picture(screen + "-1-trial")
		do("keyboard", chromedp.SendKeys(css(`#card`), "4242424242424242"+kb.Enter), back)

		// One-time, of a guest.
		do("once", chromedp.Navigate(sell("price_lifetime", "payment", "line_items[0][quantity]=5&line_items[0][adjustable_quantity][enabled]=true")),
			chromedp.SendKeys(css(`#promotion`), "save20"+kb.Enter), chromedp.WaitVisible(css(`[name=remove]`)),
			chromedp.Click(button("Fill in a test card")))
		is(`document.activeElement.id`, "email") // which is still empty
		do("e-mail", chromedp.KeyEvent("guest@example.com"), chromedp.Click(button("All test cards")))
		picture(screen + "-2-once")
		do("refused", chromedp.Click(button("4000 0000 0000 9995")), chromedp.Click(css(`button.main`)), chromedp.WaitVisible(css(`[role=alert]`)))
		is(`document.querySelector('[role=alert]').textContent + document.activeElement.id + document.querySelector('#email').value`, "Your card has insufficient funds.cardguest@example.com")
		picture(screen + "-3-refused")
		do("3-D Secure", chromedp.Click(button("All test cards")), chromedp.Click(button("4000 0025 0000 3155")), chromedp.Click(css(`button.main`)), chromedp.WaitVisible(button("Fail authentication")))
		picture(screen + "-4-secure")
		do("confirmed", chromedp.Click(button("Complete authentication")), back)

		// The portal.
		portal, _ := post(t, s, "/v1/billing_portal/sessions", "return_url="+s.base+"/site&customer="+known).Get("url").(string)
		s.Renew(s.Subscriptions()[len(s.Subscriptions())-1].ID)
		do("portal", chromedp.Navigate(portal), chromedp.Click(button("Change plan")), chromedp.WaitVisible(css(`[name=price]`)))
		picture(screen + "-5-plan")
		do("plan", chromedp.Click(css(`button.main`)), chromedp.Click(button("Change card")), chromedp.Click(button("Fill in a test card")))
		picture(screen + "-6-card")
		do("card", chromedp.Click(css(`button.main`)), chromedp.WaitVisible(css(`#receipts`)))
		picture(screen + "-7-portal")
		do("receipt", chromedp.Click(button("View")), chromedp.WaitVisible(button("← Back")))
		picture(screen + "-8-receipt")
		do("way back", chromedp.Click(button("← Back")), chromedp.Click(button("← Return to the site")), back)
	}
}
