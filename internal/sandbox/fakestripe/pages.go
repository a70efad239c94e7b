package fakestripe

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"time"
)

// merchant is the business whose account it is.
const merchant = "Field Notes"

//go:embed pages
var pageFiles embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{"merchant": func() string { return merchant }}).ParseFS(pageFiles, "pages/*.html"))

func (s *Account) handlePages() {
	s.mux.HandleFunc("GET /c/pay/{session}", s.showCheckout)
	s.mux.HandleFunc("POST /c/pay/{session}", s.postCheckout)
	s.mux.HandleFunc("GET /p/session/{session}", s.portal(s.showPortal))
	s.mux.HandleFunc("POST /p/session/{session}", s.portal(s.postPortal))
	s.mux.HandleFunc("GET /receipts/{id}", s.showReceipt)
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
	cardForm
	Title, Button, CancelURL, Email   string
	EmailFixed, Recurring, Promotions bool
	Subtotal, Discount, Price, Total  string // Price: once or every month; Total: now
	TrialDays                         int
	PercentOff                        int64
	Promotion                         string // the code that is applied
	RefusedPromotion, PromotionError  string // the one that is not, and why
	Items                             []checkoutItem
}

type checkoutItem struct {
	LineItem
	Name, Description, Each, Amount string
	Adjustable                      *quantities // nil: the buyer cannot choose how many
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

func (s *Account) checkoutPage(c *checkoutSession) *checkoutPage {
	full, off := s.amounts(c.promotion, c.LineItems...)
	due, dueOff := s.due(c, c.LineItems...)
	p := &checkoutPage{
		CancelURL: c.CancelURL, Email: s.email(c), EmailFixed: s.email(c) != "", Recurring: c.Mode == "subscription", TrialDays: c.trialDays(),
		Subtotal: dollars(full), Discount: dollars(off), Price: dollars(full - off), Total: dollars(due - dueOff),
		Promotions: c.request.on("allow_promotion_codes"), Promotion: c.promotion, PercentOff: promotions[c.promotion],
	}
	for i, item := range c.LineItems {
		price := s.prices.byID[item.Price]
		of := s.products.byID[price.product]
		p.Items = append(p.Items, checkoutItem{item, of.name, of.description, dollars(price.unitAmount), dollars(item.Quantity * price.unitAmount), c.adjustable(i)})
	}
	switch {
	case p.TrialDays > 0:
		p.Title, p.Button = "Try "+p.Items[0].Name, "Start trial"
	case p.Recurring:
		p.Title, p.Button = "Subscribe to "+p.Items[0].Name, "Subscribe"
	default:
		p.Title, p.Button = "Buy "+p.Items[0].Name, "Pay "+p.Total
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
	changed, promotionError := s.changeOrder(c, r)
	p := s.checkoutPage(c)
	p.cardForm = typed(r.PostForm)
	if !p.EmailFixed {
		p.Email = strings.TrimSpace(r.PostForm.Get("email"))
	}
	again := func(status int) { render(w, status, "checkout.html", p) }
	address, err := mail.ParseAddress(p.Email)
	switch {
	case promotionError != "":
		p.PromotionError, p.RefusedPromotion = promotionError, r.PostForm.Get("promotion")
		again(http.StatusUnprocessableEntity)
	case changed:
		again(http.StatusOK)
	case err != nil || address.Address != p.Email:
		p.refuse("email", "Please enter an e-mail address.")
		again(http.StatusUnprocessableEntity)
	default:
		amount := p.Total
		if p.TrialDays > 0 {
			amount = ""
		}
		if taken, ok := s.takeCard(w, r, &p.cardForm, amount, again); ok {
			return s.complete(c, buyer{p.Email, p.Name, p.Country, taken}, true), c.successURL(), true
		}
	}
	return nil, "", false
}

// changeOrder reports whether the buyer was not about to pay but to change the
// order, and what is wrong with the promotion code.
func (s *Account) changeOrder(c *checkoutSession, r *http.Request) (changed bool, promotionError string) {
	for i := range c.LineItems {
		item := &c.LineItems[i]
		n, err := strconv.ParseInt(r.PostForm.Get("quantity-"+item.ID), 10, 64)
		if of := c.adjustable(i); of != nil && err == nil {
			n = min(of.Most, max(of.Least, n))
			changed, item.Quantity = changed || n != item.Quantity, n
		}
	}
	if r.PostForm.Has("remove") {
		c.promotion = ""
		return true, ""
	}
	code := strings.ToUpper(strings.TrimSpace(r.PostForm.Get("promotion")))
	switch {
	case !c.request.on("allow_promotion_codes") || code == "" && !r.PostForm.Has("apply"):
		return changed || r.PostForm.Has("update"), ""
	case promotions[code] == 0:
		return true, "This code is invalid."
	}
	c.promotion = code
	return true, ""
}

func (s *Account) showReceipt(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, n := s.charges.byID[r.PathValue("id")], s.invoices.byID[r.PathValue("id")]
	if p != nil && p.invoice != "" {
		n = s.invoices.byID[p.invoice]
	}
	var out receipt
	switch {
	case n != nil:
		out = s.invoiceReceipt(n)
	case p != nil:
		out = p.receipt()
	default:
		notFound(w)
		return
	}
	out.Back = r.Referer() // the portal, or the site
	render(w, http.StatusOK, "receipt.html", out)
}

type receipt struct {
	Title, Number, Date, For, Status                  string
	Full, Discount, Credit, Amount, Refunded, Charged string // "": none
	Email, Last4, URL, Back                           string
	at                                                time.Time
}

func (p *payment) receipt() receipt {
	out := receipt{
		Title: "Receipt", Date: date(p.created), For: p.description, Status: "Paid", Full: dollars(p.amount + p.discount), Discount: some(p.discount),
		Amount: dollars(p.amount), Refunded: some(p.refunded), Charged: dollars(p.amount - p.refunded),
		Email: p.email, Last4: p.card.last4, URL: "/receipts/" + p.charge, at: p.created,
	}
	if p.refunded > 0 {
		out.Status = "Refunded"
	}
	return out
}

func (s *Account) invoiceReceipt(n *invoice) receipt {
	out := receipt{Status: "Open", Charged: dollars(0), Email: s.customers.byID[n.customer].Email}
	if n.payment != nil && n.payment.charge != "" {
		out = n.payment.receipt()
	} else if n.paid {
		out.Status = "Paid"
	}
	out.Title, out.Number, out.URL = "Invoice", n.number, "/receipts/"+n.id
	out.at, out.Date, out.For = n.created, date(n.created), s.named(n.price, n.quantity)+n.about
	out.Full, out.Discount, out.Credit, out.Amount = dollars(n.amount+n.credit+n.discount), some(n.discount), some(n.credit), dollars(n.amount)
	return out
}

// receipts are a Customer's, newest first.
func (s *Account) receipts(customer string) (all []receipt) {
	for p := range s.charges.all {
		if p.customer == customer && p.invoice == "" {
			all = append(all, p.receipt())
		}
	}
	for n := range s.invoices.all {
		if n.customer == customer {
			all = append(all, s.invoiceReceipt(n))
		}
	}
	slices.SortStableFunc(all, func(a, b receipt) int { return a.at.Compare(b.at) })
	slices.Reverse(all)
	return all
}

func (s *Account) productName(price string) string {
	return s.products.byID[s.prices.byID[price].product].name
}

// named is a product and how many of it.
func (s *Account) named(price string, quantity int64) string {
	if quantity > 1 {
		return fmt.Sprintf("%s × %d", s.productName(price), quantity)
	}
	return s.productName(price)
}

func dollars(cents int64) string { return fmt.Sprintf("$%d.%02d", cents/100, cents%100) }

// some is an amount, "" for nothing.
func some(cents int64) string {
	if cents == 0 {
		return ""
	}
	return dollars(cents)
}

func date(t time.Time) string { return t.UTC().Format("2 Jan 2006") }
