package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/term"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/customers"
	"8space.app/stripe-sidecar/internal/upstream"
)

const (
	readTimeout = 10 * time.Second // for a whole request, its body included
	// stopDelay is how long a service that was told to stop goes on taking
	// requests while /readyz already says no, so that a load balancer that has
	// not noticed yet loses none.
	stopDelay = time.Second
)

// serve runs the service until ctx ends and the requests in flight are done.
// All of its parts are put together here, and nothing is asked of the network
// before the first request.
func serve(ctx context.Context, c config, in invocation) error {
	logs := in.stderr
	logger := newLogger(c, logs)
	tracing, err := newTracing(ctx, logger)
	if err != nil {
		return misuse(err.Error())
	}
	registry := prometheus.NewRegistry()
	network := upstream.New(upstream.Config{Registry: registry, Around: tracing.transport})

	users := authConfig(c, network)
	users.Logger = logger
	authenticator, err := auth.New(users)
	if err != nil {
		return err
	}
	bill := billing.New(billingConfig(c, network), customers.New(customersConfig(c, network)))
	var ready atomic.Bool
	most := boundsFor(memoryLimit())
	handler, probes := api.New(api.Config{
		Auth:            authenticator,
		Billing:         bill,
		Webhook:         len(c.StripeWebhookSecret) > 0,
		Logger:          logger,
		Registry:        registry,
		Sites:           c.SiteOrigins.Sites,
		Prices:          len(c.AllowedPrices) > 0,
		SignInModes:     signInModes[c.CheckoutRequireSignIn],
		TrustedProxies:  api.Proxies(c.TrustedProxies),
		UpstreamTimeout: c.UpstreamTimeout,
		RatePerMinute:   int(c.RateLimitPerMinute),
		MaxInFlight:     most.requests,
		MaxEvents:       most.events,
		ProbesApart:     c.AdminPort != 0,
		Ready:           ready.Load,
		Answered:        tracing.answered,

		ClaimGuestPurchases: c.ClaimGuestPurchases,
	})

	server := &http.Server{
		Handler:                      leaving(&ready, tracing.handler(handler)),
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 readTimeout + c.UpstreamTimeout + 5*time.Second,
		IdleTimeout:                  30 * time.Second,
		MaxHeaderBytes:               256 << 10, // room for more cookies than are read, which is answered in JSON
		DisableGeneralOptionsHandler: true,      // OPTIONS * is answered as any other path
		ErrorLog:                     slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	listener, err := listen(c.Host, c.Port, "PORT")
	if err != nil {
		return err
	}
	served := make(chan error, 2)
	addr := []any{"addr", listener.Addr().String()}
	if c.AdminPort != 0 {
		admin, err := listen(c.Host, c.AdminPort, "ADMIN_PORT")
		if err != nil {
			return err
		}
		addr = append(addr, "admin_addr", admin.Addr().String())
		probing := &http.Server{Handler: probes, ReadTimeout: readTimeout, WriteTimeout: readTimeout, ErrorLog: server.ErrorLog}
		defer probing.Close() // last, so that /readyz answers for as long as the service stops
		go func() { served <- probing.Serve(admin) }()
	}
	for _, warning := range c.warnings() {
		logger.Warn(warning)
	}
	ready.Store(true)
	logger.Info("listening", append(addr, "version", versionString())...)

	if isTerminal(logs) {
		fmt.Fprintln(logs, c.banner(listener.Addr()))
	}

	// Without webhooks and at its default this would only count, in tables that the
	// site may not have.
	if len(c.StripeWebhookSecret) > 0 || c.UserDeleted != billing.KeepCustomer {
		go settleDeletedUsers(ctx, bill, registry, logger)
	}

	fair := &fairListener{Listener: listener, proxies: api.Proxies(c.TrustedProxies), shares: &api.Shares{Each: most.perClient, All: most.connections}}
	go func() { served <- server.Serve(netutil.LimitListener(fair, most.connections)) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ready.Store(false)
	logger.Info("stopping")
	time.Sleep(min(stopDelay, c.ShutdownTimeout))
	// Not from ctx, which has ended: requests outlive the signal.
	stopCtx, cancel := context.WithTimeout(context.Background(), c.ShutdownTimeout)
	defer cancel()
	if err := server.Shutdown(stopCtx); err != nil {
		_ = server.Close()
		return fmt.Errorf("requests were still in flight after SHUTDOWN_TIMEOUT (%s)", c.ShutdownTimeout)
	}
	if err := tracing.stop(stopCtx); err != nil {
		logger.Warn("the last traces could not be sent", "err", err)
	}
	logger.Info("stopped")
	return nil
}

// leaving has callers with open connections look for another replica while the
// service stops. Connections are not closed before they are answered, or idle at the
// end: a proxy may be sending a request on one that it takes for open.
func leaving(ready *atomic.Bool, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ready.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// listen opens a port, which is that of a variable.
func listen(host string, port uint16, variable string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address(host, port))
	var op *net.OpError
	if errors.As(err, &op) {
		return nil, fmt.Errorf("listen on port %d: %w: set another %s or HOST", port, op.Err, variable)
	}
	return listener, err
}

func authConfig(c config, network *upstream.Network) auth.Config {
	cookie, _ := auth.ParseCookieOptions(c.SupabaseCookieOptions, c.cookieName()) // checked with the rest
	proxies := api.Proxies(c.TrustedProxies)
	return auth.Config{
		Cookie:     cookie,
		RequireMFA: c.PortalRequireMFA,
		Client:     proxies.Client,
		Secure:     func(r *http.Request) bool { return c.SiteOrigins.Secure() || proxies.Secure(r) },
		URL:        c.SupabaseURL.String(),
		AnonKey:    c.SupabaseAnonKey.Secret,
		JWTSecret:  c.SupabaseJWTSecret.Secret,
		CookieName: c.cookieName(),
		Network:    network,
		Timeout:    c.UpstreamTimeout,
	}
}

func customersConfig(c config, network *upstream.Network) customers.Config {
	return customers.Config{
		URL:            c.SupabaseURL.String(),
		ServiceRoleKey: c.SupabaseServiceRoleKey.Secret,
		Table:          string(c.CustomersTable),
		UserColumn:     string(c.CustomersUserColumn),
		CustomerColumn: string(c.CustomersCustomerColumn),
		Subscriptions:  string(c.SubscriptionsTable),
		Purchases:      string(c.PurchasesTable),
		Network:        network,
	}
}

func billingConfig(c config, network *upstream.Network) billing.Config {
	return billing.Config{
		SecretKey:           c.StripeSecretKey.Secret,
		APIBase:             c.StripeAPIBase.String(),
		LiveMode:            c.live(),
		Network:             network,
		WebhookSecrets:      c.StripeWebhookSecret,
		PromotionCodes:      c.CheckoutPromotionCodes,
		AutomaticTax:        c.CheckoutAutomaticTax,
		TaxIDCollection:     c.CheckoutTaxIDCollection,
		TrialDays:           int64(c.CheckoutTrialDays),
		OneSubscription:     c.CheckoutOneSubscription,
		PortalConfiguration: c.PortalConfiguration,
		UserDeleted:         c.UserDeleted,
		Prices:              c.AllowedPrices,
		Params:              url.Values(c.CheckoutParams),
		PaymentParams:       url.Values(c.CheckoutPaymentParams),
		SubscriptionParams:  url.Values(c.CheckoutSubscriptionParams),
	}
}

func newLogger(c config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "text" || c.LogFormat == "" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// banner is what somebody at a terminal wants to know of a service that has begun.
func (c config) banner(listens net.Addr) string {
	host, port, _ := net.SplitHostPort(listens.String())
	if ip := net.ParseIP(host); ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		host = "localhost"
	}
	webhooks := "on"
	if len(c.StripeWebhookSecret) == 0 {
		webhooks = "off"
	}
	return fmt.Sprintf("stripe-sidecar at http://%s, %s mode, webhooks %s", net.JoinHostPort(host, port), c.mode(), webhooks)
}

// healthcheck asks the service of the same configuration whether it serves, for
// images without a shell or curl.
func healthcheck(_ context.Context, c config, _ invocation) error {
	host := c.Host
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	client := http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get("http://" + address(host, cmp.Or(c.AdminPort, c.Port)) + "/healthz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
