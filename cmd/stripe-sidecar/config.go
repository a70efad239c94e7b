package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
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
		return "must be debug, info, warn or error"
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
	unread := maps.Clone(m)
	key, anonKey, jwtSecret := c.StripeSecretKey.Reveal(), c.SupabaseAnonKey.Reveal(), c.SupabaseJWTSecret.Reveal()
	secretKey := strings.HasPrefix(key, "sk_") || strings.HasPrefix(key, "rk_")
	anonRole, serviceRole := supabaseRole(anonKey), supabaseRole(c.SupabaseServiceRoleKey.Reveal())
	_, signed := jwt.Parse(anonKey, func(*jwt.Token) (any, error) { return []byte(jwtSecret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithoutClaimsValidation())
	othersSecret := errors.Is(signed, jwt.ErrTokenSignatureInvalid) && strings.Count(anonKey, ".") == 2
	host := c.SupabaseURL.Hostname()
	_, signInKnown := signInModes[c.CheckoutRequireSignIn]
	_, cookieOptions := auth.ParseCookieOptions(c.SupabaseCookieOptions, c.cookieName())
	for _, wrong := range []struct {
		variable string
		is       bool
		text     string
	}{
		{"STRIPE_SECRET_KEY", key == "", "is not set: take it from https://dashboard.stripe.com/apikeys"},
		{"SUPABASE_URL", host == "", "is not set: take it from the project's settings, API"},
		{"SUPABASE_ANON_KEY", anonKey == "", "is not set: take it from the project's settings, API keys"},
		{"SUPABASE_SERVICE_ROLE_KEY", c.SupabaseServiceRoleKey.Reveal() == "", "is not set: take it from the project's settings, API keys"},

		{"ADMIN_PORT", c.AdminPort != 0 && c.AdminPort == c.Port, "is the same as PORT: leave it out, or choose another"},
		{"STRIPE_SECRET_KEY", strings.HasPrefix(key, "pk_"), "is a publishable key, which can create nothing: use the secret key, sk_…"},
		{"STRIPE_SECRET_KEY", key != "" && !secretKey && !strings.HasPrefix(key, "pk_"), "is not a secret key: one begins with sk_ or, restricted, with rk_"},
		{"STRIPE_API_BASE", c.live() && c.StripeAPIBase != (baseURL{}), "would send a live key to another server than Stripe's: unset it, or use a test key"},
		{"SITE_ORIGINS", c.live() && c.SiteOrigins.Any(), "is not set, but the key is a live one, and buyers could be sent to any site: name yours, https://example.com say"},
		{"SITE_ORIGINS", c.live() && !c.SiteOrigins.Any() && !c.SiteOrigins.Secure(),
			"has a site of http, but the key is a live one, and sessions and buyers would cross the network in the open: https://example.com say"},
		{"SUPABASE_URL", c.SupabaseURL.Scheme == "http" && !c.SupabaseURL.private(), "is http to a host elsewhere, and keys and sessions would cross the network in the open: use https"},
		{"SUPABASE_URL", host == "supabase.com" || host == "app.supabase.com", "is the dashboard's address: use the project's own, https://<ref>.supabase.co"},
		{"SUPABASE_ANON_KEY", anonRole != "" && anonRole != "anon", "is a " + anonRole + " key: use the anon key, or sb_publishable_…"},
		{"SUPABASE_SERVICE_ROLE_KEY", serviceRole != "" && serviceRole != "service_role",
			"is a key of the role " + serviceRole + ", which cannot read the customers table: use the service role key, or sb_secret_…"},
		{"SUPABASE_JWT_SECRET", jwtSecret != "" && len(jwtSecret) < 32, "has fewer than 32 characters, which no project's has: take it from the project's settings, JWT keys"},
		{"SUPABASE_JWT_SECRET", len(jwtSecret) >= 32 && othersSecret, "did not sign SUPABASE_ANON_KEY: one of the two is another project's, or an old one"},
		{"SUPABASE_COOKIE_NAME", !cookieName.MatchString(c.cookieName()), "is not the name of a cookie: set it to the site's cookieOptions.name"},
		{"SUPABASE_COOKIE_OPTIONS", cookieOptions != nil, fmt.Sprint(cookieOptions)},
		{"CHECKOUT_REQUIRE_SIGN_IN", !signInKnown, "must be none, subscription or all"},
		{"CHECKOUT_TRIAL_DAYS", c.CheckoutTrialDays > 730, "is over 730, the most that Stripe allows"},
		{"PORTAL_CONFIGURATION", c.PortalConfiguration != "" && !strings.HasPrefix(c.PortalConfiguration, "bpc_"), "is not a portal configuration: one begins with bpc_"},
		{"CUSTOMERS_CUSTOMER_COLUMN", c.CustomersUserColumn == c.CustomersCustomerColumn, "is the same column as CUSTOMERS_USER_COLUMN: a user's ID and a Customer's need one each"},
		{"CUSTOMERS_TABLE", c.CustomersTable.ours(), "is the name of a table of the schema too: each table needs its own"},
		{"SUBSCRIPTIONS_TABLE", c.SubscriptionsTable.ours(), "is the name of a table of the schema too: each table needs its own"},
		{"SUBSCRIPTIONS_TABLE", c.SubscriptionsTable == c.CustomersTable, "is the name of CUSTOMERS_TABLE too: each table needs its own"},
		{"PURCHASES_TABLE", c.PurchasesTable.ours(), "is the name of a table of the schema too: each table needs its own"},
		{"PURCHASES_TABLE", c.PurchasesTable == c.CustomersTable, "is the name of CUSTOMERS_TABLE too: each table needs its own"},
		{"PURCHASES_TABLE", c.PurchasesTable == c.SubscriptionsTable, "is the name of SUBSCRIPTIONS_TABLE too: each table needs its own"},
		{"USER_DELETED", !slices.Contains([]string{billing.KeepCustomer, billing.CancelSubscriptions, billing.DeleteCustomer}, c.UserDeleted), "must be keep, cancel or delete"},
		{"UPSTREAM_TIMEOUT", c.UpstreamTimeout <= 0, "must be longer than 0"},
		{"UPSTREAM_TIMEOUT", c.UpstreamTimeout > time.Minute, "is over 60s, longer than any caller waits"},
		{"SHUTDOWN_TIMEOUT", c.ShutdownTimeout <= 0, "must be longer than 0"},
		{"LOG_FORMAT", !slices.Contains([]string{"", "json", "text"}, c.LogFormat), "is neither json nor text"},
	} {
		if wrong.is && unread[wrong.variable] == nil {
			m.add(wrong.variable, wrong.text)
		}
	}
	for i, price := range c.AllowedPrices {
		switch {
		case strings.HasPrefix(price, "prod_"):
			m.add("ALLOWED_PRICES", fmt.Sprintf("entry %d is a product: list its prices, price_…", i+1))
		case !priceOrLookupKey.MatchString(price) || otherObject.MatchString(price):
			m.add("ALLOWED_PRICES", fmt.Sprintf("entry %d is neither a price, price_…, nor a lookup key", i+1))
		}
	}
	c.checkParams(m)
}

// warnings are for a configuration that works but may not be what was meant.
func (c config) warnings() []string {
	var w []string
	unrecorded := len(c.StripeWebhookSecret) == 0
	for _, odd := range []struct {
		is   bool
		text string
	}{
		{c.SiteOrigins.Any(), "SITE_ORIGINS is not set: buyers may be sent to any site, and no other site's pages can call this service"},
		{c.live() && len(c.AllowedPrices) == 0, "ALLOWED_PRICES is not set: every active price of the account can be bought, old ones and private offers too"},
		{unrecorded, "STRIPE_WEBHOOK_SECRET is not set: what is bought is not written to the site's database"},
		{unrecorded && c.ClaimGuestPurchases, "CLAIM_GUEST_PURCHASES is set without STRIPE_WEBHOOK_SECRET: nothing is claimed"},
	} {
		if odd.is {
			w = append(w, odd.text)
		}
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

// mode is what Stripe calls it.
func (c config) mode() string {
	if c.live() {
		return "live"
	}
	return "test"
}

// signInModes are the modes of a purchase that a guest cannot make, by what
// CHECKOUT_REQUIRE_SIGN_IN says.
var signInModes = map[string][]string{
	"none":         nil,
	"subscription": {billing.ModeSubscription},
	"all":          {billing.ModePayment, billing.ModeSubscription},
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
