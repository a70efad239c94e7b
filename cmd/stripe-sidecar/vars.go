package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/upstream"
)

// The types of the variables. Each checks itself when envconfig decodes it, and
// none quotes a value in its error that could be a secret in the wrong place.

// secret is a key.
type secret struct{ upstream.Secret }

func (s *secret) Decode(value string) error {
	value = strings.TrimSpace(value)
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("holds white space or letters that no key has: paste it again")
	}
	if strings.HasSuffix(value, "...") || strings.ContainsAny(value, `"'`) {
		return errors.New("is a placeholder, or has quotation marks in it: put the key itself there")
	}
	s.Secret = upstream.NewSecret(value)
	return nil
}

// secrets is a comma-separated list of webhook secrets.
type secrets []upstream.Secret

func (s *secrets) Decode(value string) error {
	var entries list
	_ = entries.Decode(value)
	for _, entry := range entries {
		var one secret
		if err := one.Decode(entry); err != nil {
			return err
		}
		if !strings.HasPrefix(entry, "whsec_") || entry == "whsec_" {
			return errors.New("is not a signing secret: one begins with whsec_ and stands beside the endpoint in the dashboard")
		}
		*s = append(*s, one.Secret)
	}
	return nil
}

// baseURL is an http or https URL to which paths are appended.
type baseURL struct{ url.URL }

func (b *baseURL) Decode(value string) error {
	u, err := url.Parse(strings.TrimRight(strings.TrimSpace(value), "/"))
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("is not a URL: write https://host or http://host:port")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("has more than scheme, host and path: write https://host or http://host:port")
	case strings.HasSuffix(u.Path, "/v1"):
		return errors.New("is the URL of one API: leave " + u.Path + " out")
	}
	b.URL = *u
	return nil
}

// private reports whether the host is on this machine or in a private network,
// where http will do: names without a dot are those of containers.
func (b baseURL) private() bool {
	host := strings.ToLower(b.Hostname())
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback() || ip.IsPrivate()
	}
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") ||
		strings.HasSuffix(host, ".local") || strings.HasSuffix(host, ".internal")
}

// list is a comma-separated list.
type list []string

func (l *list) Decode(value string) error {
	for entry := range strings.SplitSeq(value, ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			*l = append(*l, entry)
		}
	}
	return nil
}

// sites are the origins that are served.
type sites struct{ api.Sites }

func (s *sites) Decode(value string) (err error) {
	s.Sites, err = api.ParseSites(value)
	return err
}

// prefixes are addresses and ranges in CIDR notation, comma-separated.
type prefixes []netip.Prefix

func (p *prefixes) Decode(value string) error {
	var entries list
	_ = entries.Decode(value)
	for i, entry := range entries {
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			addr, err := netip.ParseAddr(entry)
			if err != nil {
				return fmt.Errorf("entry %d is neither an address nor a range: write 10.0.0.0/8 or 10.1.2.3, say", i+1)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if prefix.Bits() == 0 {
			return fmt.Errorf("entry %d is every address there is, so that any caller could invent theirs: name the proxies", i+1)
		}
		*p = append(*p, prefix.Masked())
	}
	return nil
}

// identifier is the name of a table or column as PostgreSQL takes it unquoted.
type identifier string

var identifierPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

func (i *identifier) Decode(value string) error {
	value = strings.TrimSpace(value)
	if !identifierPattern.MatchString(value) {
		return errors.New("is not the name of a table or column: use letters, digits and _ only, without the schema")
	}
	*i = identifier(value)
	return nil
}

// ours tells whether the schema has a table of that name, whatever the configuration.
func (i identifier) ours() bool { return i == "stripe_settings" || i == "stripe_deleted_users" }

// cookieName is a cookie's name: https://www.rfc-editor.org/rfc/rfc6265#section-4.1.1
var cookieName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// priceOrLookupKey is the ID of a Price, or a lookup key as people write them; not
// the ID of another object, nor a key.
// https://docs.stripe.com/api/prices/object#price_object-lookup_key
var priceOrLookupKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}$`)

var otherObject = regexp.MustCompile(`^(prod|cus|sub|si|in|pi|ch|bpc|whsec|sk|rk|pk|sb)_`)

// supabaseRole returns the role that a Supabase key was made for, "" when the
// key does not tell. https://supabase.com/docs/guides/api/api-keys
func supabaseRole(key string) string {
	switch {
	case strings.HasPrefix(key, "sb_publishable_"):
		return "anon"
	case strings.HasPrefix(key, "sb_secret_"):
		return "service_role"
	default:
		parts := strings.Split(key, ".")
		if len(parts) != 3 {
			return ""
		}
		claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
		var role struct{ Role string }
		_ = json.Unmarshal(claims, &role)
		return role.Role
	}
}
