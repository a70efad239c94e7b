package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestShop clicks what the page itself does, beyond what it sells.
func TestShop(t *testing.T) {
	t.Parallel()
	b := openBrowser(t)

	// The picture for the README: SCREENSHOTS=. go test ./cmd/sandbox -run 'TestShop/^shop$'
	t.Run("shop", func(t *testing.T) {
		w := b.tab(t, chromedp.EmulateViewport(1100, 720))
		w.do(chromedp.Click(css(`#demo`)), chromedp.WaitVisible(css(`#sign-out`)))
		w.buy("price_lifetime")
		w.pay("4242 4242 4242 4242")
		w.buy("price_pro_monthly")
		w.pay("4242 4242 4242 4242")
		w.sees("Subscribed Pro, renews on")
		w.sees("Bought Lifetime, on")
		for _, want := range []string{
			"customers 1 row", "subscriptions 1 row", "price_id price_pro_monthly", "purchases 1 row", "price_id price_lifetime amount_total 19900",
			"200 Browser → service POST /api/stripe/create-checkout", "200 → Stripe POST /v1/checkout/sessions",
			"200 Stripe → service checkout.session.completed", "204 → Supabase POST /rest/v1/rpc/stripe_write_purchase",
			"303 Browser → Stripe POST /c/pay/cs_test_", "200 Browser → Supabase POST /auth/v1/token",
		} {
			w.tells(want)
		}
		w.do(chromedp.Evaluate[chromedp.Void](`scrollTo(0, 0)`))
		w.keep("shop", chromedp.CaptureScreenshot())
	})

	t.Run("panel", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.do(chromedp.SetAttributeValue(offer("price_lifetime"), "price", "price_x"), chromedp.Click(offer("price_x")))
		w.tells("400 Browser → service POST /api/stripe/create-checkout")
		line := `[...document.querySelectorAll('#log > li')].find(e => e.textContent.includes('400') && e.textContent.includes('create-checkout')).querySelector('summary')`
		w.do(chromedp.Evaluate[chromedp.Void](line+`.focus()`), chromedp.KeyEvent(kb.Enter))
		w.tells("mode payment priceId price_x")
		w.tells("Answer error This price is not for sale")
		w.do(chromedp.Click(css(`aside > details > summary`)))
		w.becomes(`!document.querySelector('#log').checkVisibility()`)
	})

	t.Run("demo user and focus", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		focused := func(what, want string) {
			t.Helper()
			w.is(what, `document.activeElement.id || document.activeElement.value`, want)
		}
		w.do(chromedp.Focus(css(`#demo`)), chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(css(`#sign-out`)))
		focused("focus after the demo user's sign-in", "notice")
		w.is("notice", `document.querySelector('#notice[role=status]').textContent`, "You are signed in as "+demoEmail+".")
		w.do(chromedp.Focus(css(`#sign-out`)), chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(css(`#email`)))
		focused("focus after signing out", "email")
		w.is("notice", `document.querySelector('#notice').textContent`, "You are signed out.")
		w.do(chromedp.SendKeys(css(`#email`), "focus@example.com"), chromedp.SendKeys(css(`#password`), "a wrong one"), chromedp.KeyEvent(kb.Enter))
		w.becomes(`document.querySelector('#sign-in-error[role=alert]').textContent === 'Invalid login credentials'`)
		focused("focus after a refused sign-in", "password")
		w.do(chromedp.Focus(css(`button[value=signup]`)), chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(css(`#sign-out`)))
		focused("focus after signing up", "notice")
		w.is("error", `document.querySelector('#sign-in-error').textContent`, "")
	})

	t.Run("an error moves nothing", func(t *testing.T) {
		t.Parallel()
		for name, before := range map[string]step{
			"desktop": chromedp.EmulateViewport(1280, 800),
			"phone":   chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateTouch),
		} {
			w := b.tab(t, before)
			w.becomes(`document.querySelectorAll('button-price').length === [...document.querySelectorAll('button-price')].filter(e => e.shadowRoot.querySelector('[part=amount]')).length`)
			still := func(what string, act func()) {
				t.Helper()
				places := `JSON.stringify([...document.querySelectorAll('header *, main *')].filter(e => e.checkVisibility()).map(e => { const r = e.getBoundingClientRect(); return [e.tagName, r.left + scrollX, r.top + scrollY, r.width, r.height] }))`
				want, err := chromedp.Run(w.ctx, chromedp.Evaluate[string](places))
				if err != nil {
					t.Fatal(err)
				}
				act()
				if got, _ := chromedp.Run(w.ctx, chromedp.Evaluate[string](places)); got != want {
					t.Errorf("%s, places after an error %s = %s; want %s", name, what, got, want)
				}
			}
			w.do(chromedp.SetAttributeValue(offer("price_pro_monthly"), "price", "price_x"))
			still("of an offer", func() {
				w.do(chromedp.Click(offer("price_x")))
				w.alerts(offer("price_x"), "This price is not for sale")
			})
			still("of the sign-in", func() {
				w.do(chromedp.SendKeys(css(`#email`), "x@example.com"), chromedp.SendKeys(css(`#password`), "a wrong one"), chromedp.KeyEvent(kb.Enter))
				w.becomes(`document.querySelector('#sign-in-error').textContent !== ''`)
			})
			w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector('form').reset()`))
			w.signIn(name+"@example.com", "correct horse", "Sign up")
			still("of Billing", func() {
				w.do(chromedp.Click(css(`button-account`)))
				w.alerts(`button-account`, "You don't have a billing account yet. Make a purchase first.")
			})
			w.picture("errors-" + name)
		}
	})

	t.Run("a sign-in that no longer stands", func(t *testing.T) {
		t.Parallel()
		other := fakesupabase.New(fakesupabase.Options{})
		user := other.SignUp("before@example.com", "correct horse")
		stale := `document.cookie = '` + cookieName(b.variables["SUPABASE_URL"]) + `=base64-` + base64.RawURLEncoding.EncodeToString(other.SignIn(user.ID).JSON) + `; Path=/'`
		const said = "You were signed out: this sandbox does not know you"

		// The same page on a server of its own, which can be restarted.
		var site atomic.Pointer[http.Handler]
		restart := func() {
			h := newSite(strings.TrimPrefix(b.site, "http://"), b.variables["SUPABASE_URL"], newPanel(func(string) []map[string]any { return nil }), nil)
			site.Store(&h)
		}
		restart()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*site.Load()).ServeHTTP(w, r) }))
		defer server.Close()
		defer server.CloseClientConnections()
		w := b.tab(t)
		w.do(chromedp.Navigate(server.URL), chromedp.WaitVisible(css(`#demo`)))
		w.tells("GET /api/stripe/prices")

		w.do(chromedp.Evaluate[chromedp.Void](stale))
		restart()
		server.CloseClientConnections()
		w.sees(said)
		w.is("cookies", `document.cookie`, "")
		w.is("requests before the restart", `document.querySelector('#log').textContent`, "")

		w.do(chromedp.Evaluate[chromedp.Void](stale), chromedp.Reload())
		w.sees(said)
		w.do(chromedp.WaitVisible(css(`#sign-in`)))
		w.is("cookies", `document.cookie`, "")
	})

	t.Run("without JavaScript", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t)
		w.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
			return err
		}), chromedp.Reload())
		w.sees("This page needs JavaScript")
		w.picture("without-javascript")
	})

	t.Run("dark", func(t *testing.T) {
		t.Parallel()
		w := b.tab(t, chromedp.EmulateViewport(1280, 900), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
			})
			return err
		}))
		w.do(chromedp.SetAttributeValue(offer("price_lifetime"), "price", "price_x"), chromedp.Click(offer("price_x")))
		w.tells("400 Browser → service POST /api/stripe/create-checkout")
		w.picture("dark")
		// WCAG's contrast of every text with what is behind it.
		w.is("texts of too little contrast", contrast, "")
	})
}

// tells waits until the panel shows all of the texts, one after the other.
func (w *tab) tells(texts ...string) {
	w.t.Helper()
	w.becomes(fmt.Sprintf(`document.querySelector('aside').innerText.replace(/\s+/g, ' ').includes(%q)`, strings.Join(texts, " ")))
}

// contrast is a script that lists the texts whose contrast is below 4.5.
const contrast = `(() => {
	const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
	const rgb = color => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data }
	const luminance = color => [.2126, .7152, .0722].reduce((sum, weight, i) => {
		const c = rgb(color)[i] / 255
		return sum + weight * (c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
	}, 0)
	const behind = e => !e ? getComputedStyle(document.body).backgroundColor
		: /, 0\)$/.test(getComputedStyle(e).backgroundColor) ? behind(e.parentElement ?? e.getRootNode().host) : getComputedStyle(e).backgroundColor
	return [...document.querySelectorAll('body, body *')].flatMap(e => [e, ...e.shadowRoot?.querySelectorAll('*') ?? []])
		.filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
		.flatMap(e => {
			const [light, dark] = [getComputedStyle(e).color, behind(e)].map(luminance).sort((a, b) => b - a)
			const ratio = (light + .05) / (dark + .05)
			return ratio < 4.5 ? [e.textContent + ' ' + ratio.toFixed(2)] : []
		}).join('; ')
})()`
