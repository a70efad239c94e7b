package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// proxy is a recipe for what stands in front of the service: how it is made ready for
// a test, checked and started.
type proxy struct {
	program, file string
	listen        [2]string // what the recipe says, and what is to be there for a port
	wrap          string    // what the recipe is put into
	check, run    []string
}

var proxies = []proxy{
	{"nginx", "nginx.conf", [2]string{"listen 80;", "listen 127.0.0.1:PORT;"},
		"daemon off; pid DIR/pid; error_log stderr; worker_processes 2; USER events { worker_connections 2048; }\n" +
			"http { access_log off; client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;\nRECIPE\n}\n",
		[]string{"-t", "-q", "-e", "stderr", "-p", "DIR", "-c", "FILE"}, []string{"-e", "stderr", "-p", "DIR", "-c", "FILE"}},
	{"haproxy", "haproxy.cfg", [2]string{"bind :80", "bind 127.0.0.1:PORT"}, "RECIPE",
		[]string{"-c", "-q", "-f", "FILE"}, []string{"-db", "-f", "FILE"}},
	{"caddy", "Caddyfile", [2]string{":80 {\n", "http://127.0.0.1:PORT {\n\tbind 127.0.0.1\n"}, "{\n\tadmin off\n}\n\nRECIPE",
		[]string{"validate", "--adapter", "caddyfile", "--config", "FILE"}, []string{"run", "--adapter", "caddyfile", "--config", "FILE"}},
}

// startProxy puts a proxy with its recipe in front of a site and three replicas, and
// returns where it listens. edits are changes to the recipe, from, to, from, to, ….
func startProxy(t *testing.T, program, site string, replicas [3]string, edits ...string) (url string) {
	t.Helper()
	site = strings.TrimPrefix(site, "http://")
	for i := range replicas {
		replicas[i] = strings.TrimPrefix(replicas[i], "http://")
	}
	for _, p := range proxies {
		if p.program != program {
			continue
		}
		recipe, err := os.ReadFile(filepath.Join("deploy", p.file))
		if err != nil {
			t.Fatal(err)
		}
		text := string(recipe)
		changes := [][2]string{p.listen, {"172.30.0.2:3000", site},
			{"172.30.0.11:8080", replicas[0]}, {"172.30.0.12:8080", replicas[1]}, {"172.30.0.13:8080", replicas[2]}}
		for i := 0; i < len(edits); i += 2 {
			changes = append(changes, [2]string{edits[i], edits[i+1]})
		}
		for _, change := range changes {
			if !strings.Contains(text, change[0]) {
				t.Fatalf("%s lacks %q", p.file, change[0])
			}
			text = strings.Replace(text, change[0], change[1], 1)
		}
		return p.start(t, text)
	}
	t.Fatalf("there is no recipe for %s", program)
	return ""
}

// start starts a proxy with a recipe, in which PORT stands for where it listens, and
// returns that.
func (p *proxy) start(t *testing.T, recipe string) (url string) {
	t.Helper()
	path := sandboxtest.Program(t, p.program, p.program)
	dir, port, user := t.TempDir(), freePort(t), ""
	if os.Geteuid() == 0 {
		user = "user root;" // nobody else can read a test's directory
	}
	file := filepath.Join(dir, p.file)
	fill := strings.NewReplacer("DIR", dir, "FILE", file, "USER", user, "PORT", port)
	text := fill.Replace(strings.Replace(p.wrap, "RECIPE", recipe, 1))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(args []string) *exec.Cmd {
		filled := make([]string, len(args))
		for i, arg := range args {
			filled[i] = fill.Replace(arg)
		}
		cmd := exec.Command(path, filled...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		return cmd
	}
	out, err := command(p.check).CombinedOutput()
	if complaint := strings.ToLower(string(out)); err != nil || strings.Contains(complaint, "[warn") || strings.Contains(complaint, `"level":"warn"`) {
		t.Fatalf("%s about its recipe = %v\n%s\nwant nothing", p.program, err, out)
	}
	cmd := command(p.run)
	var logs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &logs, &logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release, err := child.Guard(cmd.Process.Pid)
	if err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		release()
		if t.Failed() {
			t.Logf("%s: %s", p.program, &logs)
		}
	})
	url = "http://127.0.0.1:" + port
	until(t, func() string {
		resp, err := http.Get(url + "/")
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		return resp.Status
	}, "200 OK")
	return url
}

// TestVercel: with what README.md says for a site on Vercel, whose addresses nobody
// knows, callers of one address do not share a limit.
func TestVercel(t *testing.T) {
	line := strings.TrimSpace(sandboxtest.Snippets(t, deployReadme)[0].Text)
	w := startWired(t, "TRUSTED_PROXIES", "127.0.0.1/32", "RATE_LIMIT_PER_MINUTE", "1")
	w.url = startProxy(t, "nginx", theSite(t), [3]string{w.url, w.url, w.url}, "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;", line)
	for range 3 {
		if got := w.post(t, "create-checkout", oneTime, "X-Forwarded-For", "203.0.113.1"); got != "200" {
			t.Errorf("create-checkout of a caller that is not known = %s; want 200", got)
		}
	}
}

// theSite is the site beside the service.
func theSite(t *testing.T) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "the site")
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestProxies: through each proxy, as its recipe has it, the service and nothing but
// its API is reached, sessions of 20 KB pass in both directions, and callers are told
// apart by where they call from and not by what they say.
func TestProxies(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.program, func(t *testing.T) {
			sandboxtest.Program(t, p.program, p.program)
			w := startWired(t, "TRUSTED_PROXIES", "127.0.0.1/32", "RATE_LIMIT_PER_MINUTE", "3", "STRIPE_WEBHOOK_SECRET", "whsec_wired")
			w.url = startProxy(t, p.program, theSite(t), [3]string{w.url, w.url, w.url})

			for path, want := range map[string]string{"/": "the site", "/api/stripes": "the site", "/metrics": "the site", "/readyz": "the site",
				"/api/stripe/metrics": `{"error":"Not found"}` + "\n"} {
				if got := get(t, w.url+path); got != want {
					t.Errorf("GET %s = %q; want %q", path, got, want)
				}
			}

			sendLongSession(t, w)

			large := `{"id":"evt_1","object":"event","padding":"` + strings.Repeat("x", 900<<10) + `"}`
			if got := w.post(t, "webhook", large, "Stripe-Signature", fakestripe.Sign("whsec_other", []byte(large), time.Now())); got[:3] != "400" {
				t.Errorf("an Event of 900 KB with another's signature = %s; want 400", got)
			}

			// From 127.0.0.2, whatever it says it is.
			elsewhere := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext}}
			t.Cleanup(elsewhere.CloseIdleConnections)
			var statuses []int
			for i := range 4 {
				r, err := http.NewRequest("POST", w.url+"/api/stripe/create-checkout", strings.NewReader(oneTime))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.113.%d", i))
				resp, err := elsewhere.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				statuses = append(statuses, resp.StatusCode)
			}
			if got, want := fmt.Sprint(statuses), "[200 200 200 429]"; got != want {
				t.Errorf("one client's four requests, each with another X-Forwarded-For = %s; want %s", got, want)
			}
		})
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// sendLongSession buys with a session of over 15 KB, which has ended: one is as large
// as what the site keeps about the user. It must arrive, and the renewed one come back.
func sendLongSession(t *testing.T, w *wired) {
	t.Helper()
	signedUp := sandboxtest.Send(t, w.supabase, "POST", "/auth/v1/signup",
		`{"email":"big@example.com","password":"correct horse battery staple","data":{"about":"`+strings.Repeat("x", 5000)+`"}}`, "apikey", fakesupabase.AnonKey)
	userID, _ := signedUp.Get("user.id").(string)
	if userID == "" {
		t.Fatalf("sign-up = %d %s; want a user", signedUp.Status, signedUp.Body)
	}
	cookie := "base64-" + base64.RawURLEncoding.EncodeToString(w.supabase.SignInFor(userID, -time.Minute).JSON)
	var chunks []string
	for chunk := range slices.Chunk([]byte(cookie), 3180) {
		chunks = append(chunks, fmt.Sprintf("sb-127-auth-token.%d=%s", len(chunks), chunk))
	}
	sent := strings.Join(chunks, "; ")
	status, answer, header := w.send(t, "create-checkout", oneTime, "Cookie", sent)
	renewed := strings.Join(header.Values("Set-Cookie"), "; ")
	if status != 200 || w.sold("client_reference_id") != userID || len(sent) < 15_000 || len(renewed) < 15_000 {
		t.Errorf("create-checkout with a session of %d bytes = %d %s for %q, renewed with %d bytes; want 200 for %s, and as many bytes",
			len(sent), status, answer, w.sold("client_reference_id"), len(renewed), userID)
	}
}
