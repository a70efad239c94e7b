package auth

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxCookies    = 64 << 10 // bytes of cookies that are read; also of a token
	maxChunk      = 3180     // of one cookie's value, URI-encoded
	base64Prefix  = "base64-"
	accessCookie  = "sb-access-token"
	refreshCookie = "sb-refresh-token"
	maxRefresh    = 4 << 10 // of a refresh token, which GoTrue makes of 12 letters, or some more
)

// session is what the cookies say of the session.
type session struct {
	access, refresh string
	bare            bool // stored without its user, as cookies.encode "tokens-only" does
}

// jar holds the cookies of one request that may belong to the session.
// https://supabase.com/docs/guides/auth/server-side
type jar struct {
	name   string
	values map[string]string // as they came
	names  []string          // of the session and its chunks, in the order they came

	attributes http.Cookie // of those that are written: Domain, Secure, HttpOnly, SameSite
}

// readCookies reads the Cookie headers as the npm package cookie does, which
// the site's pages use: net/http drops values that hold a quotation mark,
// though some versions wrote such values. The first cookie of a name counts.
func readCookies(h http.Header, name string) (*jar, error) {
	j := &jar{name: name, values: map[string]string{}}
	size := 0
	for _, line := range h["Cookie"] {
		if size += len(line); size > maxCookies {
			return nil, ErrCookiesTooLarge
		}
	}
	for _, line := range h["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			key, value, found := strings.Cut(pair, "=")
			key = strings.Trim(key, " \t")
			owns := j.owns(key)
			if _, seen := j.values[key]; !found || seen || !owns && key != accessCookie && key != refreshCookie {
				continue
			}
			j.values[key] = strings.Trim(value, " \t")
			if owns {
				j.names = append(j.names, key)
			}
		}
	}
	return j, nil
}

// owns reports whether the cookie is the session or a chunk of it. A
// code verifier is neither.
func (j *jar) owns(name string) bool {
	rest, ok := strings.CutPrefix(name, j.name)
	if !ok || rest == "" {
		return ok
	}
	digits, ok := strings.CutPrefix(rest, ".")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == "" && (digits == "0" || digits[0] != '0')
}

// value returns a cookie's value decoded as JavaScript's decodeURIComponent
// does; where that fails the value stands as it came.
func (j *jar) value(name string) string {
	v := j.values[name]
	if len(v) > 1 && v[0] == '"' {
		v = v[1 : len(v)-1]
	}
	if strings.IndexByte(v, '%') >= 0 {
		if decoded, err := url.PathUnescape(v); err == nil && utf8.ValidString(decoded) {
			return decoded
		}
	}
	return v
}

// session returns the session that the cookies hold, and whether they hold one.
func (j *jar) session() (session, bool) {
	stored := j.value(j.name)
	for i := 0; stored == "" || i > 0; i++ {
		chunk := j.value(j.name + "." + strconv.Itoa(i))
		if chunk == "" {
			break
		}
		stored += chunk
	}
	if s, ok := decodeSession(stored); ok {
		return s, true
	}
	s := session{access: j.value(accessCookie), refresh: j.value(refreshCookie)}
	if s.access == "" {
		return s, false
	}
	// From now on the pair is what there is to clear, beside broken chunks.
	for _, name := range []string{accessCookie, refreshCookie} {
		if _, came := j.values[name]; came {
			j.names = append(j.names, name)
		}
	}
	return s, true
}

// decodeSession reads a stored session: the object of @supabase/ssr, in
// base64url or plain, or the array of auth-helpers.
func decodeSession(stored string) (s session, ok bool) {
	decoded := []byte(stored)
	if encoded, found := strings.CutPrefix(stored, base64Prefix); found {
		var err error
		if decoded, err = decodeBase64(encoded); err != nil || !utf8.Valid(decoded) {
			return s, false
		}
	}
	// Not a struct, whose keys would be taken in upper and lower case.
	var object map[string]json.RawMessage
	var array []json.RawMessage
	if json.Unmarshal(decoded, &object) == nil && object != nil {
		_, refresh := object["refresh_token"]
		_, expires := object["expires_at"]
		_, user := object["user"]
		s = session{access: text(object["access_token"]), refresh: text(object["refresh_token"]), bare: !user}
		// auth-js takes no object for a session that lacks one of the three.
		return s, s.access != "" && refresh && expires
	}
	if json.Unmarshal(decoded, &array) == nil && len(array) > 0 {
		s.access = text(array[0])
		if len(array) > 1 {
			s.refresh = text(array[1])
		}
	}
	return s, s.access != ""
}

var ignored = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "", "=", "")

// decodeBase64 decodes base64url as the reader of @supabase/ssr does, to which
// white space, padding and bits that are left over do not matter.
func decodeBase64(encoded string) ([]byte, error) {
	encoded = ignored.Replace(encoded)
	if len(encoded)%4 != 1 {
		return base64.RawURLEncoding.DecodeString(encoded)
	}
	// Six bits are left over, which encoding/base64 does not forgive: made a byte,
	// and that left out.
	decoded, err := base64.RawURLEncoding.DecodeString(encoded + "A")
	return decoded[:max(0, len(decoded)-1)], err
}

// text returns the string that a JSON value is, "" if it is not one.
func text(value json.RawMessage) string {
	var s string
	_ = json.Unmarshal(value, &s)
	return s
}

// write puts a session, as JSON, on the response as @supabase/ssr 0.12 does:
// stale names are cleared first, then the chunks set. They are not HttpOnly,
// because the browser's client reads them.
func (j *jar) write(out http.Header, sessionJSON []byte) {
	// base64url needs no URI encoding, so a chunk is as long as it looks.
	value := base64Prefix + base64.RawURLEncoding.EncodeToString(sessionJSON)
	var set []http.Cookie
	if len(value) <= maxChunk {
		set = append(set, http.Cookie{Name: j.name, Value: value, MaxAge: 400 * 24 * 60 * 60})
	} else {
		for chunk := range slices.Chunk([]byte(value), maxChunk) {
			name := j.name + "." + strconv.Itoa(len(set))
			set = append(set, http.Cookie{Name: name, Value: string(chunk), MaxAge: 400 * 24 * 60 * 60})
		}
	}
	j.put(out, set)
}

// ParseCookieOptions reads the attributes of the site's session cookies, as in
// "domain=.example.com; secure; samesite=strict; httponly"; name is the cookies'.
// What is left out is as @supabase/ssr has it.
// https://supabase.com/docs/guides/auth/server-side/advanced-guide
func ParseCookieOptions(options, name string) (c http.Cookie, err error) {
	for option := range strings.SplitSeq(options, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(option), "=")
		switch key, value = strings.ToLower(key), strings.TrimSpace(value); {
		case key == "" && value == "":
		case key == "domain" && strings.Contains(value, "."):
			c.Domain = value
		case key == "secure" && value == "":
			c.Secure = true
		case key == "httponly" && value == "":
			c.HttpOnly = true
		case key == "samesite" && strings.EqualFold(value, "lax"):
			c.SameSite = http.SameSiteLaxMode
		case key == "samesite" && strings.EqualFold(value, "strict"):
			c.SameSite = http.SameSiteStrictMode
		case key == "samesite" && strings.EqualFold(value, "none"):
			c.SameSite = http.SameSiteNoneMode
		default:
			return c, errors.New("has something other than domain=…, secure, httponly and samesite=lax, strict or none, with ; between them")
		}
	}
	switch {
	case c.SameSite == http.SameSiteNoneMode && !c.Secure:
		return c, errors.New("has samesite=none without secure, which browsers refuse")
	case c.Domain != "" && strings.HasPrefix(name, "__Host-"):
		return c, errors.New("has a domain, which browsers refuse for a cookie whose name begins with __Host-")
	}
	return c, nil
}

// clear takes the session away from the browser.
func (j *jar) clear(out http.Header) { j.put(out, nil) }

// put clears the cookies that came and are not in set, and sets those in set.
func (j *jar) put(out http.Header, set []http.Cookie) {
	out.Del("Set-Cookie") // what a renewal wrote before the session turned out to be gone
	var all []http.Cookie
	for _, name := range j.names {
		if !slices.ContainsFunc(set, func(c http.Cookie) bool { return c.Name == name }) {
			all = append(all, http.Cookie{Name: name, MaxAge: -1})
		}
	}
	for _, c := range set {
		if !slices.Contains(j.names, c.Name) {
			j.names = append(j.names, c.Name) // what there is to clear from now on
		}
	}
	for _, c := range append(all, set...) {
		c.Path, c.Domain, c.HttpOnly = "/", j.attributes.Domain, j.attributes.HttpOnly
		c.SameSite = cmp.Or(j.attributes.SameSite, http.SameSiteLaxMode)
		// Browsers refuse these names without it.
		// https://www.rfc-editor.org/rfc/rfc6265bis#section-4.1.3
		c.Secure = j.attributes.Secure || strings.HasPrefix(c.Name, "__Host-") || strings.HasPrefix(c.Name, "__Secure-")
		out.Add("Set-Cookie", c.String())
	}
	out.Set("Cache-Control", "private, no-cache, no-store, must-revalidate, max-age=0")
	out.Set("Expires", "0")
	out.Set("Pragma", "no-cache")
}
