package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
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
}

// readCookies reads the Cookie headers as the npm package cookie does, which
// the site's pages use: net/http drops values that hold a quotation mark,
// though some versions wrote such values. The first cookie of a name counts.
func readCookies(h http.Header, name string) *jar {
	j := &jar{name: name, values: map[string]string{}}
	size := 0
	for _, line := range h["Cookie"] {
		if size += len(line); size > maxCookies {
			return &jar{name: name}
		}
	}
	for _, line := range h["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			key, value, found := strings.Cut(pair, "=")
			key = trim(key)
			owns := j.owns(key)
			if _, seen := j.values[key]; !found || seen || !owns && key != accessCookie && key != refreshCookie {
				continue
			}
			j.values[key] = trim(value)
			if owns {
				j.names = append(j.names, key)
			}
		}
	}
	return j
}

// trim is strings.Trim(s, " \t"), which makes a set of the two each time.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
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

// buffers spares every request the garbage of two copies of its session.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, maxCookies); return &b }}

// session returns the session that the cookies hold, and whether they hold one.
func (j *jar) session() (session, bool) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	stored := append((*buffer)[:0], j.value(j.name)...)
	for i := 0; len(stored) == 0 || i > 0; i++ {
		chunk := j.value(j.name + "." + strconv.Itoa(i))
		if chunk == "" {
			break
		}
		stored = append(stored, chunk...)
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

// decodeSession reads a stored session, and overwrites it: the object of
// @supabase/ssr, in base64url or plain, or the array of auth-helpers.
func decodeSession(stored []byte) (s session, ok bool) {
	if encoded, found := bytes.CutPrefix(stored, []byte(base64Prefix)); found {
		if stored, ok = decodeBase64(encoded); !ok || !utf8.Valid(stored) {
			return s, false
		}
	}
	stored = bytes.TrimLeft(stored, jsonSpace)
	if len(stored) == 0 {
		return s, false
	}
	var expires bool
	refresh := stored[0] == '['
	s.bare = stored[0] == '{'
	end := scan(stored, 0, 0, func(key, value []byte) {
		switch string(key) {
		case `"access_token"`, "0":
			s.access = text(value)
		case `"refresh_token"`, "1":
			s.refresh, refresh = text(value), true
		case `"expires_at"`:
			expires = true
		case `"user"`:
			s.bare = false
		}
	})
	if end < 0 || len(bytes.Trim(stored[end:], jsonSpace)) > 0 || s.access == "" {
		return session{}, false
	}
	// auth-js takes no object for a session that lacks one of the three.
	return s, stored[0] == '[' || refresh && expires
}

// sextets holds what a character adds to the 24 bits of its group of four, by
// its place in the group; notBase64 if it is none of base64url.
var sextets = func() (t [4][256]uint32) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for place := range t {
		for c := range t[place] {
			t[place][c] = notBase64
		}
		for bits, c := range alphabet {
			t[place][c] = uint32(bits) << (18 - 6*place)
		}
	}
	return t
}()

const notBase64 = 1 << 24

// decodeBase64 decodes base64url in place as the reader of @supabase/ssr does:
// white space, padding and bits that are left over do not matter, which is more
// than encoding/base64 forgives, and it is twice as fast.
func decodeBase64(b []byte) ([]byte, bool) {
	n, rest := 0, b
	for len(rest) >= 16 {
		c := (*[16]byte)(rest)
		w0 := sextets[0][c[0]] | sextets[1][c[1]] | sextets[2][c[2]] | sextets[3][c[3]]
		w1 := sextets[0][c[4]] | sextets[1][c[5]] | sextets[2][c[6]] | sextets[3][c[7]]
		w2 := sextets[0][c[8]] | sextets[1][c[9]] | sextets[2][c[10]] | sextets[3][c[11]]
		w3 := sextets[0][c[12]] | sextets[1][c[13]] | sextets[2][c[14]] | sextets[3][c[15]]
		if w0|w1|w2|w3 >= notBase64 {
			break
		}
		binary.BigEndian.PutUint64(b[n:], uint64(w0)<<40|uint64(w1)<<16|uint64(w2)>>8)
		binary.BigEndian.PutUint32(b[n+8:], w2<<24|w3)
		n += 12
		rest = rest[16:]
	}
	var queue uint32
	queued := 0
	for _, c := range rest {
		sextet := sextets[3][c]
		switch {
		case sextet != notBase64:
			queue = queue<<6 | sextet
			queued += 6
		case strings.IndexByte(jsonSpace+"=", c) < 0:
			return nil, false
		}
		if queued >= 8 {
			queued -= 8
			b[n] = byte(queue >> queued)
			n++
		}
	}
	return b[:n], true
}

const jsonSpace = " \t\r\n"

// scan reads the JSON value at i and returns the index behind it, or -1. It
// calls visit, if not nil, with the members of an object, whose keys keep their
// quotation marks, or the elements of an array, whose keys are numbers.
// encoding/json takes six times as long, because the user, which nobody reads,
// is most of a session, and it would take keys in any case. What is skipped is
// checked for structure only, which tells chunks that do not belong together.
func scan(b []byte, i, depth int, visit func(key, value []byte)) int {
	i = skipSpace(b, i)
	if i >= len(b) || depth > 100 {
		return -1
	}
	open := b[i]
	switch open {
	case '"':
		return skipString(b, i)
	case '{', '[':
	default:
		end := i
		for end < len(b) && strings.IndexByte(",]}"+jsonSpace, b[end]) < 0 {
			end++
		}
		switch string(b[i:end]) {
		case "null", "true", "false": // most of what is no string; json.Valid takes its time
		default:
			if !json.Valid(b[i:end]) {
				return -1
			}
		}
		return end
	}
	shut := open + 2
	if i = skipSpace(b, i+1); i < len(b) && b[i] == shut {
		return i + 1
	}
	for n := 0; ; n++ {
		i = skipSpace(b, i)
		start := i
		var key []byte
		if open == '{' {
			if i = skipString(b, i); i < 0 {
				return -1
			}
			key = b[start:i]
			if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
				return -1
			}
			start = skipSpace(b, i+1)
		} else if visit != nil {
			key = strconv.AppendInt(nil, int64(n), 10)
		}
		if i = scan(b, start, depth+1, nil); i < 0 {
			return -1
		}
		if visit != nil {
			visit(key, b[start:i])
		}
		if i = skipSpace(b, i); i >= len(b) {
			return -1
		}
		switch b[i] {
		case ',':
			i++
		case shut:
			return i + 1
		default:
			return -1
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// skipString returns the index behind the string that begins at i, or -1.
func skipString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		escapes := 0 // in a row before the quotation mark
		for escapes < n && b[i+n-1-escapes] == '\\' {
			escapes++
		}
		if i += n; escapes%2 == 0 {
			return i + 1
		}
	}
}

// text returns the string that a JSON value is, "" if it is none.
func text(value []byte) string {
	if value[0] == '"' && bytes.IndexByte(value, '\\') < 0 {
		return string(value[1 : len(value)-1])
	}
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
		c.Path, c.SameSite = "/", http.SameSiteLaxMode
		out.Add("Set-Cookie", c.String())
	}
	out.Set("Cache-Control", "private, no-cache, no-store, must-revalidate, max-age=0")
	out.Set("Expires", "0")
	out.Set("Pragma", "no-cache")
}
