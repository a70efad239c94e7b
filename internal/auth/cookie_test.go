package auth_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"8space.app/stripe-sidecar/internal/auth"
)

func TestReadRecordedCookies(t *testing.T) {
	for _, r := range recordings(t) {
		access, refresh, bare, ok := auth.ReadCookies(http.Header{"Cookie": {r.Header}}, r.storageKey())
		if access != r.AccessToken || refresh != r.RefreshToken || !ok {
			t.Errorf("%s: session = %.20q…, %q, %v; want the recorded one", r.Name, access, refresh, ok)
		}
		if want := strings.HasSuffix(r.Name, "tokens-only"); bare != want {
			t.Errorf("%s: bare = %v; want %v", r.Name, bare, want)
		}
	}
}

func TestReadCookies(t *testing.T) {
	const object = `{"access_token":"A","refresh_token":"R","expires_at":1}`
	const array = `["A","R",null,null,null]`
	encoded := encode64(object)
	split := func(s string, at int) string { return fmt.Sprintf("n.0=%s; n.1=%s", s[:at], s[at:]) }
	for _, tc := range []struct{ name, header, want string }{
		{"base64", "n=" + encoded, "A R"},
		{"base64, URI-encoded", "n=" + escape(encoded), "A R"},
		{"raw, URI-encoded", "n=" + escape(object), "A R"},
		{"raw", "n=" + object, "A R"},
		{"array", "n=" + array, "A R"},
		{"array, URI-encoded", "n=" + escape(array), "A R"},
		{"array in base64", "n=" + encode64(array), "A R"},
		{"array, access token only", `n=["A"]`, "A "},
		{"array, no refresh token", `n=["A",null]`, "A "},
		{"in quotation marks", `n="` + encoded + `"`, "A R"},
		{"spaces around", "a=b;   n =\t" + encoded + " ;c=d", "A R"},
		{"chunks", split(encoded, 20), "A R"},
		{"chunks, raw", "n.0=" + escape(object[:9]) + "; n.1=" + escape(object[9:]), "A R"},
		{"chunks in any order", "n.1=" + encoded[20:] + "; n.0=" + encoded[:20], "A R"},
		{"unsuffixed before chunks", "n.0=" + encode64(`["B"]`) + "; n=" + encoded, "A R"},
		{"empty unsuffixed", "n=; " + split(encoded, 20), "A R"},
		{"broken unsuffixed before chunks", "n=x; " + split(encoded, 20), "none"},
		{"stale chunk behind an empty one", "n.0=" + encoded + "; n.1=; n.2=zzz", "A R"},
		{"stale chunk behind a gap", "n.0=" + encoded + "; n.2=zzz", "A R"},
		{"middle chunk missing", "n.0=" + encoded[:20] + "; n.2=" + encoded[20:], "none"},
		{"first chunk missing", "n.1=" + encoded, "none"},
		{"number with a zero in front", "n.00=" + encoded, "none"},
		{"first of a name counts", "n=" + encoded + "; n=" + encode64(`["B"]`), "A R"},
		{"first of a name is empty", "n=; n=" + encoded, "none"},
		{"name in another case", "N=" + encoded, "none"},
		{"no value", "n", "none"},
		{"white space inside base64", "n=" + encoded[:30] + "%20%09%0d%0a" + encoded[30:] + "==", "A R"},
		{"one character of base64 too many", "n=" + encode64(object+"  ") + "A", "A R"},
		{"plus in base64", "n=" + encoded[:30] + "+" + encoded[31:], "none"},
		{"slash in base64", "n=" + encoded[:30] + "/" + encoded[31:], "none"},
		{"nothing in base64", "n=base64-", "none"},
		{"not UTF-8 in base64", "n=" + encode64(strings.Replace(object, "{", "{\"x\":\"\xff\",", 1)), "none"},
		{"UTF-8 in base64", "n=" + encode64(strings.Replace(object, "{", "{\"x\":\"é日😀\",", 1)), "A R"},
		{"bad URI encoding stands as it is", `n={"x":"%zz","access_token":"A","refresh_token":"R","expires_at":1}`, "A R"},
		{"escapes", `n={"x":"\\\"}","access_token":"\u0041","refresh_token":"R","expires_at":1}`, "A R"},
		{"members behind the user", `n={"user":{"a":[1,{"b":"]}"}],"access_token":"B"},"access_token":"A","refresh_token":"R","expires_at":1}`, "A R"},
		{"last of a member counts", `n={"access_token":"B","access_token":"A","refresh_token":"R","expires_at":1}`, "A R"},
		{"no refresh_token", `n={"access_token":"A","expires_at":1}`, "none"},
		{"null refresh_token", `n={"access_token":"A","refresh_token":null,"expires_at":1}`, "A "},
		{"no expires_at", `n={"access_token":"A","refresh_token":"R"}`, "none"},
		{"null access_token", `n={"access_token":null,"refresh_token":"R","expires_at":1}`, "none"},
		{"number as access_token", `n={"access_token":1,"refresh_token":"R","expires_at":1}`, "none"},
		{"member in another case", `n={"Access_Token":"A","refresh_token":"R","expires_at":1}`, "none"},
		{"array's index as a member", `n={"0":"A","1":"R","expires_at":1}`, "none"},
		{"truncated", "n=" + object[:len(object)-1], "none"},
		{"something behind", "n=" + object + "x", "none"},
		{"space behind", "n=" + escape(object+" \n"), "A R"},
		{"mixed generations", `n={"access_token":"A","refresh_token":"R","expires_at":1,"user":{"x":"y"z"}}`, "none"},
		{"comma too many", `n={"access_token":"A","refresh_token":"R","expires_at":1,}`, "none"},
		{"bad literal", `n={"access_token":"A","refresh_token":"R","expires_at":1,"x":nul}`, "none"},
		{"open string", `n={"access_token":"A`, "none"},
		{"open escape", `n={"access_token":"A\`, "none"},
		{"string", `n="A"`, "none"},
		{"number", "n=1", "none"},
		{"null", "n=null", "none"},
		{"empty object", "n={}", "none"},
		{"empty array", "n=[]", "none"},
		{"deep", "n=" + strings.Repeat("[", 60<<10), "none"},
		{"pair", "sb-access-token=A; sb-refresh-token=R", "A R"},
		{"pair, URI-encoded", "sb-access-token=%41; sb-refresh-token=%52", "A R"},
		{"pair without access token", "sb-access-token=; sb-refresh-token=R", "none"},
		{"code verifier", "n-code-verifier=" + encoded + "; n-flows-code-verifier=" + encoded + "; n-flow-abcdefgh-code-verifier=" + encoded, "none"},
		{"user of split storage", "n-user=" + encoded, "none"},
	} {
		access, refresh, _, ok := auth.ReadCookies(http.Header{"Cookie": {tc.header}}, "n")
		got := access + " " + refresh
		if !ok {
			got = "none"
		}
		if got != tc.want {
			t.Errorf("%s: session = %s; want %s", tc.name, got, tc.want)
		}
	}
}

func FuzzReadCookies(f *testing.F) {
	for _, r := range recordings(f) {
		f.Add(strings.ReplaceAll(r.Header, r.storageKey(), "n"))
	}
	for _, seed := range []string{`n=[["A",{"b":[]}],"\"`, "n=base64-WyJBIl0A; n.0=%5B", `n={"access_token":"\ud800","refresh_token":"","expires_at":1}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		access, refresh, _, ok := auth.ReadCookies(http.Header{"Cookie": {header}}, "n")
		if ok != (access != "") {
			t.Errorf("session = %q, %v; want an access token and true, or neither", access, ok)
		}
		// U+FFFD, which a lone surrogate becomes, takes three bytes.
		if len(access)+len(refresh) > 3*len(header) {
			t.Errorf("session of %d bytes from %d; want no more than was there", len(access)+len(refresh), len(header))
		}
	})
}

// TestWriteAsRecorded writes the sessions that 0.12 wrote and compares.
func TestWriteAsRecorded(t *testing.T) {
	for _, r := range recordings(t) {
		if !strings.HasPrefix(r.Name, "ssr-latest") || strings.Contains(r.Name, "raw") {
			continue
		}
		var value strings.Builder
		for pair := range strings.SplitSeq(r.Header, "; ") {
			_, chunk, _ := strings.Cut(pair, "=")
			value.WriteString(chunk)
		}
		session := decode64(t, value.String())
		got := cookieHeader(auth.WriteCookies(nil, r.storageKey(), session))
		if got != r.Header {
			t.Errorf("%s: cookies differ from the recorded ones: %d bytes; want %d", r.Name, len(got), len(r.Header))
		}
	}
}

func TestWriteClearsStaleNames(t *testing.T) {
	small := []byte(`{"access_token":"A"}`)
	large := []byte(`{"access_token":"` + strings.Repeat("A", 6000) + `"}`)
	const attributes = "; Path=/; Max-Age=34560000; SameSite=Lax"
	for _, tc := range []struct {
		name, in string
		session  []byte
		want     []string // names, a clear with a minus
	}{
		{"nothing there", "", small, []string{"n"}},
		{"the same name", "n=x", small, []string{"n"}},
		{"chunks before", "a=b; n.0=x; n.1=; n.7=y; n-code-verifier=z; n.01=q", small, []string{"-n.0", "-n.1", "-n.7", "n"}},
		{"one before", "n=x", large, []string{"-n", "n.0", "n.1", "n.2"}},
		{"more chunks before", "n.3=x; n.1=y; n.0=z", large, []string{"-n.3", "n.0", "n.1", "n.2"}},
		{"the pair", "sb-refresh-token=R; sb-access-token=A; n.0=x", small, []string{"-n.0", "n"}},
	} {
		out := auth.WriteCookies(http.Header{"Cookie": {tc.in}}, "n", tc.session)
		var got []string
		for _, line := range out["Set-Cookie"] {
			name, rest, _ := strings.Cut(line, "=")
			switch {
			case rest == "; Path=/; Max-Age=0; SameSite=Lax":
				got = append(got, "-"+name)
			case strings.HasSuffix(rest, attributes) && len(rest) <= 3180+len(attributes):
				got = append(got, name)
			default:
				t.Errorf("%s: Set-Cookie = %s; want %s", tc.name, line, attributes)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: cookies = %q; want %q", tc.name, got, tc.want)
		}
		for header, want := range map[string]string{
			"Cache-Control": "private, no-cache, no-store, must-revalidate, max-age=0", "Expires": "0", "Pragma": "no-cache",
		} {
			if got := out.Get(header); got != want {
				t.Errorf("%s: %s = %q; want %q", tc.name, header, got, want)
			}
		}
	}
}

// TestRoundTrip writes random sessions of sizes around the borders of chunks
// and reads them back.
func TestRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	alphabet := []rune("az09\"\\{}[],:;%= \n\u0000éß日本語😀\u2028")
	name := func(n int) string { return strings.Repeat("n", n) }
	for i := range 2000 {
		chunks := random.IntN(5)
		size := max(0, chunks*3180*3/4-20+random.IntN(40)-100)
		token := make([]rune, 0, size)
		for n := 0; n < size; {
			r := alphabet[random.IntN(len(alphabet))]
			token = append(token, r)
			n += utf8.RuneLen(r)
		}
		session := map[string]any{"access_token": "A" + string(token), "refresh_token": "R", "expires_at": i}
		if i%2 == 0 {
			session["user"] = map[string]any{"x": string(token[:min(len(token), 50)])}
		}
		b, err := json.Marshal(session)
		if err != nil {
			t.Fatal(err)
		}
		header := cookieHeader(auth.WriteCookies(nil, name(1+i%30), b))
		if len(header) > 64<<10 {
			continue
		}
		access, refresh, bare, ok := auth.ReadCookies(http.Header{"Cookie": {header}}, name(1+i%30))
		if access != session["access_token"] || refresh != "R" || !ok || bare != (i%2 == 1) {
			t.Fatalf("session of %d bytes in %d = %d bytes, %v, %v; want it back", len(b), len(header), len(access), bare, ok)
		}
		var joined bytes.Buffer
		for pair := range strings.SplitSeq(header, "; ") {
			_, chunk, _ := strings.Cut(pair, "=")
			joined.WriteString(chunk)
		}
		if got := decode64(t, joined.String()); !bytes.Equal(got, b) {
			t.Fatalf("stored JSON = %d bytes; want %d as given", len(got), len(b))
		}
	}
}
