package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/go-envparse"
	"github.com/kelseyhightower/envconfig"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
)

// config is the environment. Its fields are exported for envconfig, and so that
// fmt and slog reach the methods with which a secret hides itself.
type config struct {
	Port      uint16 `envconfig:"PORT" default:"8080" desc:"where to listen; 0 picks a free port"`
	Host      string `envconfig:"HOST" desc:"address to listen on; all when unset"`
	AdminPort uint16 `envconfig:"ADMIN_PORT" default:"0" desc:"a port of their own for /healthz, /readyz and /metrics; 0 for PORT"`

	StripeSecretKey     secret  `envconfig:"STRIPE_SECRET_KEY" desc:"required: sk_… or a restricted rk_…"`
	StripeWebhookSecret secrets `envconfig:"STRIPE_WEBHOOK_SECRET" desc:"whsec_…; several, comma-separated, while one is replaced; no webhook route when unset"`
	StripeAPIBase       baseURL `envconfig:"STRIPE_API_BASE" desc:"another base URL for a mock of Stripe; never with a live key"`

	SupabaseURL            baseURL `envconfig:"SUPABASE_URL" desc:"required: https://<ref>.supabase.co, or a custom or local URL"`
	SupabaseAnonKey        secret  `envconfig:"SUPABASE_ANON_KEY" desc:"required: the anon key or sb_publishable_…"`
	SupabaseServiceRoleKey secret  `envconfig:"SUPABASE_SERVICE_ROLE_KEY" desc:"required: the service role key or sb_secret_…"`
	SupabaseJWTSecret      secret  `envconfig:"SUPABASE_JWT_SECRET" desc:"the legacy HS256 secret, to verify such tokens locally"`
	SupabaseCookieName     string  `envconfig:"SUPABASE_COOKIE_NAME" desc:"for sites that set cookieOptions.name; sb-<first label of SUPABASE_URL's host>-auth-token when unset"`

	SupabaseCookieOptions string `envconfig:"SUPABASE_COOKIE_OPTIONS" desc:"for sites that set cookieOptions: domain=.example.com; secure; samesite=strict; httponly"`

	SiteOrigins   sites `envconfig:"SITE_ORIGINS" desc:"the sites served: origins or https://*.example.com, comma-separated; required with a live key"`
	AllowedPrices list  `envconfig:"ALLOWED_PRICES" desc:"Price IDs or lookup keys that may be bought, comma-separated; any when unset"`

	CheckoutRequireSignIn   string `envconfig:"CHECKOUT_REQUIRE_SIGN_IN" default:"none" desc:"none, subscription or all: what a guest cannot buy"`
	CheckoutPromotionCodes  bool   `envconfig:"CHECKOUT_PROMOTION_CODES" default:"true" desc:"let buyers enter promotion codes"`
	CheckoutAutomaticTax    bool   `envconfig:"CHECKOUT_AUTOMATIC_TAX" default:"false" desc:"Stripe Tax"`
	CheckoutTaxIDCollection bool   `envconfig:"CHECKOUT_TAX_ID_COLLECTION" default:"false" desc:"let businesses enter their tax ID"`
	CheckoutTrialDays       uint16 `envconfig:"CHECKOUT_TRIAL_DAYS" default:"0" desc:"free days before a subscription is charged, up to 730"`
	CheckoutOneSubscription bool   `envconfig:"CHECKOUT_ONE_SUBSCRIPTION" default:"false" desc:"a subscriber gets the billing portal instead of a second subscription"`

	CheckoutParams             checkoutParams `envconfig:"CHECKOUT_PARAMS" desc:"form-encoded parameters for every Checkout Session: locale=auto&submit_type=book"`
	CheckoutPaymentParams      checkoutParams `envconfig:"CHECKOUT_PAYMENT_PARAMS" desc:"likewise, for those in payment mode"`
	CheckoutSubscriptionParams checkoutParams `envconfig:"CHECKOUT_SUBSCRIPTION_PARAMS" desc:"likewise, for those in subscription mode"`

	PortalRequireMFA    bool   `envconfig:"PORTAL_REQUIRE_MFA" default:"false" desc:"the portal wants the second factor of users who have one"`
	PortalConfiguration string `envconfig:"PORTAL_CONFIGURATION" desc:"bpc_…; the account's default when unset"`

	CustomersTable          identifier `envconfig:"CUSTOMERS_TABLE" default:"customers" desc:"table of users and their Stripe Customers"`
	CustomersUserColumn     identifier `envconfig:"CUSTOMERS_USER_COLUMN" default:"id" desc:"its column with the user's ID"`
	CustomersCustomerColumn identifier `envconfig:"CUSTOMERS_CUSTOMER_COLUMN" default:"stripe_customer_id" desc:"its column with the Customer's ID"`
	SubscriptionsTable      identifier `envconfig:"SUBSCRIPTIONS_TABLE" default:"subscriptions" desc:"where that name is taken: run the schema that is printed then"`
	PurchasesTable          identifier `envconfig:"PURCHASES_TABLE" default:"purchases" desc:"likewise"`

	ClaimGuestPurchases bool `envconfig:"CLAIM_GUEST_PURCHASES" default:"false" desc:"sync gives a user what was bought as a guest with their confirmed address"`

	UserDeleted string `envconfig:"USER_DELETED" default:"keep" desc:"when a user is deleted: keep their subscriptions, cancel them, or delete the Customer"`

	RateLimitPerMinute uint16        `envconfig:"RATE_LIMIT_PER_MINUTE" default:"60" desc:"requests to the POST endpoints per client address; 0 for no limit"`
	TrustedProxies     prefixes      `envconfig:"TRUSTED_PROXIES" default:"127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7" desc:"whose X-Forwarded-For is believed, addresses or CIDR, comma-separated"`
	UpstreamTimeout    time.Duration `envconfig:"UPSTREAM_TIMEOUT" default:"15s" desc:"deadline of one request's work at Stripe and Supabase together"`
	ShutdownTimeout    time.Duration `envconfig:"SHUTDOWN_TIMEOUT" default:"20s" desc:"how long a stop waits for requests in flight"`
	LogLevel           slog.Level    `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`
	LogFormat          string        `envconfig:"LOG_FORMAT" desc:"json or text; when unset json, and text on a terminal"`
}

// loadConfig reads and checks the environment. Its error names every mistake,
// a line each, and holds no value of a secret.
func loadConfig() (config, error) {
	var c config
	mistakes := mistakes{}
	v := reflect.ValueOf(&c).Elem()
	for i, field := range variables() {
		name := field.Tag.Get("envconfig")
		// An empty variable is an unset one: compose files and templates of .env
		// are full of NAME= lines.
		if strings.TrimSpace(os.Getenv(name)) == "" {
			_ = os.Unsetenv(name)
		}
		// envconfig stops at the first value that it cannot read, so each
		// variable is read in a struct of its own.
		if quoted(os.Getenv(name)) {
			mistakes.add(name, "stands in quotation marks, which are part of it here: leave them out")
			continue
		}
		one := reflect.New(reflect.StructOf([]reflect.StructField{field}))
		if err := envconfig.Process("", one.Interface()); err != nil {
			mistakes.add(name, explain(field.Type, err))
			continue
		}
		v.Field(i).Set(one.Elem().Field(0))
		if decoder, ok := v.Field(i).Addr().Interface().(envconfig.Decoder); ok && isSecret(field.Type) {
			if err := fromFile(name, decoder); err != nil {
				mistakes.add(name, err.Error())
			}
		}
	}
	c.check(mistakes)
	if len(mistakes) > 0 {
		return c, mistakes
	}
	return c, nil
}

// variables are the fields of config in their order.
func variables() []reflect.StructField {
	return reflect.VisibleFields(reflect.TypeFor[config]())
}

func isSecret(t reflect.Type) bool {
	return t == reflect.TypeFor[secret]() || t == reflect.TypeFor[secrets]()
}

// maxSecretFile is in bytes; the longest secret is a token of some hundred.
const maxSecretFile = 64 << 10

// fromFile reads a secret from the file that NAME_FILE names, if it does, as
// orchestrators mount them. No error of it holds what the file does.
func fromFile(name string, into envconfig.Decoder) error {
	path := strings.TrimSpace(os.Getenv(name + "_FILE"))
	if path == "" {
		return nil
	}
	if os.Getenv(name) != "" {
		return errors.New("is set, and " + name + "_FILE too: unset one of them")
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot be read from %s_FILE: %w", name, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	switch {
	case err != nil:
		return fmt.Errorf("cannot be read from %s_FILE: %w", name, err)
	case len(content) > maxSecretFile:
		return fmt.Errorf("is over %d bytes in the file of %s_FILE: that is not a secret", maxSecretFile, name)
	case strings.TrimSpace(string(content)) == "":
		return fmt.Errorf("is empty in the file of %s_FILE", name)
	}
	return into.Decode(strings.TrimRight(string(content), " \t\r\n"))
}

func quoted(value string) bool {
	value = strings.TrimSpace(value)
	return len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0]
}

// readEnvFile puts the variables of a file of NAME=value lines into the environment,
// which wins where it has them itself; an empty one counts as unset.
func readEnvFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	variables, err := envparse.Parse(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for name, value := range variables {
		if strings.TrimSpace(os.Getenv(name)) == "" {
			if err := os.Setenv(name, value); err != nil {
				return fmt.Errorf("%s: %s: %w", path, name, err)
			}
		}
	}
	return nil
}

// strangers are the variables in the environment that look as if they were for this
// service and are not, sorted.
func strangers() []string {
	known := map[string]bool{}
	for _, field := range variables() {
		name := field.Tag.Get("envconfig")
		known[name], known[name+"_FILE"] = true, isSecret(field.Type)
	}
	var found []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		ours := slices.ContainsFunc([]string{"STRIPE_", "SUPABASE_", "CHECKOUT_", "CUSTOMERS_", "PORTAL_"}, func(prefix string) bool {
			return strings.HasPrefix(name, prefix)
		})
		if ours && !known[name] {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// explain says what a value should have been. envconfig's own text would quote
// the value.
func explain(t reflect.Type, err error) string {
	switch t {
	case reflect.TypeFor[uint16]():
		return "is not a number from 0 to 65535"
	case reflect.TypeFor[bool]():
		return "is neither true nor false"
	case reflect.TypeFor[time.Duration]():
		return "is not a duration: write 15s or 500ms, say"
	case reflect.TypeFor[slog.Level]():
		return "is none of debug, info, warn and error"
	}
	var parse *envconfig.ParseError
	if errors.As(err, &parse) {
		err = parse.Err
	}
	return err.Error()
}

// mistakes are the mistakes in the configuration by variable.
type mistakes map[string][]string

func (m mistakes) add(name, text string) { m[name] = append(m[name], text) }

// lines are the mistakes, "VARIABLE what is wrong", in the order of the variables.
func (m mistakes) lines() []string {
	var lines []string
	for _, field := range variables() {
		name := field.Tag.Get("envconfig")
		for _, text := range m[name] {
			for line := range strings.Lines(text) {
				lines = append(lines, name+" "+strings.TrimSpace(line))
			}
		}
	}
	return lines
}

func (m mistakes) Error() string {
	return "stripe-sidecar cannot start with this configuration:\n  " + strings.Join(m.lines(), "\n  ")
}

// check finds what is wrong with values that could be read, and between them.
func (c config) check(m mistakes) {
	required := func(name string, set bool, remedy string) {
		if !set && len(m[name]) == 0 {
			m.add(name, "is not set: "+remedy)
		}
	}
	required("STRIPE_SECRET_KEY", c.StripeSecretKey.Reveal() != "", "take it from https://dashboard.stripe.com/apikeys")
	required("SUPABASE_URL", c.SupabaseURL.Host != "", "take it from the project's settings, API")
	required("SUPABASE_ANON_KEY", c.SupabaseAnonKey.Reveal() != "", "take it from the project's settings, API keys")
	required("SUPABASE_SERVICE_ROLE_KEY", c.SupabaseServiceRoleKey.Reveal() != "", "take it from the project's settings, API keys")

	if c.AdminPort != 0 && c.AdminPort == c.Port {
		m.add("ADMIN_PORT", "is the same as PORT: leave it out, or choose another")
	}
	switch key := c.StripeSecretKey.Reveal(); {
	case key == "":
	case strings.HasPrefix(key, "pk_"):
		m.add("STRIPE_SECRET_KEY", "is a publishable key, which can create nothing: use the secret key, sk_…")
	case !strings.HasPrefix(key, "sk_") && !strings.HasPrefix(key, "rk_"):
		m.add("STRIPE_SECRET_KEY", "is not a secret key: one begins with sk_ or, restricted, with rk_")
	case c.live() && c.StripeAPIBase != (baseURL{}):
		m.add("STRIPE_API_BASE", "would send a live key to another server than Stripe's: unset it, or use a test key")
	}
	if c.live() && c.SiteOrigins.Any() && len(m["SITE_ORIGINS"]) == 0 {
		m.add("SITE_ORIGINS", "is not set, but the key is a live one, and buyers could be sent to any site: name yours, https://example.com say")
	}
	if c.live() && !c.SiteOrigins.Any() && !c.SiteOrigins.Secure() {
		m.add("SITE_ORIGINS", "has a site of http, but the key is a live one, and sessions and buyers would cross the network in the open: https://example.com say")
	}
	if u := c.SupabaseURL; u.Scheme == "http" && !u.private() {
		m.add("SUPABASE_URL", "is http to a host elsewhere, and keys and sessions would cross the network in the open: use https")
	}
	if host := c.SupabaseURL.Hostname(); host == "supabase.com" || host == "app.supabase.com" {
		m.add("SUPABASE_URL", "is the dashboard's address: use the project's own, https://<ref>.supabase.co")
	}
	for i, price := range c.AllowedPrices {
		switch {
		case strings.HasPrefix(price, "prod_"):
			m.add("ALLOWED_PRICES", fmt.Sprintf("entry %d is a product: list its prices, price_…", i+1))
		case !priceOrLookupKey.MatchString(price) || otherObject.MatchString(price):
			m.add("ALLOWED_PRICES", fmt.Sprintf("entry %d is neither a price, price_…, nor a lookup key", i+1))
		}
	}
	switch role := supabaseRole(c.SupabaseAnonKey); role {
	case "", "anon":
	default:
		m.add("SUPABASE_ANON_KEY", "is a "+role+" key: use the anon key, or sb_publishable_…")
	}
	switch role := supabaseRole(c.SupabaseServiceRoleKey); role {
	case "", "service_role":
	default:
		m.add("SUPABASE_SERVICE_ROLE_KEY", "is a key of the role "+role+", which cannot read the customers table: use the service role key, or sb_secret_…")
	}
	if secret := c.SupabaseJWTSecret.Reveal(); secret != "" {
		_, err := jwt.Parse(c.SupabaseAnonKey.Reveal(), func(*jwt.Token) (any, error) { return []byte(secret), nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithoutClaimsValidation())
		switch {
		case len(secret) < 32:
			m.add("SUPABASE_JWT_SECRET", "has fewer than 32 characters, which no project's has: take it from the project's settings, JWT keys")
		case errors.Is(err, jwt.ErrTokenSignatureInvalid) && strings.Count(c.SupabaseAnonKey.Reveal(), ".") == 2:
			m.add("SUPABASE_JWT_SECRET", "did not sign SUPABASE_ANON_KEY: one of the two is another project's, or an old one")
		}
	}
	if !cookieName.MatchString(c.cookieName()) {
		m.add("SUPABASE_COOKIE_NAME", "is not the name of a cookie: set it to the site's cookieOptions.name")
	}
	if _, err := auth.ParseCookieOptions(c.SupabaseCookieOptions, c.cookieName()); err != nil {
		m.add("SUPABASE_COOKIE_OPTIONS", err.Error())
	}
	if !slices.Contains([]string{"none", "subscription", "all"}, c.CheckoutRequireSignIn) {
		m.add("CHECKOUT_REQUIRE_SIGN_IN", "is none of none, subscription and all")
	}
	c.checkParams(m)
	if c.CheckoutTrialDays > 730 {
		m.add("CHECKOUT_TRIAL_DAYS", "is over 730, the most that Stripe allows")
	}
	if p := c.PortalConfiguration; p != "" && !strings.HasPrefix(p, "bpc_") {
		m.add("PORTAL_CONFIGURATION", "is not a portal configuration: one begins with bpc_")
	}
	if c.CustomersUserColumn == c.CustomersCustomerColumn && c.CustomersUserColumn != "" {
		m.add("CUSTOMERS_CUSTOMER_COLUMN", "is the same column as CUSTOMERS_USER_COLUMN: a user's ID and a Customer's need one each")
	}
	c.checkTables(m)
	if d := c.UserDeleted; d != billing.KeepCustomer && d != billing.CancelSubscriptions && d != billing.DeleteCustomer {
		m.add("USER_DELETED", "is none of keep, cancel and delete")
	}
	for name, d := range map[string]time.Duration{"UPSTREAM_TIMEOUT": c.UpstreamTimeout, "SHUTDOWN_TIMEOUT": c.ShutdownTimeout} {
		if d <= 0 && len(m[name]) == 0 {
			m.add(name, "must be longer than 0")
		}
	}
	if c.UpstreamTimeout > time.Minute {
		m.add("UPSTREAM_TIMEOUT", "is over 60s, longer than any caller waits")
	}
	if c.LogFormat != "" && c.LogFormat != "json" && c.LogFormat != "text" {
		m.add("LOG_FORMAT", "is neither json nor text")
	}
}

// warnings are for a configuration that works but may not be what was meant.
func (c config) warnings() []string {
	var w []string
	if c.SiteOrigins.Any() {
		w = append(w, "SITE_ORIGINS is not set: buyers may be sent to any site, and no other site's pages can call this service")
	}
	if c.live() && len(c.AllowedPrices) == 0 {
		w = append(w, "ALLOWED_PRICES is not set: every active price of the account can be bought, old ones and private offers too")
	}
	if len(c.StripeWebhookSecret) == 0 {
		w = append(w, "STRIPE_WEBHOOK_SECRET is not set: what is bought is not written to the site's database")
	}
	if c.ClaimGuestPurchases && len(c.StripeWebhookSecret) == 0 {
		w = append(w, "CLAIM_GUEST_PURCHASES is set without STRIPE_WEBHOOK_SECRET: nothing is claimed")
	}
	for _, name := range strangers() {
		w = append(w, name+" is not a variable of this service: stripe-sidecar -h lists them")
	}
	return w
}

// live reports whether real money moves. A key that does not say test is live.
func (c config) live() bool {
	key := c.StripeSecretKey.Reveal()
	return (strings.HasPrefix(key, "sk_") || strings.HasPrefix(key, "rk_")) &&
		!strings.HasPrefix(key[3:], "test_")
}

// signInModes are the modes of a purchase that a guest cannot make.
func (c config) signInModes() []string {
	switch c.CheckoutRequireSignIn {
	case "subscription":
		return []string{billing.ModeSubscription}
	case "all":
		return []string{billing.ModePayment, billing.ModeSubscription}
	}
	return nil
}

// cookieName is the cookie in which the site's @supabase/ssr keeps the session.
func (c config) cookieName() string {
	if c.SupabaseCookieName != "" {
		return c.SupabaseCookieName
	}
	label, _, _ := strings.Cut(strings.ToLower(c.SupabaseURL.Hostname()), ".")
	return "sb-" + label + "-auth-token"
}

// address is a port at a host, which may be written as [::1].
func address(host string, port uint16) string {
	return net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(int(port)))
}

// usage prints the commands and the table of variables.
func usage(w io.Writer) {
	fmt.Fprint(w, `stripe-sidecar sells and manages with Stripe for a site on Supabase.

  stripe-sidecar serve        answer requests; also without any argument
  stripe-sidecar doctor       check the set-up against the real Stripe and Supabase, a line
                              each with the remedy; --json for machines; exit 0 or 1
  stripe-sidecar webhook URL  have Stripe send its events to URL, which ends in
                              /api/stripe/webhook: print the secret of a new endpoint, or
                              mend the events of the one that is there
  stripe-sidecar sync [ID]    write subscriptions and purchases anew for every Customer,
                              or for those of the users after one with this ID
  stripe-sidecar schema       print the SQL for the site's database, with the tables of this
                              configuration; it needs no other variable
  stripe-sidecar healthcheck  ask the running service whether it serves; exit 0 or 1
  stripe-sidecar version
  stripe-sidecar -h

All configuration is in the environment; -env-file FILE, before the command, adds the
NAME=value lines of a file to it. Each secret may come from a file of its own instead,
which NAME_FILE names:

`)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, field := range variables() {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", field.Tag.Get("envconfig"), field.Tag.Get("default"), field.Tag.Get("desc"))
	}
	_ = table.Flush()
}
