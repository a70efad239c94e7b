package fakestripe

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// testCard is a card that the pages take. Any other number is refused and not
// shown again, so that nobody's real one is ever sent back.
// https://docs.stripe.com/testing#cards
type testCard struct {
	Number, Does string
	brand        string
	refusal      string // what the bank says; "": it pays
	secure       bool   // not without 3-D Secure
}

var testCards = []testCard{
	{Number: "4242 4242 4242 4242", Does: "pays", brand: "Visa"},
	{Number: "5555 5555 5555 4444", Does: "pays", brand: "Mastercard"},
	{Number: "4000 0025 0000 3155", Does: "asks for 3-D Secure", brand: "Visa", secure: true},
	{Number: "4000 0000 0000 0002", Does: "is declined", refusal: "Your card was declined. Please try another one."},
	{Number: "4000 0000 0000 9995", Does: "has insufficient funds", refusal: "Your card has insufficient funds."},
	{Number: "4000 0000 0000 0069", Does: "has expired", refusal: "Your card has expired."},
	{Number: "4000 0000 0000 0127", Does: "has an incorrect CVC", refusal: "Your card's security code is incorrect."},
}

// card is one that was taken.
type card struct {
	id, brand, last4 string // id "": no payment method of its own
	month, year      int
}

// firstCard pays for what is not paid on a page.
var firstCard = card{brand: "Visa", last4: "4242", month: 12, year: 2034}

func (c card) json() object {
	return object{"brand": strings.ToLower(c.brand), "last4": c.last4, "exp_month": c.month, "exp_year": c.year, "country": "US", "funding": "credit"}
}

func (c card) String() string {
	return fmt.Sprintf("%s ending in %s, expires %02d/%02d", c.brand, c.last4, c.month, c.year%100)
}

// cardForm is what a buyer has typed, and what is wrong with it.
type cardForm struct {
	Card, Expiry, CVC, Name, Country string
	Invalid, Error                   string // the field to look at, and why
}

func typed(form url.Values) cardForm {
	text := func(name string) string { return strings.TrimSpace(form.Get(name)) }
	return cardForm{Card: text("card"), Expiry: text("expiry"), CVC: text("cvc"), Name: text("name"), Country: text("country")}
}

// TestCards are for the page, which names them.
func (cardForm) TestCards() []testCard { return testCards }

// Countries are those that the page offers, Stripe's are some 200.
func (cardForm) Countries() []country { return countries }

type country struct{ Code, Name string }

var countries = []country{
	{"US", "United States"}, {"AU", "Australia"}, {"AT", "Austria"}, {"BE", "Belgium"}, {"BR", "Brazil"}, {"CA", "Canada"}, {"DK", "Denmark"},
	{"FI", "Finland"}, {"FR", "France"}, {"DE", "Germany"}, {"IN", "India"}, {"IE", "Ireland"}, {"IT", "Italy"}, {"JP", "Japan"}, {"MX", "Mexico"},
	{"NL", "Netherlands"}, {"NZ", "New Zealand"}, {"NO", "Norway"}, {"PL", "Poland"}, {"PT", "Portugal"}, {"SG", "Singapore"}, {"ES", "Spain"},
	{"SE", "Sweden"}, {"CH", "Switzerland"}, {"GB", "United Kingdom"},
}

func (f *cardForm) refuse(field, why string) { f.Invalid, f.Error = field, why }

var (
	expiry = regexp.MustCompile(`^(0?[1-9]|1[0-2]) ?/? ?(?:20)?(\d\d)$`)
	cvc    = regexp.MustCompile(`^\d{3}$`)
)

// takeCard returns the card that was typed, once its bank has agreed to the
// amount, "" if there is none yet. If it cannot be taken, the request is answered:
// by the bank's own page, or by again, with which the form says why.
func (s *Account) takeCard(w http.ResponseWriter, r *http.Request, f *cardForm, amount string, again func(status int)) (card, bool) {
	digits := strings.NewReplacer(" ", "", "-", "").Replace(f.Card)
	i := slices.IndexFunc(testCards, func(c testCard) bool { return strings.ReplaceAll(c.Number, " ", "") == digits })
	var month, year int
	date := expiry.FindStringSubmatch(f.Expiry)
	if date != nil {
		month, _ = strconv.Atoi(date[1])
		year, _ = strconv.Atoi("20" + date[2])
	}
	status, answer := http.StatusUnprocessableEntity, r.PostForm.Get("3ds")
	switch {
	case i < 0 && len(digits) < 12:
		f.refuse("card", "Your card number is incomplete.")
	case i < 0:
		f.Card = ""
		f.refuse("card", "The sandbox takes only the test cards that this page names.")
	case date == nil:
		f.refuse("expiry", "Your card's expiration date is incomplete.")
	case time.Date(year, time.Month(month)+1, 1, 0, 0, 0, 0, time.UTC).Before(s.o.Now()):
		f.refuse("expiry", "Your card's expiration date is in the past.")
	case !cvc.MatchString(f.CVC):
		f.refuse("cvc", "Your card's security code is incomplete.")
	case f.Name == "":
		f.refuse("name", "Please enter the name on the card.")
	case testCards[i].refusal != "":
		status = http.StatusPaymentRequired
		f.refuse("card", testCards[i].refusal)
	case testCards[i].secure && answer == "":
		render(w, http.StatusOK, "secure.html", map[string]any{"For": amount, "Last4": digits[12:], "Typed": r.PostForm})
		return card{}, false
	case testCards[i].secure && answer != "Complete":
		status = http.StatusPaymentRequired
		f.refuse("card", "We are unable to authenticate your payment method. Please choose a different payment method and try again.")
	default:
		return card{brand: testCards[i].brand, last4: digits[12:], month: month, year: year}, true
	}
	again(status)
	return card{}, false
}
