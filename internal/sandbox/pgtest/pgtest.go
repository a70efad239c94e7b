// Package pgtest gives tests a Supabase project's database on a real PostgreSQL
// server, reached as PostgREST reaches it.
package pgtest

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// clusterScript runs a PostgreSQL server in a temporary directory, whose name
// it prints when the server is ready, until its input ends. The input ends with
// the test binary, however that ends, so nothing is left behind.
const clusterScript = `
set -eu
exec 2>&1
bin=$1
# As Supabase has it; Debian has it in the server's own package.
preload=
[ ! -e "$bin/../lib/pg_stat_statements.so" ] || preload=pg_stat_statements
# In memory, where there is plenty: a database is 300 files, which takes a disk eight
# times as long to copy.
free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $4}')
[ "${free:-0}" -lt 4000000 ] || TMPDIR=/dev/shm
dir=$(TMPDIR=${TMPDIR:-/tmp} mktemp -d)
cd "$dir"
finish() {
	"$bin/pg_ctl" -D data -m immediate stop >/dev/null 2>&1 || :
	cd / && rm -rf "$dir"
}
trap finish EXIT
trap : HUP INT TERM
{
	"$bin/initdb" -D data -U supabase_admin -A trust -E UTF8 --locale=C -N
	"$bin/pg_ctl" -D data -l log -w -t 60 -o "-p 5432 -k $dir -c listen_addresses= -c fsync=off \
		-c max_connections=200 -c statement_timeout=60s -c timezone=UTC -c shared_preload_libraries=$preload" start
} >setup 2>&1 || { cat setup log; exit 1; }
echo "$dir"
cat >/dev/null
`

// supabaseSQL is what a project has before anybody adds to it, as far as it
// matters here: postgres, which runs the schema, is no superuser and does not
// own auth.users. Written after github.com/supabase/postgres, migrations/db.
const supabaseSQL = `
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role supabase_auth_admin noinherit createrole;
create role postgres login createrole createdb bypassrls;
alter database supabase owner to postgres;

create schema auth authorization supabase_auth_admin;
create table auth.users (id uuid primary key, email text);
alter table auth.users owner to supabase_auth_admin;
alter table auth.users enable row level security;
grant all on auth.users to postgres;
create function auth.uid() returns uuid language sql stable as $$
  select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
grant usage on schema auth to postgres, anon, authenticated, service_role;
grant usage on schema public to anon, authenticated, service_role;
`

// supabaseGrants is what projects give to whatever is added to them; those set
// up since the middle of 2026, and all since October, give nothing. https://github.com/orgs/supabase/discussions/45329
const supabaseGrants = `
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
`

type cluster struct {
	dir   string
	input io.Closer // kept: a collected pipe is a closed one
}

// startCluster starts the one PostgreSQL server of the test binary.
var startCluster = sync.OnceValues(func() (*cluster, error) {
	bin := programs()
	args := []string{"sh", "-c", clusterScript, "sh", bin}
	if os.Geteuid() == 0 { // which PostgreSQL refuses
		args = append([]string{"runuser", "-u", "nobody", "--"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(output)
	dir, err := lines.ReadString('\n')
	if !filepath.IsAbs(dir) || err != nil {
		rest, _ := io.ReadAll(lines)
		return nil, fmt.Errorf("starting PostgreSQL: %s%s", dir, rest)
	}
	c := &cluster{dir: strings.TrimSpace(dir), input: input}
	for _, step := range []struct{ user, database, sql string }{
		{"supabase_admin", "postgres", "create database supabase"},
		{"supabase_admin", "supabase", supabaseSQL},
		{"postgres", "supabase", supabaseGrants},
	} {
		if err := c.run(step.user, step.database, step.sql); err != nil {
			return nil, err
		}
	}
	return c, nil
})

// programs returns the directory of PostgreSQL's programs, "" if they
// are not installed. Debian keeps them out of PATH.
func programs() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if initdb, err := exec.LookPath("initdb"); err == nil {
		found = append(found, initdb)
	}
	if len(found) == 0 {
		return ""
	}
	initdb, err := filepath.EvalSymlinks(found[len(found)-1])
	if err != nil {
		return ""
	}
	return filepath.Dir(initdb)
}

func (c *cluster) connect(ctx context.Context, user, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, c.address(user, database))
}

func (c *cluster) address(user, database string) string {
	return fmt.Sprintf("host=%s port=5432 user=%s dbname=%s sslmode=disable", c.dir, user, database)
}

// Run runs a script, which may have several statements.
func (c *cluster) run(user, database, sql string) error {
	ctx := context.Background()
	conn, err := c.connect(ctx, user, database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// Database is a Supabase project's database on a real PostgreSQL server. It is
// safe for concurrent use.
type Database struct {
	tb      testing.TB
	name    string
	cluster *cluster
	idle    chan *pgx.Conn
}

var databases atomic.Int64

// New returns a new database without the service's tables, of a project
// that grants new tables to everybody. It skips the test where PostgreSQL is
// not installed.
func New(tb testing.TB) *Database {
	tb.Helper()
	if programs() == "" {
		sandboxtest.Skip(tb, "install PostgreSQL (Debian: postgresql) to run this test")
	}
	c, err := startCluster()
	if err != nil {
		tb.Fatal(err)
	}
	db := &Database{tb: tb, name: fmt.Sprintf("test_%d", databases.Add(1)), cluster: c, idle: make(chan *pgx.Conn, 64)}
	if err := c.run("supabase_admin", "postgres", "create database "+db.name+" template supabase owner postgres"); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		close(db.idle)
		for conn := range db.idle {
			_ = conn.Close(context.Background())
		}
	})
	return db
}

// Script runs statements as postgres, whom the SQL editor runs as.
func (db *Database) Script(sql string) {
	db.tb.Helper()
	if err := db.Try(sql); err != nil {
		db.tb.Fatalf("%.200s = %v; want no error", sql, err)
	}
}

func (db *Database) Try(sql string) error { return db.RunAs("postgres", sql) }

// RunAs runs a script as a role of the server, which may be a superuser's.
func (db *Database) RunAs(role, sql string) error { return db.cluster.run(role, db.name, sql) }

// Run is Try that also returns the notices.
func (db *Database) Run(sql string) (notices []string, err error) {
	db.tb.Helper()
	ctx := context.Background()
	config, err := pgx.ParseConfig(db.cluster.address("postgres", db.name))
	if err != nil {
		return nil, err
	}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return notices, err
}

// Psql returns the command psql as postgres, who is asked for nothing.
func (db *Database) Psql(arguments ...string) *exec.Cmd {
	return exec.Command(filepath.Join(programs(), "psql"), append([]string{"-X", "-h", db.cluster.dir, "-p", "5432", "-U", "postgres", "-d", db.name}, arguments...)...)
}

// As runs f in a transaction as PostgREST does for a request of this role;
// userID is the user of the access token, "" for none.
func (db *Database) As(role, userID string, f func(pgx.Tx) error) (err error) {
	ctx := context.Background()
	var conn *pgx.Conn
	select {
	case conn = <-db.idle:
	default:
		if conn, err = db.cluster.connect(ctx, "supabase_admin", db.name); err != nil {
			return err
		}
	}
	defer func() {
		if conn.IsClosed() {
			return
		}
		select {
		case db.idle <- conn:
		default:
			_ = conn.Close(ctx)
		}
	}()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		claims, err := json.Marshal(map[string]string{"sub": userID, "role": role})
		if err != nil {
			return err
		}
		if userID == "" {
			claims = nil
		}
		if _, err := tx.Exec(ctx, "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)",
			role, string(claims)); err != nil {
			return err
		}
		return f(tx)
	})
}

// Exec runs one statement as a role and returns how many rows it touched.
func (db *Database) Exec(role, userID, sql string, args ...any) (rows int64, err error) {
	err = db.As(role, userID, func(tx pgx.Tx) error {
		tag, err := tx.Exec(context.Background(), sql, args...)
		rows = tag.RowsAffected()
		return err
	})
	return rows, err
}

// Must is Exec past all rights.
func (db *Database) Must(sql string, args ...any) {
	db.tb.Helper()
	if _, err := db.Exec("supabase_admin", "", sql, args...); err != nil {
		db.tb.Fatalf("%s = %v; want no error", sql, err)
	}
}

// Text returns the first column of the first row, past all rights; null is "null".
func (db *Database) Text(sql string, args ...any) string {
	db.tb.Helper()
	var out *string
	if err := db.As("supabase_admin", "", func(tx pgx.Tx) error {
		return tx.QueryRow(context.Background(), "select ("+sql+")::text", args...).Scan(&out)
	}); err != nil {
		db.tb.Fatalf("%s = %v; want no error", sql, err)
	}
	if out == nil {
		return "null"
	}
	return *out
}

// AddUser adds a user to auth.users, which the sandbox's sign-up does not.
func (db *Database) AddUser(id string) {
	db.tb.Helper()
	db.Must("insert into auth.users (id) values ($1)", id)
}

// Connect makes the calls of the schema's functions that reach supabase
// run in it. It takes supabase's one interceptor; a test that needs it calls
// ServeFunctions in its own.
//
// Supabase.Function would not do: functions registered there run under the
// sandbox's one lock, and writes that never meet could not overtake each other.
func (db *Database) Connect(tb testing.TB, supabase *fakesupabase.Project) {
	tb.Helper()
	supabase.Intercept(db.ServeFunctions)
	tb.Cleanup(func() { supabase.Intercept(nil) })
}

// functions are the calls as PostgREST writes them, the body being $1.
var functions = map[string]string{
	"stripe_ticket()":           `select public.stripe_ticket()::text where $1::json is not null`, // as version 1 is called
	"stripe_ticket":             `select public.stripe_ticket(needs)::text from json_to_record($1) as (needs integer)`,
	"stripe_schema":             `select public.stripe_schema()::text where $1::json is not null`,
	"stripe_users_left":         `select public.stripe_users_left(most)::text from json_to_record($1) as (most integer)`,
	"stripe_write_subscription": `select public.stripe_write_subscription(ticket, subscription)::text from json_to_record($1) as (ticket bigint, subscription jsonb)`,
	"stripe_write_purchase":     `select public.stripe_write_purchase(ticket, purchase)::text from json_to_record($1) as (ticket bigint, purchase jsonb)`,
}

// ServeFunctions answers POST /rest/v1/rpc/<one of the schema's functions> and
// reports whether r was such a request.
func (db *Database) ServeFunctions(w http.ResponseWriter, r *http.Request) bool {
	name := strings.TrimPrefix(r.URL.Path, "/rest/v1/rpc/")
	query, ok := functions[name]
	if !ok || r.Method != http.MethodPost {
		return false
	}
	role, ok := roleOf(r)
	if !ok {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if name == "stripe_ticket" && !strings.Contains(string(body), "needs") {
		query = functions["stripe_ticket()"]
	}
	var result string
	if err == nil {
		err = db.As(role, "", func(tx pgx.Tx) error {
			return tx.QueryRow(r.Context(), query, cmp.Or(string(body), "{}")).Scan(&result)
		})
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err != nil {
		answerPGError(w, role, err)
		return true
	}
	if result == "" { // void
		w.WriteHeader(http.StatusNoContent)
		return true
	}
	_, _ = io.WriteString(w, result)
	return true
}

// roleOf returns the role of a request's API key; not ok where there is none, for the
// imitation's gateway to refuse.
func roleOf(r *http.Request) (role string, ok bool) {
	switch r.Header.Get("apikey") {
	case fakesupabase.ServiceRoleKey:
		return "service_role", true
	case fakesupabase.AnonKey:
		return "anon", true
	}
	return "", false
}

// ServeREST answers the functions, and what the doctor asks of a table: a read of
// columns and an update, as the role of the API key; false for anything else.
func (db *Database) ServeREST(w http.ResponseWriter, r *http.Request) bool {
	table, ok := strings.CutPrefix(r.URL.Path, "/rest/v1/")
	if !ok || strings.HasPrefix(table, "rpc/") || r.Method != http.MethodGet && r.Method != http.MethodPatch {
		return db.ServeFunctions(w, r)
	}
	role, ok := roleOf(r)
	if !ok {
		return false
	}
	identifier := func(name string) string { return pgx.Identifier{name}.Sanitize() }
	where := "true"
	var columns []string
	for name, values := range r.URL.Query() {
		value, equal := strings.CutPrefix(values[0], "eq.")
		switch {
		case name == "select":
			for column := range strings.SplitSeq(values[0], ",") {
				columns = append(columns, identifier(column))
			}
		case equal:
			where += " and " + identifier(name) + " = '" + strings.ReplaceAll(value, "'", "''") + "'"
		case name != "limit":
			return false
		}
	}
	query := "select " + strings.Join(columns, ",") + " from public." + identifier(table) + " where " + where + " limit 1"
	if r.Method == http.MethodPatch {
		var set map[string]any
		if err := json.NewDecoder(r.Body).Decode(&set); err != nil {
			return false
		}
		var assignments []string
		for column := range set { // to null is all that is asked for
			assignments = append(assignments, identifier(column)+" = null")
		}
		query = "update public." + identifier(table) + " set " + strings.Join(assignments, ",") + " where " + where + " returning 1"
	}
	var rows []byte
	err := db.As(role, "", func(tx pgx.Tx) error {
		return tx.QueryRow(r.Context(), "with found as ("+query+") select coalesce(json_agg(found), '[]') from found").Scan(&rows)
	})
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err != nil {
		answerPGError(w, role, err)
		return true
	}
	_, _ = w.Write(rows)
	return true
}

// answerPGError follows https://docs.postgrest.org/en/stable/references/errors.html
func answerPGError(w http.ResponseWriter, role string, err error) {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		e = &pgconn.PgError{Code: "PGRST000", Message: err.Error()}
	}
	status := http.StatusBadRequest
	switch {
	case e.Code == "23503" || e.Code == "23505":
		status = http.StatusConflict
	case e.Code == "42501" && role == "anon":
		status = http.StatusUnauthorized
	case e.Code == "42501":
		status = http.StatusForbidden
	case e.Code == "42883": // no such function
		e.Code, status = "PGRST202", http.StatusNotFound
	case e.Code == "42P01": // no such table
		e.Code, status = "PGRST205", http.StatusNotFound
	case e.Code == "PGRST000" || strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "53"):
		status = http.StatusServiceUnavailable
	case strings.HasPrefix(e.Code, "40") || strings.HasPrefix(e.Code, "57") || strings.HasPrefix(e.Code, "XX"):
		status = http.StatusInternalServerError
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"code": e.Code, "message": e.Message, "details": e.Detail, "hint": e.Hint,
	})
}
