package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"8space.app/stripe-sidecar/internal/sandbox/browsertest"
)

type (
	css   = chromedp.CSS
	xpath = chromedp.Search
	step  = chromedp.Action[chromedp.Void]
)

// browser is Chromium and a sandbox to use it on.
type browser struct {
	*running
	ctx         context.Context
	screenshots string // the folder for pictures; "" takes none
}

// chromium is one for all tests; each tab has cookies of its own.
var chromium struct {
	sync.Mutex
	ctx  context.Context // nil: not started yet
	stop func()
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	chromium.Lock()
	defer chromium.Unlock()
	if chromium.ctx == nil {
		chromium.ctx, chromium.stop = browsertest.Start(t)
	}
	return &browser{start(t), chromium.ctx, os.Getenv("SCREENSHOTS")}
}

// tab is a window of its own, with its own cookies, on the landing page.
type tab struct {
	*browser
	t   *testing.T
	ctx context.Context
}

func (b *browser) tab(t *testing.T, before ...step) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // whose context is the tab's life
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(ctx, 20*time.Second)
	t.Cleanup(cancel)
	w := &tab{b, t, ctx}
	if before == nil {
		before = []step{chromedp.EmulateViewport(1280, 800)}
	}
	w.do(append(before, chromedp.Navigate(b.site), chromedp.WaitVisible(css(`button-account:defined`)))...)
	return w
}

// do performs actions; where one fails it leaves a picture with -artifacts.
func (w *tab) do(steps ...step) {
	w.t.Helper()
	for i, step := range steps {
		if err := chromedp.Do(w.ctx, step); err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), 5*time.Second)
			defer cancel()
			failed := tab{&browser{w.running, w.browser.ctx, w.t.ArtifactDir()}, w.t, ctx}
			failed.picture("failed")
			w.t.Fatalf("step %d = %v; want no error (%s)", i+1, err, failed.screenshots)
		}
	}
}

// picture is for those who want to see the pages, from their top to their end:
// SCREENSHOTS=. for this folder.
func (w *tab) picture(name string) { w.t.Helper(); w.keep(name, chromedp.FullScreenshot(100)) }

func (w *tab) keep(name string, shot chromedp.Action[[]byte]) {
	w.t.Helper()
	if w.screenshots == "" {
		return
	}
	png, err := chromedp.Run(w.ctx, shot)
	if err == nil {
		err = os.MkdirAll(w.screenshots, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.screenshots, name+".png"), png, 0o644)
	}
	if err != nil {
		w.t.Errorf("screenshot %s = %v; want no error", name, err)
	}
}

// sees waits until an element holds the text.
func (w *tab) sees(text string) {
	w.t.Helper()
	w.do(chromedp.WaitVisible(xpath(fmt.Sprintf(`//main//*[contains(normalize-space(.), %q)]`, text))))
}

// alerts waits until the button shows the text as an alert, idle again.
func (w *tab) alerts(button css, text string) {
	w.t.Helper()
	w.becomes(fmt.Sprintf(`(e => e.shadowRoot.querySelector('[role=alert]').textContent === %q && !e.ariaBusy)(document.querySelector(%q))`, text, button))
}

// becomes waits until a script gives true, over any change of page.
func (w *tab) becomes(script string) {
	w.t.Helper()
	w.do(func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if ok, err := chromedp.Evaluate[bool](script)(ctx, t); ok && err == nil {
				return chromedp.Void{}, nil
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return chromedp.Void{}, fmt.Errorf("%s: %w", script, ctx.Err())
			}
		}
	})
}

func (w *tab) is(what, script, want string) {
	w.t.Helper()
	got, err := chromedp.Run(w.ctx, chromedp.Evaluate[string](script))
	if err != nil {
		w.t.Fatal(err)
	}
	if got != want {
		w.t.Errorf("%s = %q; want %q", what, got, want)
	}
}

func (w *tab) signIn(email, password, button string) {
	w.t.Helper()
	w.do(chromedp.SetValue(css(`#email`), email), chromedp.SetValue(css(`#password`), password),
		chromedp.Click(xpath(fmt.Sprintf(`//button[.=%q]`, button))), chromedp.WaitVisible(css(`#sign-out`)))
	w.is("who", `document.querySelector('#who').textContent`, email)
}

func offer(price string) css { return css(`button-checkout[price=` + price + `]:defined`) }

// buy clicks on an offer and waits for the Checkout page.
func (w *tab) buy(price string) {
	w.t.Helper()
	w.do(chromedp.Click(offer(price)), chromedp.WaitVisible(css(`#card`)))
}

// pay pays on the Checkout page and waits for the site.
func (w *tab) pay(card string) {
	w.t.Helper()
	w.do(chromedp.SendKeys(css(`#card`), card), chromedp.Click(css(`button.main`)))
	w.sees("Thank you. Your purchase is complete.")
	// What a user has moves what is below when it comes, a guest sees nothing of it.
	w.becomes(`!document.cookie || !document.querySelector('#plan').hidden`)
}

func TestBrowser(t *testing.T) {
	t.Parallel()
	b := openBrowser(t)

	t.Run("subscribe and cancel", func(t *testing.T) {
		w := b.tab(t)
		w.picture("1-signed-out")
		w.signIn(demoEmail, demoPassword, "Sign in")
		w.picture("2-signed-in")
		w.buy("price_pro_monthly")
		w.is("e-mail", `document.querySelector('#email').value`, demoEmail)
		w.picture("3-checkout")
		w.pay("4242 4242 4242 4242")
		w.picture("4-bought")
		session := b.stripe("/v1/checkout/sessions?expand[]=data.subscription")[0]
		w.is("page", `location.search`, "?bought="+session["id"].(string))
		if u, _ := session["subscription"].(map[string]any); u["status"] != "active" || u["customer"] != session["customer"] {
			t.Errorf("subscription = %v; want an active one of the customer", u)
		}
		w.do(chromedp.Click(css(`button-account`)))
		w.sees("Renews on")
		w.picture("5-portal")
		portal, err := chromedp.Run(w.ctx, chromedp.Location())
		if err != nil {
			t.Fatal(err)
		}
		w.do(chromedp.Click(xpath(`//a[.="View"]`)))
		w.sees("Paid by card ending in 4242")
		w.picture("6-receipt")
		w.do(chromedp.Navigate(portal), chromedp.Click(xpath(`//button[.="Cancel subscription"]`)))
		w.sees("Ends on")
		w.picture("7-portal-canceled")
		w.do(chromedp.Click(xpath(`//button[.="Resume subscription"]`)))
		w.sees("Renews on")
		w.do(chromedp.Click(xpath(`//a[contains(., "Return to the site")]`)), chromedp.WaitVisible(css(`#sign-out`)))
		w.do(chromedp.Click(css(`#sign-out`)), chromedp.WaitVisible(css(`#email`)))
		w.is("cookies", `document.cookie`, "")
	})

	t.Run("guest", func(t *testing.T) {
		w := b.tab(t)
		w.buy("price_lifetime")
		w.do(chromedp.SendKeys(css(`#email`), "guest@example.com"))
		w.pay("4242424242424242")
		w.sees("You bought as a guest: its row in the database belongs to no user.")
		session := b.stripe("/v1/checkout/sessions")[0]
		details, _ := session["customer_details"].(map[string]any)
		if session["client_reference_id"] != nil || session["payment_status"] != "paid" || details["email"] != "guest@example.com" {
			t.Errorf("Checkout Session = %v; want a guest's, paid", session)
		}
	})

	t.Run("turning back", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.buy("price_lifetime")
		w.do(chromedp.Click(xpath(`//a[contains(., "Back")]`)))
		w.sees("You turned back, and nothing was bought.")
		w.do(chromedp.Navigate(b.site + "/?bought=cs_test_madeup"))
		w.sees("There is no completed purchase with this number.")
	})

	t.Run("the browser's Back", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		// chromedp's queries do not find their way into a page that was kept, so
		// all is asked by script.
		w.do(chromedp.Evaluate[chromedp.Void](`window.kept = true`))
		w.buy("price_lifetime")
		w.do(chromedp.Evaluate[chromedp.Void](`setTimeout(() => history.back())`))
		w.becomes(`!!window.kept && !document.querySelector('[aria-busy]')`)
		w.tells("POST /api/stripe/create-checkout") // its panel listens again
	})

	t.Run("declined card", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.buy("price_basic_monthly")
		w.do(chromedp.SendKeys(css(`#email`), "second@example.com"),
			chromedp.SendKeys(css(`#card`), "4000 0000 0000 0002"), chromedp.Click(css(`button.main`)), chromedp.WaitVisible(css(`[role=alert]`)))
		w.is("alert", `document.querySelector('[role=alert]').textContent`, "Your card was declined. Please try another one.")
		w.picture("8-declined")
		w.do(chromedp.Clear(css(`#card`)))
		w.pay("4242 4242 4242 4242")
	})

	t.Run("signed out", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.do(chromedp.Click(css(`button-account`)), chromedp.WaitVisible(css(`#notice:focus`)))
		w.is("notice", `document.querySelector('#notice').textContent`, "Sign in to open billing.")
		w.picture("signed-out-billing")
		w.do(chromedp.SetAttributeValue(css(`button-account`), "signin-url", "javascript:document.title='ran'"), chromedp.Click(css(`button-account`)))
		w.alerts(`button-account`, "This is not a page to go to.")
		w.do(chromedp.RemoveAttribute(css(`button-account`), "signin-url"), // by script, for the text is in the middle now
			chromedp.Evaluate[chromedp.Void](`document.querySelector('button-account').shadowRoot.querySelector('button').click()`))
		w.alerts(`button-account`, "Not signed in")
	})

	t.Run("errors", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.signIn("new@example.com", "correct horse", "Sign up")
		w.do(chromedp.Click(css(`button-account`)))
		w.alerts(`button-account`, "You don't have a billing account yet. Make a purchase first.")
		w.do(chromedp.SetAttributeValue(offer("price_pro_monthly"), "price", "price_x"), chromedp.Click(offer("price_x")))
		w.alerts(offer("price_x"), "This price is not for sale")
		w.picture("9-errors")
		w.do(chromedp.SetAttributeValue(offer("price_x"), "endpoint", "http://127.0.0.1:1/"), chromedp.Click(offer("price_x")))
		w.alerts(offer("price_x"), "The server could not be reached. Please try again.")
	})

	t.Run("session in chunks", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.signIn(strings.Repeat("w", 300)+"@example.com", "correct horse", "Sign up")
		w.is("chunks", `document.cookie.match(/auth-token[.]?[0-9]?(?==)/g).join()`, "auth-token.0,auth-token.1")
		w.do(chromedp.Click(css(`button-account`)))
		w.alerts(`button-account`, "You don't have a billing account yet. Make a purchase first.") // signed in, that is
		w.do(chromedp.Click(css(`#sign-out`)), chromedp.WaitVisible(css(`#email`)))
		w.is("cookies", `document.cookie`, "")
	})

	t.Run("double click", func(t *testing.T) {
		w := b.tab(t)
		before := len(b.stripe("/v1/checkout/sessions?limit=100"))
		w.do(chromedp.Evaluate[chromedp.Void](`{
			const button = document.querySelector('[price=price_lifetime]').shadowRoot.querySelector('button')
			button.click()
			button.click()
		}`), chromedp.WaitVisible(css(`#card`)))
		if made := len(b.stripe("/v1/checkout/sessions?limit=100")) - before; made != 1 {
			t.Errorf("Checkout Sessions of a double click = %d; want 1", made)
		}
	})

	t.Run("keyboard only", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		tabTo := func(selector css) {
			t.Helper()
			for range 12 {
				w.do(chromedp.KeyEvent(kb.Tab))
				if there, _ := chromedp.Run(w.ctx, chromedp.Evaluate[bool](fmt.Sprintf(`document.activeElement.matches(%q)`, selector))); there {
					return
				}
			}
			t.Fatalf("Tab does not reach %s; want it to", selector)
		}
		tabTo(`#email`)
		w.do(chromedp.KeyEvent(demoEmail))
		tabTo(`#password`)
		w.do(chromedp.KeyEvent(demoPassword), chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(css(`#sign-out`)))
		tabTo(offer("price_lifetime"))
		w.do(chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(css(`#card`)))
		tabTo(`#card`)
		w.do(chromedp.KeyEvent("4242424242424242"), chromedp.KeyEvent(kb.Enter))
		w.sees("Thank you. Your purchase is complete.")
		tabTo(`button-account`)
		w.do(chromedp.KeyEvent(" "))
		w.sees("Receipts")
	})

	t.Run("phone", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t, chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateTouch))
		fits := func(name string) {
			t.Helper()
			w.is(name+" wider than the phone", `String(document.documentElement.scrollWidth > 390)`, "false")
			w.picture("phone-" + name)
		}
		fits("1-signed-out")
		w.signIn("a.rather.long.address.for.a.phone@mail.example.com", "correct horse", "Sign up")
		fits("2-signed-in")
		w.buy("price_basic_monthly")
		fits("3-checkout")
		w.pay("4242 4242 4242 4242")
		fits("3-bought")
		w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector('#panel').open = false`), chromedp.Click(xpath(`//a[.="See what just happened"]`)))
		w.becomes(`document.querySelector('#panel').open && Math.abs(document.querySelector('#panel').getBoundingClientRect().top) < 2`)
		w.do(chromedp.Evaluate[chromedp.Void](`scrollTo(0, 0)`))
		w.do(chromedp.Click(css(`button-account`)), chromedp.WaitVisible(css(`#receipts`)))
		fits("4-portal")
	})
}
