package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

// document is as much of an OpenAPI document as the test below reads.
type document struct {
	Paths      map[string]map[string]operation
	Components struct {
		Schemas   map[string]schema
		Responses map[string]response
	}
}

type operation struct {
	RequestBody struct{ Content map[string]media } `yaml:"requestBody"`
	Responses   map[string]response
}

type response struct {
	Ref     string `yaml:"$ref"`
	Headers map[string]any
	Content map[string]media
}

type media struct {
	Schema   schema
	Example  map[string]any
	Examples map[string]struct{ Value map[string]any }
}

type schema struct {
	Ref        string `yaml:"$ref"`
	Type       any    // one, or several
	Required   []string
	Properties map[string]schema
	Items      *schema
}

// differs says where a value is not of a schema, "" if it is. JSON's numbers are
// whole ones here.
func (d document) differs(s schema, value any, at string) string {
	if s.Ref != "" {
		s = d.Components.Schemas[s.Ref[strings.LastIndex(s.Ref, "/")+1:]]
	}
	kind := map[string]string{"string": "string", "float64": "integer", "bool": "boolean", "[]interface {}": "array", "map[string]interface {}": "object", "<nil>": "null"}[fmt.Sprintf("%T", value)]
	if types := fmt.Sprint(s.Type); !slices.Contains(strings.Fields(strings.Trim(types, "[]")), kind) {
		return fmt.Sprintf("%s is %s; want %s", at, kind, types)
	}
	switch value := value.(type) {
	case []any:
		for i, v := range value {
			if s.Items != nil {
				if text := d.differs(*s.Items, v, fmt.Sprintf("%s[%d]", at, i)); text != "" {
					return text
				}
			}
		}
	case map[string]any:
		if names := sorted(slices.Collect(maps.Keys(value))); s.Required != nil && !slices.Equal(names, s.Required) {
			return fmt.Sprintf("%s has the fields %v; want %v", at, names, s.Required)
		}
		for name, property := range s.Properties {
			if text := d.differs(property, value[name], at+"."+name); text != "" {
				return text
			}
		}
	}
	return ""
}

// TestOpenAPI holds the document to the code: the same routes, request fields,
// statuses, answer fields and error texts. Every status in the document is
// brought about here, and every text it shows as an example.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	var doc document
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}

	var documented []string
	for path, operations := range doc.Paths {
		for method := range operations {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	if got, want := sorted(documented), sorted(api.Routes()); !slices.Equal(got, want) {
		t.Errorf("routes in openapi.yaml = %v; want %v", got, want)
	}
	if got, want := sorted(documentedFields(doc)), sorted(fieldsInCode(t)); !slices.Equal(got, want) {
		t.Errorf("request fields in openapi.yaml = %v; want %v", got, want)
	}

	sites, err := api.ParseSites("https://8space.app")
	if err != nil {
		t.Fatal(err)
	}
	ready := true
	w := start(t, func(s *settings) {
		s.api.Sites = sites
		s.billing.Prices = []string{"price_pro_monthly", "price_lifetime", "price_1234567890"}
		s.api.Ready = func() bool { return ready }
		s.api.MaxInFlight = 1
		s.api.MaxEvents = 1
		s.api.RatePerMinute = 1
		s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)}
	})
	_, session := w.signUp("ada@example.com")
	_, newcomer := w.signUp("eve@example.com")

	seen := map[string]map[string]bool{} // "POST /path 200" -> error texts, "" for none
	check := func(method, path string, got answer) {
		t.Helper()
		key := fmt.Sprintf("%s %s %d", method, path, got.status)
		if seen[key] == nil {
			seen[key] = map[string]bool{}
		}
		seen[key][got.field("error")] = true

		r, ok := doc.Paths[path][strings.ToLower(method)].Responses[fmt.Sprint(got.status)]
		if !ok {
			t.Errorf("%s is not in openapi.yaml: %s", key, got.body)
			return
		}
		r = resolve(doc, r)
		contentType := got.header.Get("Content-Type")
		m, ok := r.Content[contentType]
		if !ok {
			t.Errorf("%s answers %s; want one of openapi.yaml's %v", key, contentType, slices.Collect(maps.Keys(r.Content)))
		}
		if contentType == "application/json" {
			var value any
			if err := json.Unmarshal([]byte(got.body), &value); err != nil {
				t.Errorf("%s = %s; want JSON", key, got.body)
			}
			if text := doc.differs(m.Schema, value, key); text != "" {
				t.Error(text)
			}
		}
		for name := range r.Headers {
			if got.header.Get(name) == "" {
				t.Errorf("%s has no header %s; want it, as openapi.yaml says", key, name)
			}
		}
	}

	send := func(method, path, body string, headers ...string) {
		t.Helper()
		check(method, path, w.do(method, path, body, headers...))
	}

	const checkout, portal, synced = "/api/stripe/create-checkout", "/api/stripe/create-portal", "/api/stripe/sync"
	buy := func(field, value string) string {
		body := map[string]any{}
		if err := json.Unmarshal([]byte(buyPro), &body); err != nil {
			t.Fatal(err)
		}
		body[field] = json.RawMessage(value)
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	flow := func(flow, subscription string) string {
		return fmt.Sprintf(`{"returnUrl":"https://8space.app/account","flow":%q,"subscription":%q}`, flow, subscription)
	}
	send("POST", checkout, buyPro)
	send("POST", checkout, buyPro, session...)
	send("POST", checkout, ``)
	send("POST", checkout, `{}`)
	for _, body := range []string{buy("priceId", `1`), buy("cancelUrl", `""`), buy("mode", `""`), buy("quantity", `0`), buy("successUrl", `"x"`),
		buy("successUrl", `"https://evil.example"`), buy("priceId", `"price_x"`), buy("priceId", `"price_1234567890"`)} {
		send("POST", checkout, body)
	}
	send("POST", checkout, strings.Repeat(" ", 65<<10))
	for path, body := range map[string]string{checkout: buyPro, portal: openPortal, synced: ""} {
		send("POST", path, body, "Cookie", "x="+strings.Repeat("x", 64<<10))
	}
	send("POST", checkout, buyPro, "Origin", "https://evil.example")
	closed := start(t, func(s *settings) { s.api.SignInModes = []string{"subscription"} })
	check("POST", checkout, closed.checkout(buyPro))

	send("POST", portal, openPortal, session...)
	send("POST", portal, openPortal)
	send("POST", portal, openPortal, newcomer...)
	for _, body := range []string{``, `{}`, `{"returnUrl":1}`, `{"returnUrl":"x"}`, `{"returnUrl":"https://evil.example"}`, flow("x", ""), flow("subscription_cancel", ""), strings.Repeat(" ", 65<<10)} {
		send("POST", portal, body, session...)
	}
	for range 2 {
		w.stripe.AddSubscription(w.customersSold()[1], "price_pro_monthly", "active")
	}
	send("POST", portal, flow("subscription_cancel", ""), session...)
	send("POST", portal, flow("subscription_cancel", "sub_other"), session...)
	send("POST", portal, openPortal, "Origin", "https://evil.example")

	for _, body := range []string{buyPro, buyOnce} {
		w.checkout(body, session...)
		sold := w.stripe.CheckoutSessions()
		w.stripe.PayCheckout(sold[len(sold)-1].ID)
	}
	send("POST", synced, "", session...)
	send("POST", synced, "", newcomer...)
	send("POST", synced, "")
	send("POST", synced, strings.Repeat(" ", 65<<10), session...)
	send("POST", synced, "", "Origin", "https://evil.example")

	const hook = "/api/stripe/webhook"
	check("POST", hook, w.deliver(`{"id":"evt_1","type":"price.created"}`, whsec, time.Now()))
	check("POST", hook, w.deliver(`{"id":"evt_2","type":"customer.subscription.updated","data":{"object":{"id":"sub_unknown"}}}`, whsec, time.Now()))
	check("POST", hook, w.deliver(`{"id":"evt_2","type":"customer.subscription.updated","data":{"object":{}}}`, whsec, time.Now()))
	send("POST", hook, `{}`)
	send("POST", hook, strings.Repeat(" ", 1<<20+1))
	send("POST", hook, `{}`, "Origin", "https://evil.example")

	for _, path := range []string{checkout, portal, synced} {
		w.do("POST", path, `{}`, "X-Forwarded-For", "203.0.113.7")
		send("POST", path, `{}`, "X-Forwarded-For", "203.0.113.7")
	}

	// Stripe, then the customers table, then Auth fail; then the load is too high.
	fail := func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(500); return true }
	w.stripe.Intercept(stripeAnswers("/v1/billing_portal/sessions", 400, `{"error":{"type":"invalid_request_error","message":"No such price: 'price_1234567890'"}}`))
	send("POST", portal, openPortal, session...)
	w.stripe.Intercept(stripeAnswers("/v1/checkout/sessions", 401, `{}`))
	send("POST", checkout, buyPro)
	w.stripe.Intercept(stripeAnswers("/v1/billing_portal/sessions", 401, `{}`))
	send("POST", portal, openPortal, session...)
	for status, body := range map[int]string{400: `{"error":{"type":"invalid_request_error","message":"No such price: 'price_1234567890'"}}`, 401: `{}`} {
		w.stripe.Intercept(stripeAnswers("/v1/subscriptions", status, body))
		send("POST", synced, "", session...)
	}
	w.stripe.Intercept(nil)
	for _, prefix := range []string{"/rest/", "/auth/"} {
		w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
			return strings.HasPrefix(r.URL.Path, prefix) && fail(rw, r)
		})
		send("POST", checkout, buyPro, session...)
		send("POST", portal, openPortal, session...)
		send("POST", synced, "", session...)
	}
	send("POST", checkout, buyPro, bearer(fakesupabase.New(fakesupabase.Options{JWTSecret: "a secret that only Auth knows, 32+"}).Sign(map[string]any{
		"sub": "6f1f4e0e-0000-4000-8000-000000000000", "aud": "authenticated", "exp": 99999999999}))...)
	w.supabase.Intercept(nil)

	arrived, release := make(chan struct{}), make(chan struct{})
	w.stripe.Intercept(func(http.ResponseWriter, *http.Request) bool { close(arrived); <-release; return false })
	held := make(chan answer)
	go func() { held <- w.checkout(buyPro) }()
	<-arrived
	send("POST", checkout, buyPro)
	send("POST", portal, openPortal, session...)
	send("POST", synced, "", session...)
	close(release)
	<-held
	w.stripe.Intercept(nil)
	arrived, release = make(chan struct{}), make(chan struct{})
	w.supabase.Intercept(func(http.ResponseWriter, *http.Request) bool { close(arrived); <-release; return false })
	go func() {
		held <- w.deliver(`{"id":"evt_3","type":"customer.subscription.updated","data":{"object":{"id":"sub_unknown"}}}`+strings.Repeat(" ", 1000<<10), whsec, time.Now())
	}()
	<-arrived
	w.supabase.Intercept(nil)
	send("POST", hook, `{}`)
	close(release)
	<-held

	const priced = "/api/stripe/prices"
	w.stripe.Intercept(stripeAnswers("/v1/prices/price_pro_monthly", 500, `{}`))
	send("GET", priced, "")
	w.stripe.Intercept(nil)
	lent := start(t, func(s *settings) {
		s.billing.Prices = []string{"pro_monthly", "price_lifetime"}
		s.api.MaxInFlight = 1
	})
	check("GET", priced, lent.do("GET", priced, ""))
	arrived, release = make(chan struct{}), make(chan struct{})
	lent.stripe.Intercept(func(http.ResponseWriter, *http.Request) bool { close(arrived); <-release; return false })
	go func() { held <- lent.checkout(buyOnce) }()
	<-arrived
	check("GET", priced, lent.do("GET", priced, ""))
	close(release)
	<-held

	send("GET", "/api/stripe/buttons.js", "")
	send("GET", "/api/stripe/openapi.yaml", "")
	send("GET", "/metrics", "")
	send("GET", "/healthz", "")
	send("GET", "/readyz", "")
	ready = false
	send("GET", "/readyz", "")

	for path, operations := range doc.Paths {
		for method, o := range operations {
			for status, r := range o.Responses {
				key := strings.ToUpper(method) + " " + path + " " + status
				texts := seen[key]
				if texts == nil {
					t.Errorf("%s is in openapi.yaml; want it brought about by this test", key)
				}
				for _, m := range resolve(doc, r).Content {
					examples := []map[string]any{m.Example}
					for _, e := range m.Examples {
						examples = append(examples, e.Value)
					}
					for _, e := range examples {
						if text, _ := e["error"].(string); text != "" && !texts[text] {
							t.Errorf("%s: openapi.yaml shows %q; want a text the service answers, one of %q", key, text, slices.Collect(maps.Keys(texts)))
						}
					}
				}
			}
		}
	}
}

func resolve(doc document, r response) response {
	if r.Ref == "" {
		return r
	}
	return doc.Components.Responses[r.Ref[strings.LastIndex(r.Ref, "/")+1:]]
}

func documentedFields(doc document) []string {
	var names []string
	for _, operations := range doc.Paths {
		for _, o := range operations {
			for _, m := range o.RequestBody.Content {
				for name, property := range m.Schema.Properties {
					names = append(names, fmt.Sprint(name, " ", property.Type))
				}
			}
		}
	}
	return names
}

// fieldsInCode finds the fields that handlers read, b.text("name", …), and their types.
func fieldsInCode(t *testing.T) []string {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	types := map[string]string{"text": "string", "whole": "integer"}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`\bb\.(\w+)\("(\w+)"`).FindAllStringSubmatch(string(source), -1) {
			names = append(names, match[2]+" "+types[match[1]])
		}
	}
	return names
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }
