package fakestripe

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"time"
)

// The cards of the Checkout page. Any other number is refused, so that nobody's
// real one is ever sent. https://docs.stripe.com/testing#cards
const (
	cardPays     = "4242424242424242"
	cardDeclined = "4000000000000002"
)

//go:embed pages
var pageFiles embed.FS

var pages = template.Must(template.ParseFS(pageFiles, "pages/*.html"))

func (s *Account) handlePages() {
	s.mux.HandleFunc("GET /c/pay/{session}", s.showCheckout)
	s.mux.HandleFunc("POST /c/pay/{session}", s.postCheckout)
	s.mux.HandleFunc("GET /p/session/{session}", s.showPortal)
	s.mux.HandleFunc("POST /p/session/{session}", s.postPortal)
	s.mux.HandleFunc("GET /receipts/{charge}", s.showReceipt)
}

func render(w http.ResponseWriter, status int, name string, data any) {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		panic(err) // the sandbox's own template
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes())
}

type message struct{ Title, Text, URL string }

func notFound(w http.ResponseWriter) {
	render(w, http.StatusNotFound, "message.html", message{"Not found", "There is no such page here. It may be from before the sandbox was started.", ""})
}

type checkoutPage struct {
	Title, Price, Total, Button, CancelURL string
	Recurring                              bool
	TrialDays                              int
	Items                                  []checkoutItem
	Email, Card, Error                     string
	EmailFixed                             bool
	Invalid                                string // the field to look at
}

type checkoutItem struct {
	Name, Full, Amount string
	Quantity           int64
	Recurring          bool
}

func (s *Account) showCheckout(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.checkouts.byID[r.PathValue("session")]
	if c == nil {
		notFound(w)
		return
	}
	switch s.expire(c); c.Status {
	case "open":
		render(w, http.StatusOK, "checkout.html", s.checkoutPage(c))
	case "complete":
		render(w, http.StatusOK, "message.html", message{"All done", "This purchase is complete.", c.successURL()})
	default:
		render(w, http.StatusOK, "message.html", message{"Too late", "This page has expired. Please start again.", c.CancelURL})
	}
}

func (c *checkoutSession) successURL() string {
	return strings.ReplaceAll(c.SuccessURL, "{CHECKOUT_SESSION_ID}", c.ID)
}

func (s *Account) checkoutPage(c *checkoutSession) checkoutPage {
	p := checkoutPage{
		Total: dollars(s.total(c)), CancelURL: c.CancelURL, Recurring: c.Mode == "subscription", TrialDays: c.trialDays(),
		Email: s.email(c), EmailFixed: s.email(c) != "",
	}
	var full int64
	for _, item := range c.LineItems {
		price := s.prices.byID[item.Price]
		full += item.Quantity * price.unitAmount
		p.Items = append(p.Items, checkoutItem{
			s.productName(item.Price), dollars(item.Quantity * price.unitAmount), dollars(s.amount(c, item)), item.Quantity, price.interval != "",
		})
	}
	p.Price = dollars(full)
	p.Button = "Pay " + p.Total
	switch {
	case p.TrialDays > 0:
		p.Title, p.Button = "Try "+p.Items[0].Name, "Start trial"
	case p.Recurring:
		p.Title = "Subscribe to " + p.Items[0].Name
	default:
		p.Title = "Buy " + p.Items[0].Name
	}
	return p
}

// postCheckout is the buyer's Pay. Paying twice is paying once.
func (s *Account) postCheckout(w http.ResponseWriter, r *http.Request) {
	answered, successURL, ok := s.payFromPage(w, r)
	if !ok {
		return
	}
	await(r.Context(), answered)
	http.Redirect(w, r, successURL, http.StatusSeeOther)
}

// payFromPage reports whether the session is paid; if not it has answered.
func (s *Account) payFromPage(w http.ResponseWriter, r *http.Request) (answered chan struct{}, successURL string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.checkouts.byID[r.PathValue("session")]
	if c == nil {
		notFound(w)
		return nil, "", false
	}
	s.expire(c)
	if c.Status == "complete" {
		return nil, c.successURL(), true
	}
	if c.Status != "open" {
		http.Redirect(w, r, c.URL, http.StatusSeeOther)
		return nil, "", false
	}
	p := s.checkoutPage(c)
	if !p.EmailFixed {
		p.Email = strings.TrimSpace(r.PostForm.Get("email"))
	}
	p.Card = r.PostForm.Get("card")
	status := http.StatusUnprocessableEntity
	address, err := mail.ParseAddress(p.Email)
	switch card := strings.NewReplacer(" ", "", "-", "").Replace(p.Card); {
	case err != nil || address.Address != p.Email:
		p.Invalid, p.Error = "email", "Please enter an e-mail address."
	case card == cardDeclined:
		status = http.StatusPaymentRequired
		p.Invalid, p.Error = "card", "Your card was declined. Please try another one."
	case card != cardPays:
		p.Card = ""
		p.Invalid, p.Error = "card", "The sandbox takes only the two card numbers below."
	default:
		return s.complete(c, p.Email, true), c.successURL(), true
	}
	render(w, status, "checkout.html", p)
	return nil, "", false
}

type portalPage struct {
	Email, ReturnURL string
	Subscriptions    []portalSubscription
	Receipts         []receipt
}

type portalSubscription struct {
	ID, Name, Price, State, Action string
	Quantity                       int64
}

type receipt struct{ Date, For, Amount, Refunded, Kept, Email, URL string }

// The names of the portal's buttons are what they send.
const (
	actionCancel = "Cancel subscription"
	actionResume = "Resume subscription"
)

func (s *Account) showPortal(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.portals.byID[r.PathValue("session")]
	if session == nil {
		notFound(w)
		return
	}
	if session.Flow != "" {
		s.showFlow(w, session)
		return
	}
	p := portalPage{Email: s.customers.byID[session.Customer].Email, ReturnURL: session.ReturnURL}
	for u := range s.subscriptions.all {
		if u.Customer == session.Customer {
			state, action := u.state()
			p.Subscriptions = append(p.Subscriptions, portalSubscription{
				u.ID, s.productName(u.Price), dollars(u.Quantity * s.prices.byID[u.Price].unitAmount), state, action, u.Quantity,
			})
		}
	}
	for charge := range s.charges.all {
		if charge.customer == session.Customer {
			p.Receipts = append(p.Receipts, charge.receipt())
		}
	}
	slices.Reverse(p.Subscriptions)
	slices.Reverse(p.Receipts)
	render(w, http.StatusOK, "portal.html", p)
}

// state says how a subscription stands and what can be done about it.
func (u *subscription) state() (text, action string) {
	switch {
	case !u.EndedAt.IsZero():
		return "Ended on " + date(u.EndedAt), ""
	case u.CancelAtPeriodEnd:
		return "Ends on " + date(u.CurrentPeriodEnd), actionResume
	case u.Status == "trialing":
		return "Free until " + date(u.TrialEnd), actionCancel
	case u.Status == "past_due":
		return "The last payment has failed", actionCancel
	}
	return "Renews on " + date(u.CurrentPeriodEnd), actionCancel
}

func (s *Account) postPortal(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.portals.byID[r.PathValue("session")]
	if session != nil && session.Flow != "" {
		s.finishFlow(session, r)
		http.Redirect(w, r, session.ReturnURL, http.StatusSeeOther)
		return
	}
	u := s.subscriptions.byID[r.PostForm.Get("subscription")]
	if session == nil || u == nil || u.Customer != session.Customer {
		notFound(w)
		return
	}
	// What a page shows may have changed since.
	if _, action := u.state(); action == r.PostForm.Get("action") && action != "" {
		s.setCancel(u, action == actionCancel)
	}
	http.Redirect(w, r, session.URL, http.StatusSeeOther)
}

// flowPage is one step of the portal.
type flowPage struct {
	Title, Text, Button, ReturnURL string
	Card                           bool     // whether a card is asked for
	Prices                         []string // to choose from
}

func (s *Account) showFlow(w http.ResponseWriter, session *PortalSession) {
	p := flowPage{ReturnURL: session.ReturnURL}
	u := s.subscriptions.byID[session.Subscription]
	switch session.Flow {
	case "payment_method_update":
		p.Title, p.Button, p.Card = "Change your card", "Save card", true
	case "subscription_cancel":
		p.Title, p.Text, p.Button = "Cancel "+s.productName(u.Price), "It ends on "+date(u.CurrentPeriodEnd)+".", "Cancel subscription"
	case "subscription_update":
		p.Title, p.Button = "Change "+s.productName(u.Price), "Change subscription"
		for price := range s.prices.all {
			if price.interval != "" && price.id != u.Price {
				p.Prices = append(p.Prices, price.id)
			}
		}
	}
	render(w, http.StatusOK, "flow.html", p)
}

// finishFlow does what a step is for; the card is taken and forgotten.
func (s *Account) finishFlow(session *PortalSession, r *http.Request) {
	u := s.subscriptions.byID[session.Subscription]
	switch {
	case u == nil || !u.EndedAt.IsZero():
	case session.Flow == "subscription_cancel":
		s.setCancel(u, true)
	case s.prices.byID[r.PostForm.Get("price")] != nil:
		u.Price = r.PostForm.Get("price")
		s.updated(u)
	}
}

func (s *Account) showReceipt(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.charges.byID[r.PathValue("charge")]
	if p == nil {
		notFound(w)
		return
	}
	render(w, http.StatusOK, "receipt.html", p.receipt())
}

func (p *payment) receipt() receipt {
	out := receipt{
		Date: date(p.created), For: p.description, Amount: dollars(p.amount), Kept: dollars(p.amount - p.refunded),
		Email: p.email, URL: "/receipts/" + p.charge,
	}
	if p.refunded > 0 {
		out.Refunded = dollars(p.refunded)
	}
	return out
}

func (s *Account) productName(price string) string {
	return s.products.byID[s.prices.byID[price].product].name
}

func dollars(cents int64) string { return fmt.Sprintf("$%d.%02d", cents/100, cents%100) }

func date(t time.Time) string { return t.UTC().Format("2 Jan 2006") }
