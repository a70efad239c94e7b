package api

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/publicsuffix"
)

// Sites are the origins that the service serves. One list decides three things:
// who may call from a browser (CORS), whose requests pass the cross-origin
// protection, and where a buyer may be sent back to. The zero Sites allows
// every return URL and no cross-origin caller.
type Sites struct {
	exact     map[string]bool // scheme://host[:port]
	wildcards []wildcard
}

// wildcard is https://*.example.com: any host below example.com, not itself.
type wildcard struct{ scheme, dotDomain, port string }

// ParseSites reads a comma-separated list of exact origins and origins of the
// form https://*.example.com. All mistakes are reported at once.
func ParseSites(list string) (Sites, error) {
	s := Sites{exact: map[string]bool{}}
	var mistakes []error
	for i, entry := range strings.Split(list, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		if err := s.add(entry); err != nil {
			// The entry is not quoted: it can be a secret in the wrong place.
			mistakes = append(mistakes, fmt.Errorf("entry %d %w", i+1, err))
		}
	}
	return s, errors.Join(mistakes...)
}

func (s *Sites) add(entry string) error {
	if entry == "*" {
		return errors.New("would let every site on the internet in: name the sites, or https://*.example.com for all below one domain")
	}
	scheme, rest, ok := strings.Cut(entry, "://")
	if !ok {
		return errors.New("has no scheme: write https://example.com, say")
	}
	rest, isWildcard := strings.CutPrefix(rest, "*.")
	if strings.Contains(rest, "*") {
		return errors.New("has a * elsewhere than before the first dot: only https://*.example.com is understood")
	}
	o, u, err := originOf(scheme + "://" + rest)
	switch {
	case err != nil || u.User != nil || u.Path != "" || strings.ContainsAny(rest, "?#"):
		return errors.New("is not an origin: write scheme://host or scheme://host:port and nothing behind it, not even a /; commas separate several")
	case strings.ContainsFunc(o.host, beyondASCII):
		return errors.New("must be written as browsers send it, with xn-- for letters beyond ASCII")
	case !isWildcard:
		s.exact[o.String()] = true
	default:
		if _, err := netip.ParseAddr(strings.Trim(o.host, "[]")); err == nil {
			return errors.New("is a wildcard over an IP address, which has no subdomains")
		}
		if suffix, _ := publicsuffix.PublicSuffix(o.host); suffix == o.host {
			return errors.New("takes in domains that belong to anybody, as below com or vercel.app: name the domain, https://*.example.com say")
		}
		s.wildcards = append(s.wildcards, wildcard{o.scheme, "." + o.host, o.port})
	}
	return nil
}

// Any reports whether no list was given, so that any return URL is accepted.
func (s Sites) Any() bool { return len(s.exact) == 0 && len(s.wildcards) == 0 }

// Secure reports whether there are sites, and all of them are reached over https.
func (s Sites) Secure() bool {
	for site := range s.exact {
		if !strings.HasPrefix(site, "https:") {
			return false
		}
	}
	return !s.Any() && !slices.ContainsFunc(s.wildcards, func(w wildcard) bool { return w.scheme != "https" })
}

// AllowsOrigin reports whether the value of an Origin header is one of the sites.
func (s Sites) AllowsOrigin(header string) bool {
	if s.exact[header] { // as browsers write it
		return true
	}
	o, u, err := originOf(header)
	return err == nil && u.Path == "" && u.RawQuery == "" && s.allows(o)
}

func (s Sites) allows(o origin) bool {
	// Browsers map letters beyond ASCII, some of them to / # ? or nothing.
	if strings.ContainsFunc(o.host, beyondASCII) {
		return false
	}
	if s.exact[o.String()] {
		return true
	}
	for _, w := range s.wildcards {
		sub, ok := strings.CutSuffix(o.host, w.dotDomain)
		if ok && o.scheme == w.scheme && o.port == w.port && !strings.Contains("."+sub+".", "..") {
			return true
		}
	}
	return false
}

const maxURL = 5000 // characters, Stripe's own limit

// field is a field of a request and what it says.
type field struct{ name, value string }

// checkURLs checks the URLs that a buyer is sent to: first whether each is one,
// then whether it is on an allowed site.
func (s Sites) checkURLs(fields ...field) error {
	var elsewhere error // of the first that is a URL, but of another site
	for _, f := range fields {
		o, u, err := originOf(f.value)
		if err != nil || utf8.RuneCountInString(f.value) > maxURL {
			return badRequest(f.name + " must be a valid URL")
		}
		// Of user:password@host people read only the first part, so no site that
		// means well sends anyone there.
		if elsewhere == nil && !s.Any() && (u.User != nil || !s.allows(o)) {
			elsewhere = fmt.Errorf("%w: %s is not one of the sites", badRequest(f.name+" is not on an allowed site"), o)
		}
	}
	return elsewhere
}

// origin is scheme, host and port in the one spelling in which two are compared.
// https://www.rfc-editor.org/rfc/rfc6454#section-4
type origin struct{ scheme, host, port string } // port "" where it is the scheme's own

func (o origin) String() string {
	if o.port == "" {
		return o.scheme + "://" + o.host
	}
	return o.scheme + "://" + o.host + ":" + o.port
}

// originOf parses an absolute http or https URL with a host.
func originOf(raw string) (origin, *url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return origin{}, nil, err
	}
	o := origin{scheme: u.Scheme, host: u.Hostname(), port: u.Port()}
	if o.scheme != "http" && o.scheme != "https" || o.host == "" {
		return origin{}, nil, errors.New("not an absolute http or https URL")
	}
	switch {
	case strings.HasPrefix(u.Host, "["):
		o.host = "[" + strings.ToLower(o.host) + "]"
	case strings.ContainsAny(o.host, " \"#%<>[]^`{|}"): // https://url.spec.whatwg.org/#forbidden-host-code-point
		return origin{}, nil, errors.New("not a host name")
	case !strings.ContainsFunc(o.host, beyondASCII):
		// Others stay as they are: lower case turns the Kelvin sign into a k.
		o.host = strings.ToLower(o.host)
	}
	if o.port != "" {
		n, err := strconv.ParseUint(o.port, 10, 16)
		if err != nil {
			return origin{}, nil, errors.New("not a port")
		}
		o.port = strconv.FormatUint(n, 10)
	}
	if o.scheme == "http" && o.port == "80" || o.scheme == "https" && o.port == "443" {
		o.port = ""
	}
	return o, u, nil
}

func beyondASCII(r rune) bool { return r > unicode.MaxASCII }
