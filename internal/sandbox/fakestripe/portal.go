package fakestripe

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
)

type portalPage struct {
	Email, Name, Card, Credit, ReturnURL string
	Subscriptions                        []portalSubscription
	Receipts                             []receipt
}

type portalSubscription struct{ ID, Name, Price, State, Action string }

// The names of the portal's buttons are what they send.
const (
	actionCancel = "Cancel subscription"
	actionResume = "Resume subscription"
)

// portal is a page of the billing portal, of the session that its address names.
func (s *Account) portal(page func(w http.ResponseWriter, r *http.Request, session *PortalSession)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		session := s.portals.byID[r.PathValue("session")]
		if session == nil {
			notFound(w)
			return
		}
		page(w, r, session)
	}
}

func (s *Account) showPortal(w http.ResponseWriter, r *http.Request, session *PortalSession) {
	if flow := s.flowPage(session, r.URL.Query()); flow != nil {
		render(w, http.StatusOK, "flow.html", flow)
		return
	}
	c := s.customers.byID[session.Customer]
	p := portalPage{Email: c.Email, Name: c.Name, Credit: some(c.credit), ReturnURL: session.ReturnURL, Receipts: s.receipts(c.ID)}
	if c.card.last4 != "" {
		p.Card = c.card.String()
	}
	for u := range s.subscriptions.all {
		if u.Customer == session.Customer {
			state, action := u.state()
			p.Subscriptions = append(p.Subscriptions, portalSubscription{u.ID, s.named(u.Price, u.Quantity), dollars(s.perMonth(u, u.Price)), state, action})
		}
	}
	slices.Reverse(p.Subscriptions)
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

func (s *Account) postPortal(w http.ResponseWriter, r *http.Request, session *PortalSession) {
	if flow := s.flowPage(session, r.URL.Query()); flow != nil {
		if s.finishFlow(w, r, session.Customer, flow) {
			http.Redirect(w, r, flow.BackURL, http.StatusSeeOther)
		}
		return
	}
	u := s.subscriptions.byID[cmp.Or(r.PostForm.Get("subscription"), session.Subscription, r.URL.Query().Get("subscription"))]
	if u == nil || u.Customer != session.Customer {
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
	cardForm
	Title, Text, Button string
	Back, BackURL       string
	AsksCard            bool
	Plans               []plan // to choose from
	kind                string
	of                  *subscription
}

type plan struct{ ID, Name, Price, Note string }

// flowPage is the step that the session was made for or, with none, the one that
// was chosen on the portal's first page; nil for that page itself.
// https://docs.stripe.com/customer-management/portal-deep-links
func (s *Account) flowPage(session *PortalSession, q url.Values) *flowPage {
	p := &flowPage{kind: session.Flow, of: s.subscriptions.byID[session.Subscription], Back: "Return to the site", BackURL: session.ReturnURL}
	if p.kind == "" {
		p.kind, p.of, p.Back, p.BackURL = q.Get("flow"), s.subscriptions.byID[q.Get("subscription")], "Back to billing", session.URL
	}
	if p.kind == "payment_method_update" {
		p.Title, p.Button, p.AsksCard = "Change your card", "Save card", true
		return p
	}
	u := p.of
	if u == nil || u.Customer != session.Customer || !u.EndedAt.IsZero() {
		return nil
	}
	switch p.kind {
	case "subscription_cancel":
		p.Title, p.Text, p.Button = "Cancel "+s.productName(u.Price), "It ends on "+date(u.CurrentPeriodEnd)+".", actionCancel
	case "subscription_update":
		p.Title, p.Button = "Change "+s.productName(u.Price), "Change subscription"
		for price := range s.prices.all {
			if price.interval != "" && !price.inactive && !price.metered && price.id != u.Price {
				p.Plans = append(p.Plans, plan{price.id, s.named(price.id, u.Quantity), dollars(s.perMonth(u, price.id)), s.note(u, price.id)})
			}
		}
	default:
		return nil
	}
	return p
}

// note says what a change of price means for the money.
func (s *Account) note(u *subscription, price string) string {
	until := date(u.CurrentPeriodEnd)
	amount := s.proration(u, price)
	credit := min(amount, s.customers.byID[u.Customer].credit)
	switch {
	case u.Status == "trialing":
		return "Free until " + until + ", as before."
	case amount > 0 && credit == amount:
		return "Nothing today; " + dollars(amount) + ", the difference for the time until " + until + ", comes off your credit."
	case amount > 0 && credit > 0:
		return dollars(amount-credit) + " today, the difference for the time until " + until + " less your credit of " + dollars(credit) + "."
	case amount > 0:
		return dollars(amount) + " today, the difference for the time until " + until + "."
	case amount < 0:
		return "Nothing today; " + dollars(-amount) + ", the difference for the time until " + until + ", comes off your next invoice."
	}
	return "Nothing today; from " + until + " on."
}

// finishFlow does what a step is for and reports whether it is done; if not it
// has answered.
func (s *Account) finishFlow(w http.ResponseWriter, r *http.Request, customer string, p *flowPage) bool {
	price := r.PostForm.Get("price")
	switch {
	case p.AsksCard:
		p.cardForm = typed(r.PostForm)
		taken, ok := s.takeCard(w, r, &p.cardForm, "", func(status int) { render(w, status, "flow.html", p) })
		if !ok {
			return false
		}
		c := s.customers.byID[customer]
		taken.id = newID("pm_", 24)
		c.card = taken
		s.emit("payment_method.attached", c.paymentMethodJSON())
		s.emit("customer.updated", c.json())
	case p.kind == "subscription_cancel":
		s.setCancel(p.of, true)
	case slices.ContainsFunc(p.Plans, func(of plan) bool { return of.ID == price }):
		s.changePlan(p.of, price)
	}
	return true
}
