package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/customers"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/pgtest"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

const readme = "cmd/stripe-sidecar/README.md"

// TestReadmeVariables: the program takes each list of variables, once the three dots
// are a key's, and refuses the dots.
func TestReadmeVariables(t *testing.T) {
	for _, page := range []string{"README.md", "cmd/stripe-sidecar/README.md", "cmd/stripe-sidecar/golive.md", "cmd/stripe-sidecar/prices.md"} {
		for _, s := range sandboxtest.Snippets(t, page) {
			t.Run(fmt.Sprintf("%s/line %d", page, s.Line), func(t *testing.T) {
				dir := t.TempDir()
				for file, key := range map[string]string{"stripe": "sk_test_1", "supabase": "sb_secret_1", ".env": s.Text} {
					key = strings.ReplaceAll(key, "/run/secrets/", dir+"/")
					if err := os.WriteFile(filepath.Join(dir, file), []byte(key+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				var refused []string
				setenv(t, valid())
				for line := range strings.Lines(s.Text) {
					name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
					variable := strings.TrimSuffix(name, "_FILE")
					if !slices.ContainsFunc(variables(), func(f reflect.StructField) bool { return f.Tag.Get("envconfig") == variable }) {
						t.Errorf("%s is none of the program's", name)
					}
					t.Setenv(name, "") // for the file to set, and until the test ends
					t.Setenv(variable, "")
					if strings.HasSuffix(value, "...") {
						refused = append(refused, name)
					}
				}
				if err := readEnvFile(filepath.Join(dir, ".env")); err != nil {
					t.Fatal(err)
				}
				_, err := loadConfig()
				for _, name := range refused {
					if err == nil || !strings.Contains(err.Error(), name+" is a placeholder") {
						t.Errorf("configuration with the dots of %s = %v; want them refused", name, err)
					}
					t.Setenv(name, strings.ReplaceAll(os.Getenv(name), "...", "0123456789"))
				}
				if _, err := loadConfig(); err != nil || len(strangers()) > 0 {
					t.Errorf("configuration = %v, unknown: %q; want no mistake", err, strangers())
				}
			})
		}
	}
}

// row is one of a table in Markdown: its cells.
type row []string

// tables returns the rows below a heading of a page, up to the next one of any level.
func tables(t *testing.T, page, heading string) []row {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(sandboxtest.Root(t), page))
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			inside = strings.TrimLeft(line, "# ") == heading
		}
		if inside && strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "| ---") {
			var cells row
			for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
				cells = append(cells, strings.TrimSpace(cell))
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) < 2 {
		t.Fatalf("table below %q of %s = %d rows; want some", heading, page, len(rows))
	}
	return rows[1:]
}

// TestReadmeTable: the table of variables is the program's own, in its order, with its
// defaults; and what is said to be required is.
func TestReadmeTable(t *testing.T) {
	setenv(t, nil)
	_, missing := loadConfig()
	rows := tables(t, readme, "Variables")
	var names, want []string
	for _, r := range rows {
		names = append(names, strings.Trim(r[0], "`"))
	}
	for _, field := range variables() {
		want = append(want, field.Tag.Get("envconfig"))
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("variables of the table = %q; want %q", names, want)
	}
	words := map[string]string{"TRUSTED_PROXIES": "loopback, private ranges", "LOG_FORMAT": "`json`"} // what no tag says shortly, or at all
	for _, field := range variables() {
		name, standard := field.Tag.Get("envconfig"), field.Tag.Get("default")
		i := slices.IndexFunc(rows, func(r row) bool { return r[0] == "`"+name+"`" })
		if i < 0 {
			continue // said above
		}
		got := rows[i][1]
		switch {
		case words[name] != "":
			if got != words[name] {
				t.Errorf("default of %s = %s; want %s", name, got, words[name])
			}
		case standard != "" && got != "`"+standard+"`", standard == "" && strings.HasPrefix(got, "`"):
			t.Errorf("default of %s = %s; want `%s`", name, got, standard)
		}
		if required := strings.Contains(missing.Error(), name+" is not set"); required != (got == "required") {
			t.Errorf("%s: default = %s; required is %t", name, got, required)
		}
	}
}

// TestReadmeEvents: the page lists the Events that the doctor asks for.
func TestReadmeEvents(t *testing.T) {
	for _, s := range sandboxtest.Snippets(t, "cmd/stripe-sidecar/README.md") {
		if got, want := strings.Fields(s.Text), billing.HandledEvents(); !slices.Equal(got, want) {
			t.Errorf("%s:%d lists the events %q; want %q", s.File, s.Line, got, want)
		}
	}
}

// said returns what the program can say, and the imitation of Stripe: the string
// constants of each source file, and the schema.
func said(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{"api/schema.sql": {strings.ReplaceAll(string(api.Schema), "''", "'")}}
	root := sandboxtest.Root(t)
	for _, folder := range []string{"cmd/stripe-sidecar", "api", "internal/auth", "internal/billing", "internal/customers", "internal/upstream", "internal/sandbox/fakestripe"} {
		files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil {
						all[file] = append(all[file], text)
					}
				}
				return true
			})
		}
	}
	return all
}

// TestTroubleshooting: what the page explains, the program says, word for word; and
// the metrics that it names there are.
func TestTroubleshooting(t *testing.T) {
	all := said(t)
	quoted := regexp.MustCompile("^`([^`]+)`$")
	n := 0
	for _, section := range []string{"What a page shows", "What Stripe's dashboard shows of the webhook", "At start", "In the log", "From the doctor", "From the schema"} {
		for _, r := range tables(t, readme, section) {
			text := quoted.FindStringSubmatch(r[0])
			if text == nil || len(r) != 2 || r[1] == "" {
				t.Errorf("%s: row %q = no text in backticks with what to do; want both", section, r)
				continue
			}
			n++
			var parts []string // between what depends on the set-up
			for part := range strings.SplitSeq(text[1], "…") {
				if part = strings.TrimSpace(part); part != "" && part != ":" {
					parts = append(parts, part)
				}
			}
			found := false
			for _, constants := range all {
				missing := slices.ContainsFunc(parts, func(part string) bool {
					return !slices.ContainsFunc(constants, func(c string) bool { return strings.Contains(c, part) })
				})
				found = found || !missing
			}
			if !found || len(parts) == 0 {
				t.Errorf("%s: %q is said nowhere in the program", section, text[1])
			}
		}
	}
	if n < 40 {
		t.Errorf("texts that are explained = %d; want the 40 and more that there were", n)
	}
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`stripe_sidecar_[a-z_]+`).FindAllString(string(page), -1) {
		if !slices.Contains(slices.Concat(slices.Collect(maps.Values(all))...), name) {
			t.Errorf("metric %s is none of the program's", name)
		}
	}
}

// shell runs a script with the program in PATH under its name.
func shell(t *testing.T, env map[string]string, script string) (stdout, stderr string, err error) {
	t.Helper()
	dir := t.TempDir()
	program := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", beTheProgram, os.Args[0])
	if err := os.WriteFile(filepath.Join(dir, "stripe-sidecar"), []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Env = append(os.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// TestReadmeShell runs the commands of the pages against the imitations.
func TestReadmeShell(t *testing.T) {
	expected := map[string]struct{ stdout, stderr string }{
		"schema":  {stdout: "create table if not exists public.stripe_subscriptions ("},
		"webhook": {stdout: "STRIPE_WEBHOOK_SECRET=whsec_", stderr: "created we_"},
		"sync":    {stderr: "1 of 1 customers"},
	}
	seen := map[string]bool{}
	for _, page := range []string{"cmd/stripe-sidecar/README.md", "cmd/stripe-sidecar/customers.md"} {
		for _, s := range sandboxtest.Snippets(t, page) {
			_, after, _ := strings.Cut(s.Text, "stripe-sidecar ")
			command := strings.Fields(after)[0]
			want, ok := expected[command]
			if !ok {
				t.Errorf("%s:%d: there is no expectation for %q", page, s.Line, s.Text)
				continue
			}
			seen[command] = true
			_, supabase, env := surroundings(t, fakestripe.Options{})
			supabase.Insert("customers", map[string]any{"id": supabase.SignUp("ada@example.com", "correct horse").ID, "stripe_customer_id": "cus_not_there"})
			stdout, stderr, err := shell(t, env, s.Text)
			if err != nil || !strings.Contains(stdout, want.stdout) || !strings.Contains(stderr, want.stderr) {
				t.Errorf("%s:%d: %s= %v, %.300q, %q; want %q, %q", page, s.Line, s.Text, err, stdout, stderr, want.stdout, want.stderr)
			}
		}
	}
	if len(seen) != len(expected) {
		t.Errorf("commands that were run = %v; want %d", seen, len(expected))
	}
}

// TestReadmeCron: the line is a crontab's, and its command succeeds.
func TestReadmeCron(t *testing.T) {
	for _, s := range sandboxtest.Snippets(t, "cmd/stripe-sidecar/golive.md") {
		line := regexp.MustCompile(`^(?:[0-9*,/-]+ +){5}(stripe-sidecar .*)\n$`).FindStringSubmatch(s.Text)
		if line == nil {
			t.Fatalf("%s:%d: %q is not a line of a crontab", s.File, s.Line, s.Text)
		}
		_, _, env := surroundings(t, fakestripe.Options{})
		file := filepath.Join(t.TempDir(), "stripe-sidecar.env")
		var text string
		for name, value := range env {
			text += name + "=" + value + "\n"
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, stderr, err := shell(t, nil, strings.ReplaceAll(line[1], "/etc/stripe-sidecar.env", file)); err != nil || !strings.Contains(stderr, "0 of 0 customers") {
			t.Errorf("%s = %v, %q; want every Customer done", line[1], err, stderr)
		}
	}
}

// TestReadmeProfiles: the schema stops at a table of profiles that users may write, and
// the page's statements are what it wants.
func TestReadmeProfiles(t *testing.T) {
	db := pgtest.New(t)
	db.Script(`create table public.profiles (id uuid primary key references auth.users (id) on delete cascade, username text, customer_id text unique);
		alter table public.profiles enable row level security;
		create policy "users update their own profile" on public.profiles for update to authenticated using ((select auth.uid()) = id);
		revoke insert on public.profiles from anon, authenticated;`)
	setenv(t, map[string]string{"CUSTOMERS_TABLE": "profiles", "CUSTOMERS_CUSTOMER_COLUMN": "customer_id"})
	var printed, stderr bytes.Buffer
	if code := run(t.Context(), []string{"schema"}, &printed, &stderr); code != 0 {
		t.Fatalf("schema = %d %s; want 0", code, &stderr)
	}
	sql := printed.String()
	if err := db.Try(sql); err == nil || !strings.Contains(err.Error(), "opens that Customer's billing portal") {
		t.Errorf("the schema over profiles that users may write = %v; want it to stop", err)
	}
	for _, s := range sandboxtest.Snippets(t, "cmd/stripe-sidecar/README.md") {
		db.Script(s.Text)
	}
	db.Script(sql)
}

// TestReadmeVersion: the schema tells its version, and what is wrong with it.
func TestReadmeVersion(t *testing.T) {
	db := pgtest.New(t)
	db.Script(string(api.Schema))
	var answers []string
	for _, s := range sandboxtest.Snippets(t, "cmd/stripe-sidecar/README.md") {
		answers = append(answers, db.Text(strings.TrimSuffix(strings.TrimSpace(s.Text), ";")))
	}
	if len(answers) != 2 || answers[0] != strconv.Itoa(customers.SchemaVersion) || !strings.Contains(answers[1], `"problems": []`) {
		t.Errorf("version and problems = %q; want %d and none", answers, customers.SchemaVersion)
	}
}

// TestReadmeEmpty: what test mode has left goes, and what was sold for money stays.
func TestReadmeEmpty(t *testing.T) {
	const user = "11111111-1111-4111-8111-111111111111"
	db := pgtest.New(t)
	db.Script(string(api.Schema))
	db.AddUser(user)
	db.Must("insert into public.customers values ($1, 'cus_test')", user)
	db.Must("insert into public.stripe_deleted_users (stripe_customer_id, user_id) values ('cus_gone', $1)", user)
	for mode, id := range map[string]string{"true": "live", "false": "test"} {
		db.Must("insert into public.subscriptions (id, stripe_customer_id, status, cancel_at_period_end, created, livemode, ticket) values ('sub_" + id + "', 'cus_1', 'active', false, now(), " + mode + ", 1)")
		db.Must("insert into public.purchases (id, line_items, created, livemode, ticket) values ('cs_" + id + "', '[]', now(), " + mode + ", 1)")
	}
	for _, s := range sandboxtest.Snippets(t, "cmd/stripe-sidecar/golive.md") {
		db.Script(s.Text)
	}
	got := db.Text(`select concat_ws(' ', (select string_agg(id, ' ') from public.subscriptions), (select string_agg(id, ' ') from public.purchases),
		(select count(*) from public.stripe_deleted_users), (select string_agg(coalesce(stripe_customer_id, 'none'), ' ') from public.customers))`)
	if want := "sub_live cs_live 0 none"; got != want {
		t.Errorf("what is left = %s; want %s", got, want)
	}
}

// TestReadmeCustomers runs the page's import: who is known for certain gets their
// Customer, and nobody else's.
func TestReadmeCustomers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Script(string(api.Schema))
	if err := db.RunAs("supabase_admin", "alter table auth.users add column email_confirmed_at timestamptz"); err != nil {
		t.Fatal(err)
	}
	user := func(n int) string { return fmt.Sprintf("11111111-1111-4111-8111-%012d", n) }
	for n, u := range []struct {
		email     string
		confirmed bool
	}{1: {"meta@example.com", false}, 2: {"Mail@example.com", true}, 3: {"open@example.com", false}, 4: {"two@example.com", true}, 5: {"has@example.com", true}, 6: {"twin@example.com", true}, 7: {"TWIN@example.com", true}, 8: {"empty@example.com", true}} {
		if n > 0 {
			confirmed := "null"
			if u.confirmed {
				confirmed = "now()"
			}
			db.Must("insert into auth.users (id, email, email_confirmed_at) values ($1, $2, "+confirmed+")", user(n), u.email)
		}
	}
	db.Must("insert into public.customers values ($1, 'cus_own'), ($2, null)", user(5), user(8))
	snippets := sandboxtest.Snippets(t, "cmd/stripe-sidecar/customers.md")
	if len(snippets) != 5 {
		t.Fatalf("blocks of customers.md = %d; want 5: table, metadata, e-mail, rest, end", len(snippets))
	}
	db.Script(snippets[0].Text)
	for _, row := range [][3]string{
		{"cus_meta", "somebody@example.com", user(1)}, // the metadata counts, not the address
		{"cus_mail", "mail@EXAMPLE.com", ""},
		{"cus_open", "open@example.com", ""}, // never confirmed
		{"cus_two_a", "two@example.com", ""}, {"cus_two_b", "two@example.com", ""},
		{"cus_has", "has@example.com", ""},                       // who has one already
		{"cus_own", "mail@example.com", ""},                      // which is another user's already
		{"cus_twin", "twin@example.com", ""},                     // whose of the two?
		{"cus_nobody", "nobody@example.com", ""},                 // no account
		{"cus_lost", "", "22222222-2222-4222-8222-222222222222"}, // the user is gone
		{"cus_empty", "empty@example.com", ""},                   // a row without a Customer
		{"cus_both_a", "x@example.com", user(3)}, {"cus_both_b", "y@example.com", user(3)},
	} {
		db.Must("insert into public.stripe_import values ($1, nullif($2, ''), nullif($3, '')::uuid)", row[0], row[1], row[2])
	}
	for range 2 { // as often as one likes
		db.Script(snippets[1].Text)
		db.Script(snippets[2].Text)
	}
	got := db.Text(`select string_agg(right(id::text, 1) || ' ' || stripe_customer_id, ', ' order by id) from public.customers`)
	if want := "1 cus_meta, 2 cus_mail, 5 cus_own, 8 cus_empty"; got != want {
		t.Errorf("Customers of the users = %s; want %s", got, want)
	}
	rest := strings.TrimSuffix(strings.TrimSpace(snippets[3].Text), ";")
	got = db.Text(`select string_agg(customer_id, ' ' order by customer_id) from (` + rest + `) rest`)
	if want := "cus_both_a cus_both_b cus_has cus_lost cus_nobody cus_open cus_twin cus_two_a cus_two_b"; got != want {
		t.Errorf("what is left = %s; want %s", got, want)
	}
	if n, err := db.Exec("authenticated", user(1), "select from public.stripe_import"); err == nil {
		t.Errorf("rows of the list that a user reads = %d; want none", n)
	}
	db.Script(snippets[4].Text)
}

// TestReadmeNginx puts nginx before the running program, as the first page has it: the
// cookie of a long session goes in, and the renewed one comes back.
func TestReadmeNginx(t *testing.T) {
	for _, s := range sandboxtest.Snippets(t, "README.md") {
		w := startWired(t, "RATE_LIMIT_PER_MINUTE", "0")
		location := strings.ReplaceAll(s.Text, "http://127.0.0.1:8080", w.url)
		if location == s.Text {
			t.Fatalf("%s:%d: the block names no http://127.0.0.1:8080", s.File, s.Line)
		}
		nginx := proxies[slices.IndexFunc(proxies, func(p proxy) bool { return p.program == "nginx" })]
		w.url = nginx.start(t, "server { listen 127.0.0.1:PORT; location / { return 200; }\n"+location+"}")
		sendLongSession(t, w)
	}
}
