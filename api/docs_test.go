package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// TestReadmeCurl pastes the page's commands into a shell.
func TestReadmeCurl(t *testing.T) {
	t.Parallel()
	sandboxtest.Program(t, "curl", "curl")
	w := start(t, recording)
	ada, _ := w.signUp("ada@example.com")
	token := w.supabase.SignIn(ada.ID).AccessToken
	w.pay(buyOnce, "Authorization", "Bearer "+token)
	answers := map[string]string{
		"create-checkout": `"url":"http`,
		"create-portal":   `"url":"http`,
		"sync":            `"purchases":[{`,
	}
	for _, s := range sandboxtest.Snippets(t, "api/README.md") {
		script := strings.ReplaceAll(s.Text, "https://example.com/api/", w.url+"/api/")
		script = strings.ReplaceAll(script, "price_123", "price_pro_monthly") // which the imitation has
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
		cmd.Env = append(os.Environ(), "ACCESS_TOKEN="+token)
		out, err := cmd.Output()
		path, _, _ := strings.Cut(strings.SplitN(script, "/api/stripe/", 2)[1], " ")
		want := answers[strings.TrimSpace(path)]
		if want == "" || err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s:%d: %s= %s, %v; want %s", s.File, s.Line, script, out, err, want)
		}
		delete(answers, strings.TrimSpace(path))
	}
	if len(answers) > 0 {
		t.Errorf("no command for %v; want one for each", answers)
	}
}

// TestReadmeSQL: the policy of the pages lets subscribers read, and nobody else.
func TestReadmeSQL(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"README.md", "api/README.md"} {
		for _, s := range sandboxtest.Snippets(t, page) {
			db := postgres(t).install()
			db.AddUser(userA)
			db.AddUser(userB)
			writers[0].mustWrite(db, 1, writers[0].row)
			db.Script(`create table public.articles (title text);
				alter table public.articles enable row level security;
				insert into public.articles values ('a'), ('b');`)
			db.Script(strings.ReplaceAll(s.Text, "prod_123", "prod_pro"))
			for user, want := range map[string]int64{userA: 2, userB: 0} {
				if n, err := db.Exec("authenticated", user, "select from public.articles"); n != want || err != nil {
					t.Errorf("%s:%d: articles that user %s sees = %d, %v; want %d", s.File, s.Line, user, n, err, want)
				}
			}
		}
	}
}

// TestReadmeTriggers runs the page's SQL: each purchase is noted once, when it is paid,
// and the site is called once for it.
func TestReadmeTriggers(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	db.AddUser(userA)
	// As Supabase has it, but that it writes down what it would send.
	if err := db.RunAs("supabase_admin", `create schema supabase_functions;
		grant usage on schema supabase_functions to postgres;
		create table supabase_functions.sent (url text, headers jsonb, body jsonb);
		create function supabase_functions.http_request() returns trigger language plpgsql security definer as $$
		begin
			insert into supabase_functions.sent values (tg_argv[0], tg_argv[2]::jsonb,
				jsonb_build_object('type', tg_op, 'table', tg_table_name, 'record', to_jsonb(new), 'timeout', tg_argv[4]::integer));
			return new;
		end $$;`); err != nil {
		t.Fatal(err)
	}
	var left string
	for _, s := range sandboxtest.Snippets(t, "api/README.md") {
		if strings.HasPrefix(s.Text, "select") {
			left = strings.TrimSuffix(strings.TrimSpace(s.Text), ";")
			continue
		}
		db.Script(s.Text)
	}
	if left == "" {
		t.Fatal("no block that looks for what was left lying; want one")
	}
	subscription, purchase := writers[0], writers[1]
	ticket := 0
	write := func(w writer, changes ...any) {
		ticket++
		w.mustWrite(db, ticket, w.with(changes...))
	}
	orders := func() string {
		return db.Text(`select coalesce(string_agg(concat_ws(' ', id, coalesce(user_id::text, 'guest')), ', ' order by id), '') from public.orders`)
	}
	sent := func() string { return db.Text("select count(*) from supabase_functions.sent") }
	const cs, sub = "cs_1", "sub_1"
	for _, step := range []struct {
		what    string
		w       writer
		changes []any
		orders  string
		sent    string
	}{
		{"open", purchase, []any{"id", cs, "user_id", nil, "status", "open", "payment_status", "unpaid"}, "", "0"},
		{"completed, not paid yet", purchase, []any{"id", cs, "user_id", nil, "payment_status", "unpaid"}, "", "0"},
		{"paid by a guest", purchase, []any{"id", cs, "user_id", nil}, cs + " guest", "1"},
		{"told again", purchase, []any{"id", cs, "user_id", nil}, cs + " guest", "1"},
		{"claimed", purchase, []any{"id", cs, "user_id", userA}, cs + " " + userA, "1"},
		{"refunded", purchase, []any{"id", cs, "user_id", userA, "amount_refunded", 1}, cs + " " + userA, "1"},
		{"a subscription without its first payment", subscription, []any{"id", sub, "user_id", userA, "status", "incomplete"}, cs + " " + userA, "1"},
		{"active", subscription, []any{"id", sub, "user_id", userA}, cs + " " + userA + ", " + sub + " " + userA, "2"},
		{"cancelled", subscription, []any{"id", sub, "user_id", userA, "status", "canceled"}, cs + " " + userA + ", " + sub + " " + userA, "2"},
		{"active again", subscription, []any{"id", sub, "user_id", userA}, cs + " " + userA + ", " + sub + " " + userA, "2"},
	} {
		write(step.w, step.changes...)
		if got := orders(); got != step.orders {
			t.Errorf("%s: orders = %q; want %q", step.what, got, step.orders)
		}
		if got := sent(); got != step.sent {
			t.Errorf("%s: calls of the site = %s; want %s", step.what, got, step.sent)
		}
	}
	if got := db.Text("select url || ' ' || (body #>> '{record,id}') || ' ' || (headers ? 'Authorization') from supabase_functions.sent order by body #>> '{record,created}' limit 1"); got != "https://example.com/api/order "+cs+" true" {
		t.Errorf("first call = %q; want one with the row and the secret", got)
	}
	db.Must("update public.orders set created = now() - interval '1 hour'")
	db.Must("update public.orders set done = now() where id = $1", sub)
	if got := db.Text("select string_agg(id, ' ') from (" + left + ") lying"); got != cs {
		t.Errorf("orders left lying = %s; want %s", got, cs)
	}
	for _, role := range []string{"anon", "authenticated"} {
		if n, err := db.Exec(role, userA, "select from public.orders"); err == nil {
			t.Errorf("orders that %s sees = %d; want none", role, n)
		}
	}
}

// client is as much of supabase-js as the page uses; what it is asked for it prints.
const client = `
const asked = []
const builder = (query) => new Proxy({ then: (done) => { asked.push(query); done({ data: null }) } }, {
  get: (own, name) => name === 'then' ? own.then : (...args) => builder([...query, [name, ...args]]),
})
const supabase = { rpc: (...args) => builder([['rpc', ...args]]), from: (...args) => builder([['from', ...args]]) }
`

// TestReadmeQueries runs the page's JavaScript, and what it asks for on PostgreSQL as
// PostgREST would.
func TestReadmeQueries(t *testing.T) {
	t.Parallel()
	node := sandboxtest.Program(t, "node", "nodejs")
	db := postgres(t).install()
	db.AddUser(userA)
	writers[0].mustWrite(db, 1, writers[0].row)
	asked := 0
	for _, s := range sandboxtest.Snippets(t, "api/README.md") {
		file := filepath.Join(t.TempDir(), "page.mjs")
		if err := os.WriteFile(file, []byte(client+s.Text+"\nconsole.log(JSON.stringify(asked))\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), node, file).CombinedOutput()
		if err != nil {
			t.Fatalf("%s:%d: node = %v\n%s", s.File, s.Line, err, out)
		}
		var queries [][][]any // each a chain of calls: name, arguments
		if err := json.Unmarshal(out, &queries); err != nil {
			t.Fatal(err)
		}
		for _, query := range queries {
			asked++
			sql := asSQL(t, query)
			var found int
			err := db.As("authenticated", userA, func(tx pgx.Tx) error {
				return tx.QueryRow(context.Background(), "select count(*) from ("+sql+") found").Scan(&found)
			})
			if err != nil || found != 1 {
				t.Errorf("%s:%d: %s = %d rows, %v; want one", s.File, s.Line, sql, found, err)
			}
		}
	}
	if asked != 3 {
		t.Errorf("queries of the page = %d; want 3", asked)
	}
}

// asSQL translates a chain of supabase-js's calls.
func asSQL(t *testing.T, query [][]any) string {
	t.Helper()
	columns, from, tail := "*", "", ""
	literal := func(v any) string { return "'" + strings.ReplaceAll(fmt.Sprint(v), "'", "''") + "'" }
	for _, call := range query {
		switch name := call[0]; name {
		case "rpc":
			argument := ""
			if len(call) > 2 {
				for parameter, value := range call[2].(map[string]any) {
					argument = parameter + " => " + literal(value)
				}
			}
			from = fmt.Sprintf("public.%s(%s)", call[1], argument)
		case "from":
			from = "public." + call[1].(string)
		case "select":
			columns = call[1].(string)
		case "in":
			var values []string
			for _, v := range call[2].([]any) {
				values = append(values, literal(v))
			}
			from += fmt.Sprintf(" where %s in (%s)", call[1], strings.Join(values, ", "))
		case "order":
			tail += fmt.Sprintf(" order by %s", call[1])
			if options, _ := call[2].(map[string]any); options["ascending"] == false {
				tail += " desc"
			}
		case "limit":
			tail += fmt.Sprintf(" limit %v", call[1])
		case "maybeSingle":
		default:
			t.Fatalf("supabase-js's %v is not known here", name)
		}
	}
	return "select " + columns + " from " + from + tail
}

// TestReadmeErrors: the statuses and the texts in the page's tables are the document's,
// which TestOpenAPI brings about.
func TestReadmeErrors(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, asking, _ := strings.Cut(string(page), "## Who is asking")
	asking, _, _ = strings.Cut(asking, "## Errors")
	texts := 0
	for _, part := range strings.Split(asking, "`")[1:] {
		if strings.HasSuffix(part, ".") || part == "Not signed in" {
			texts++
			if !strings.Contains(string(document), "error: "+part) && !strings.Contains(string(document), `error: "`+part) {
				t.Errorf("text %q is not openapi.yaml's", part)
			}
		}
	}
	if texts != 4 {
		t.Errorf("texts of the table = %d; want 4", texts)
	}
	for _, s := range []int{400, 401, 403, 413, 431, 429, 500, 503} {
		if !strings.Contains(string(page), fmt.Sprint(s)) || !strings.Contains(string(document), fmt.Sprintf("%q:", fmt.Sprint(s))) || http.StatusText(s) == "" {
			t.Errorf("status %d is not in both the page and the document", s)
		}
	}
}
