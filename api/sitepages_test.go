package api_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/browsertest"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

const sitePage = "api/site/README.md"

var snippetTitle = regexp.MustCompile(`^tsx? title="([^"]+)"$`)

// TestTypeScript holds the TypeScript of the page: its types are those of
// openapi.yaml, it compiles with the published packages, and it does in a browser
// what the page says.
func TestTypeScript(t *testing.T) {
	t.Parallel()
	files := map[string]string{} // by the name they have in a site
	for _, s := range sandboxtest.Snippets(t, sitePage) {
		title := snippetTitle.FindStringSubmatch(s.Language)
		if title == nil {
			t.Fatalf("%s:%d: language = %q; want ts or tsx and a title", s.File, s.Line, s.Language)
		}
		files[title[1]] = s.Text
	}
	t.Run("types", func(t *testing.T) { checkTypes(t, files["billing/stripe.ts"]) })

	dir := t.TempDir()
	for name, text := range files {
		switch {
		case strings.HasPrefix(name, "billing/"): // both have it
			write(t, filepath.Join(dir, "next", name), text)
			write(t, filepath.Join(dir, "vite/src", name), text)
		case strings.HasPrefix(name, "src/"), name == "vite.config.ts":
			write(t, filepath.Join(dir, "vite", name), text)
		default:
			write(t, filepath.Join(dir, "next", name), text)
		}
	}
	installed := packages(t)
	if err := os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for _, site := range []string{"next", "vite"} {
		config, err := os.ReadFile("testdata/site/" + site + ".json")
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, site, "tsconfig.json"), string(config))
	}
	write(t, filepath.Join(dir, "older/tsconfig.json"), `{
		"extends": "../next/tsconfig.json",
		"compilerOptions": {"paths": {"@supabase/ssr": ["../node_modules/ssr-older"]}},
		"include": ["../next"]
	}`)
	for _, site := range []string{"next", "older", "vite"} {
		t.Run(site, func(t *testing.T) {
			if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "node_modules/.bin/tsc"), "-p", filepath.Join(dir, site)).CombinedOutput(); err != nil {
				t.Errorf("tsc = %v\n%s", err, out)
			}
		})
	}
	t.Run("versions", checkVersions)
	t.Run("elements", func(t *testing.T) { checkAttributes(t, files["elements.d.ts"]) })
	t.Run("browser", func(t *testing.T) { clickReact(t, dir) })
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// packages returns a folder with the node_modules of testdata/site/package.json. It
// stays in the user's cache, as what the go command builds does: installing takes
// longer than all else here. Of the packages that are there for their types alone no
// more is unpacked than that: Next.js is 209 MB, and its types are 9.
func packages(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/site/package.json")
	var named struct{ TypesOnly map[string]string }
	if err == nil {
		err = json.Unmarshal(text, &named)
	}
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil { // no home
		cache = t.TempDir()
	}
	ready := filepath.Join(cache, "stripe-sidecar-tests", fmt.Sprintf("site-%x", sha256.Sum256(text))[:21])
	if _, err := os.Stat(ready); err == nil {
		return ready
	}
	npm := sandboxtest.Program(t, "npm", "npm")
	if err := os.MkdirAll(filepath.Dir(ready), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(ready), "new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	write(t, filepath.Join(dir, "package.json"), string(text))
	group, ctx := errgroup.WithContext(t.Context())
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, npm, append(args, "--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000")...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("npm %s: %w\n%s", args[0], err, out)
		}
		return nil
	}
	tarballs := t.TempDir()
	group.Go(func() error { return run("install", "--no-audit", "--no-fund", "--ignore-scripts") })
	group.Go(func() error {
		args := []string{"pack", "--pack-destination", tarballs}
		for name, version := range named.TypesOnly {
			args = append(args, name+"@"+version)
		}
		return run(args...)
	})
	if err := group.Wait(); err != nil {
		sandboxtest.Skip(t, "make the npm registry reachable to run this test: "+err.Error())
	}
	for name, version := range named.TypesOnly {
		file := strings.ReplaceAll(strings.TrimPrefix(name, "@"), "/", "-") + "-" + version + ".tgz"
		if err := unpackTypes(filepath.Join(tarballs, file), filepath.Join(dir, "node_modules", name)); err != nil {
			t.Fatalf("unpacking %s = %v; want no error", file, err)
		}
	}
	if err := os.Rename(dir, ready); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) { // of another run
		t.Fatal(err)
	}
	return ready
}

// unpackTypes unpacks a package's declarations and its package.json.
func unpackTypes(tarball, dir string) error {
	f, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for files := tar.NewReader(z); ; {
		h, err := files.Next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		_, name, _ := strings.Cut(h.Name, "/") // behind package/
		if !filepath.IsLocal(name) || !regexp.MustCompile(`\.d\.[cm]?ts$|(^|/)package\.json$`).MatchString(name) {
			continue
		}
		text, err := io.ReadAll(files)
		path := filepath.Join(dir, name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
			return err
		}
	}
}

var (
	typeScriptType  = regexp.MustCompile(`(?m)^export type (\w+) = \{\n((?:  .*\n)*)\}$`)
	typeScriptField = regexp.MustCompile(`^  (\w+)(\??): (.+?)(?: //.*)?$`)
)

// checkTypes compares the types of a TypeScript file with the schemas of
// openapi.yaml: the same fields, required alike, of the same kind.
func checkTypes(t *testing.T, text string) {
	var doc document
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	body := func(path string) schema {
		return doc.Paths[path]["post"].RequestBody.Content["application/json"].Schema
	}
	want := map[string]schema{"Checkout": body("/api/stripe/create-checkout"), "Portal": body("/api/stripe/create-portal")}
	for _, name := range []string{"Price", "Subscription", "Purchase", "Bought"} {
		want[name] = doc.Components.Schemas[name]
	}
	types := typeScriptType.FindAllStringSubmatch(text, -1)
	if len(types) != len(want) {
		t.Errorf("types = %d; want %d", len(types), len(want))
	}
	for _, typ := range types {
		name, s := typ[1], want[typ[1]]
		var fields, wanted []string
		for line := range strings.Lines(typ[2]) {
			f := typeScriptField.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if f == nil {
				t.Fatalf("type %s: %q is not a field", name, line)
			}
			fields = append(fields, f[1]+f[2]+": "+kindsOf(f[3]))
		}
		for field, property := range s.Properties {
			mark := "?"
			if slices.Contains(s.Required, field) {
				mark = ""
			}
			kinds := strings.Fields(strings.Trim(fmt.Sprint(property.Type), "[]"))
			slices.Sort(kinds)
			wanted = append(wanted, field+mark+": "+strings.Join(kinds, " "))
		}
		slices.Sort(fields)
		slices.Sort(wanted)
		if !slices.Equal(fields, wanted) {
			t.Errorf("type %s =\n%s\nwant as in openapi.yaml\n%s", name, strings.Join(fields, "\n"), strings.Join(wanted, "\n"))
		}
	}
	// The two lists of currencies are one.
	for _, list := range regexp.MustCompile(`/\^\([a-z|]+\)\$/`).FindAllString(text, -1) {
		if !strings.Contains(string(buttonsJS(t)), list) {
			t.Errorf("currencies = %s; want a list of buttons.js", list)
		}
	}
}

func buttonsJS(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("buttons.js")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// checkVersions: the page names the versions with which it is compiled.
func checkVersions(t *testing.T) {
	text, err := os.ReadFile("testdata/site/package.json")
	var named struct{ Dependencies, TypesOnly map[string]string }
	if err := errors.Join(err, json.Unmarshal(text, &named)); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("site/README.md")
	if err != nil {
		t.Fatal(err)
	}
	older := strings.TrimPrefix(named.Dependencies["ssr-older"], "npm:@supabase/ssr@")
	want := fmt.Sprintf("compiled with Next.js %s, React %s, and `@supabase/ssr` %s and %s.",
		named.TypesOnly["next"], named.Dependencies["react"], named.Dependencies["@supabase/ssr"], older)
	if !strings.Contains(strings.Join(strings.Fields(string(page)), " "), want) {
		t.Errorf("%s does not say %q", sitePage, want)
	}
}

var (
	declaredElement = regexp.MustCompile(`(?m)^ {6}'(button-\w+)': (Button|)`)
	attributeType   = regexp.MustCompile(`'?([a-z-]+)'?\??: (?:string|number|'\w+' \|)`)
	attributeRow    = regexp.MustCompile("`([a-z-]+)`")
)

// checkAttributes: the declaration has the elements' attributes as the page's tables
// have them.
func checkAttributes(t *testing.T, declaration string) {
	page, err := os.ReadFile("site/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shared, _ := strings.Cut(declaration, "type Button =")
	shared, _, _ = strings.Cut(shared, "\n")
	starts := declaredElement.FindAllStringSubmatchIndex(declaration, -1)
	for i, m := range starts {
		name, end := declaration[m[2]:m[3]], len(declaration)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		text := declaration[m[1]:end]
		if m[4] < m[5] { // it is a Button
			text += shared
		}
		var got, want []string
		for _, a := range attributeType.FindAllStringSubmatch(text, -1) {
			got = append(got, a[1])
		}
		_, table, _ := strings.Cut(string(page), "**`<"+name+">`**")
		table, _, _ = strings.Cut(table, "<!--")
		table, _, _ = strings.Cut(table, "**`<")
		for line := range strings.Lines(table) {
			if cells := strings.Split(line, "|"); len(cells) > 2 {
				for _, a := range attributeRow.FindAllStringSubmatch(cells[1], -1) {
					want = append(want, a[1])
				}
			}
		}
		if want == nil {
			want = []string{"endpoint", "price"} // the page has no table of button-price
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("attributes of %s = %q; want those of its table, %q", name, got, want)
		}
	}
	if len(starts) != 3 {
		t.Errorf("elements that are declared = %d; want 3", len(starts))
	}
}

var objects = regexp.MustCompile(`\{.*\}`)

// kindsOf names the kinds of JSON that a TypeScript type has, as openapi.yaml does.
func kindsOf(typ string) string {
	var kinds []string
	for part := range strings.SplitSeq(objects.ReplaceAllString(typ, "object"), " | ") {
		kind := part
		switch {
		case strings.HasSuffix(part, "[]"):
			kind = "array"
		case part == "number":
			kind = "integer"
		case strings.HasPrefix(part, "'"):
			kind = "string"
		case strings.HasPrefix(part, "Record<"):
			kind = "object"
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return strings.Join(kinds, " ")
}

// visited is a site in a browser.
type visited struct {
	*site
	t   *testing.T
	url string
	ctx context.Context
}

// visit opens a browser for a site that has files, by path, a page for every other
// path, and the service below /api/stripe/.
func (w *site) visit(t *testing.T, page string, files map[string]string) *visited {
	t.Helper()
	browser, stop := browsertest.Start(t)
	t.Cleanup(stop)
	service, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(service)
		r.Out.Host = r.In.Host
		r.SetXForwarded()
	}}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		text, ok := files[r.URL.Path]
		switch {
		case strings.HasPrefix(r.URL.Path, "/api/stripe/"):
			proxy.ServeHTTP(rw, r)
			return
		case !ok:
			text = page
			rw.Header().Set("Content-Security-Policy", "default-src 'self'; require-trusted-types-for 'script'")
		}
		rw.Header().Set("Content-Type", map[string]string{".js": "text/javascript", ".css": "text/css"}[filepath.Ext(r.URL.Path)])
		if rw.Header().Get("Content-Type") == "" {
			rw.Header().Set("Content-Type", "text/html; charset=utf-8")
		}
		_, _ = io.WriteString(rw, text)
	}))
	t.Cleanup(server.Close)

	ctx, cancel := context.WithTimeout(browser, 30*time.Second)
	t.Cleanup(cancel)
	return &visited{w, t, server.URL, ctx}
}

// open goes to a page of the site.
func (v *visited) open(path string) {
	v.t.Helper()
	if err := chromedp.Do(v.ctx, chromedp.Navigate(v.url+path)); err != nil {
		v.t.Fatalf("opening %s = %v; want no error", path, err)
	}
}

// js runs a script.
func (v *visited) js(script string) {
	v.t.Helper()
	if err := chromedp.Do(v.ctx, chromedp.Evaluate[chromedp.Void](script)); err != nil {
		v.t.Fatalf("%s = %v; want no error", script, err)
	}
}

// becomes waits until a script gives true, over any change of page.
func (v *visited) becomes(script string) {
	v.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := chromedp.Run(v.ctx, chromedp.Evaluate[bool](script)); ok && err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-v.ctx.Done():
			v.t.Fatalf("%s = false; want true", script)
		}
	}
}

// shows waits until the page has a text.
func (v *visited) shows(text string) {
	v.t.Helper()
	v.becomes(fmt.Sprintf(`document.body?.innerText.includes(%q)`, text))
}

// signIn gives the browser the session of a new user.
func (v *visited) signIn(email string) {
	v.t.Helper()
	u := v.supabase.SignUp(email, "correct horse battery staple")
	v.js(fmt.Sprintf(`document.cookie = '%s=base64-%s; path=/'`, cookieName, base64.RawURLEncoding.EncodeToString(v.supabase.SignIn(u.ID).JSON)))
}

// pays pays the newest Checkout Session, which is checked to have these parameters,
// and goes where Stripe sends the buyer.
func (v *visited) pays(params map[string]string) {
	v.t.Helper()
	v.becomes(`location.pathname.startsWith('/c/pay/')`)
	sold := v.stripe.CheckoutSessions()
	last := sold[len(sold)-1]
	for name, want := range params {
		if got := last.Params.Get(name); got != want {
			v.t.Errorf("Checkout Session: %s = %q; want %q", name, got, want)
		}
	}
	v.stripe.PayCheckout(last.ID)
	v.open(strings.TrimPrefix(last.SuccessURL, v.url))
}

// picture keeps a screenshot.
func (v *visited) picture(name string) {
	v.t.Helper()
	png, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(v.t.ArtifactDir(), name+".png"), png, 0o644)
	}
	if err != nil {
		v.t.Errorf("screenshot %s = %v; want no error", name, err)
	}
}

func selling(s *settings) {
	s.billing.Prices = []string{"price_basic_monthly", "pro_monthly", "lifetime"}
}

// clickReact uses the Vite site of the page as a buyer does.
func clickReact(t *testing.T, dir string) {
	esbuild := exec.CommandContext(t.Context(), filepath.Join(dir, "node_modules/.bin/esbuild"), filepath.Join(dir, "vite/src/main.tsx"),
		"--bundle", "--jsx=automatic", `--define:process.env.NODE_ENV="production"`, "--log-level=warning")
	bundle, err := esbuild.Output()
	if err != nil {
		t.Fatalf("esbuild = %v; want no error", err)
	}
	v := start(t, recording, selling).visit(t, `<!DOCTYPE html><html lang="en"><title>Site</title><div id="root"></div><script src="/main.js"></script>`,
		map[string]string{"/main.js": string(bundle)})
	click := func(label string) {
		t.Helper()
		find := fmt.Sprintf(`[...document.querySelectorAll('button')].find(b => b.textContent === %q)`, label)
		v.becomes(find + ` !== undefined`)
		v.js(find + `.focus()`)
		v.js(find + `.click()`)
	}

	v.open("/")
	v.shows("$29 / month")
	v.picture("react-pricing")
	click("Billing") // a guest
	v.becomes(`location.pathname === '/login'`)

	v.signIn("ada@example.com")
	v.open("/")
	click("Billing")
	v.becomes(`document.querySelector('[role=alert]')?.textContent === "You don't have a billing account yet. Make a purchase first."`)
	v.becomes(`document.activeElement.textContent === 'Billing' && document.activeElement.ariaBusy === 'false'`)

	v.js(`window.kept = true`)
	click("Subscribe")
	v.becomes(`location.pathname.startsWith('/c/pay/')`)
	v.js(`setTimeout(() => history.back())`)
	v.becomes(`!!window.kept && !!document.querySelector('button') && !document.querySelector('[aria-busy=true]')`)
	click("Subscribe")
	v.pays(map[string]string{"mode": "subscription", "line_items[0][price]": "price_basic_monthly", "success_url": v.url + "/success", "cancel_url": v.url + "/"})
	v.shows("This is yours:")
	v.shows("Basic, active until ")
	v.open("/")
	click("Buy")
	v.pays(map[string]string{"mode": "payment", "line_items[0][price]": "price_lifetime"})
	v.shows("Lifetime, $199")
	v.picture("react-success")
	click("Billing")
	v.becomes(`location.pathname.startsWith('/p/session/')`)

	v.open("/") // and without a session
	v.js(fmt.Sprintf(`document.cookie = '%s=; path=/; max-age=0'`, cookieName))
	v.open("/success")
	v.shows("The receipt comes by e-mail.")
}

// TestElementsSize: the pages say how much the module is on the wire, by itself and
// where a proxy compresses it.
func TestElementsSize(t *testing.T) {
	text := buttonsJS(t)
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	if _, err := z.Write(text); errors.Join(err, z.Close()) != nil {
		t.Fatal(err)
	}
	kb := func(n int) int { return (n + 500) / 1000 }
	want := fmt.Sprintf("%d KB, or %d KB where your proxy compresses", kb(len(text)), kb(compressed.Len()))
	for _, page := range []string{"../README.md", "site/README.md"} {
		if prose, err := os.ReadFile(page); err != nil || !strings.Contains(strings.Join(strings.Fields(string(prose)), " "), want) {
			t.Errorf("%s, %v: does not say %q", page, err, want)
		}
	}
}

// TestElements uses the elements of the page as a buyer does, under a strict content
// security policy.
func TestElements(t *testing.T) {
	t.Parallel()
	page, files := "<!DOCTYPE html><html lang=\"en\"><title>Site</title><link rel=\"stylesheet\" href=\"/style.css\">", map[string]string{}
	for _, s := range sandboxtest.Snippets(t, sitePage) {
		switch {
		case s.Language == "css":
			files["/style.css"] = s.Text
		case strings.Contains(s.Text, "import"):
			files["/success"] = s.Text
		default:
			page += s.Text
		}
	}
	v := start(t, recording, selling).visit(t, page, files)
	element := func(selector, script string) string {
		return fmt.Sprintf(`(e => e && customElements.get(e.localName) && %s)(document.querySelector(%q))`, script, selector)
	}
	click := func(selector string) {
		t.Helper()
		v.becomes(element(selector, `!!e.shadowRoot`))
		v.js(element(selector, `e.shadowRoot.querySelector('button').click()`))
	}
	const subscribe, five, account, cancel = `[price=price_pro_monthly]`, `[quantity]`, `[signin-url][return-url]`, `[flow]`

	v.open("/")
	v.becomes(element("button-price", `e.shadowRoot.textContent === '$29 / month'`))
	v.becomes(element(subscribe, `getComputedStyle(e.shadowRoot.querySelector('button')).backgroundColor === 'rgb(102, 51, 153)'`))
	v.becomes(element("button-price", `getComputedStyle(e.shadowRoot.querySelector('[part=interval]')).opacity === '0.7'`))
	v.picture("elements")
	click(cancel)
	v.becomes(element(cancel, `e.shadowRoot.querySelector('[role=alert]').textContent === 'Not signed in' && !e.ariaBusy`))
	click(account)
	v.becomes(`location.pathname === '/login'`)

	v.signIn("ada@example.com")
	v.open("/shop")
	click(five)
	v.pays(map[string]string{"mode": "subscription", "line_items[0][price]": "price_basic_monthly", "line_items[0][quantity]": "5",
		"success_url": v.url + "/shop", "cancel_url": v.url + "/shop"})
	click(subscribe)
	v.pays(map[string]string{"success_url": v.url + "/success", "cancel_url": v.url + "/pricing"})
	v.shows("Thank you. You have 2 so far.")

	v.open("/shop")
	v.js(fmt.Sprintf(`document.querySelector(%q).setAttribute('subscription', %q)`, cancel, v.stripe.Subscriptions()[0].ID))
	click(cancel)
	v.becomes(`location.pathname.startsWith('/p/session/')`)
	if opened := v.stripe.PortalSessions(); opened[0].Flow != "subscription_cancel" || opened[0].ReturnURL != v.url+"/shop" {
		t.Errorf("portal = %+v; want the step subscription_cancel, back to the page", opened[0])
	}
}
