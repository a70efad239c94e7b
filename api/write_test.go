package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// backend is what writes rows: PostgreSQL with the service's schema, or the
// imitation that most tests use in its place. The tests here run on both, so
// that what passes with the one holds with the other.
type backend struct {
	t        *testing.T
	supabase *fakesupabase.Project
	db       *database // nil: the imitation
	known    string    // a user
	another  string    // and another one
}

// onBackends runs f for each writer on each backend, which has no rows yet.
func onBackends(t *testing.T, f func(b *backend, w writer)) {
	for _, w := range writers {
		t.Run("imitation/"+w.table, func(t *testing.T) { f(newBackend(t, nil), w) })
		t.Run("PostgreSQL/"+w.table, func(t *testing.T) { f(newBackend(t, postgres(t).install()), w) })
	}
}

func newBackend(t *testing.T, db *database) *backend {
	b := &backend{t: t, db: db, supabase: fakesupabase.New(fakesupabase.Options{})}
	b.known = b.supabase.SignUp("a@example.com", "correct horse").ID
	b.another = b.supabase.SignUp("b@example.com", "correct horse").ID
	if db != nil {
		db.AddUser(b.known)
		db.AddUser(b.another)
		db.Connect(t, b.supabase)
	}
	return b
}

// call calls a function of the schema as the service does, and returns the
// status with the body, of an error its code and message.
func (b *backend) call(key, function string, args any) string {
	b.t.Helper()
	body, err := json.Marshal(args)
	if err != nil {
		b.t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/rest/v1/rpc/"+function, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("apikey", key)
	w := httptest.NewRecorder()
	b.supabase.ServeHTTP(w, r)
	if w.Code >= 400 {
		var e struct{ Code, Message string }
		_ = json.Unmarshal(w.Body.Bytes(), &e)
		return fmt.Sprint(w.Code, " ", e.Code, " ", e.Message)
	}
	return strings.TrimSpace(fmt.Sprint(w.Code, " ", w.Body))
}

func (b *backend) write(w writer, ticket, row any) string {
	b.t.Helper()
	return b.call(fakesupabase.ServiceRoleKey, w.function, map[string]any{"ticket": ticket, w.argument(): row})
}

// argument is the name of the function's parameter for the row.
func (w writer) argument() string { return strings.TrimPrefix(w.function, "stripe_write_") }

// stored returns the row with this id as JSON, "null" if there is none.
func (b *backend) stored(w writer, id string) string {
	b.t.Helper()
	if b.db != nil {
		return asJSON(b.t, json.RawMessage(b.db.Text("select to_jsonb(r) from public."+w.table+" r where id = $1", id)))
	}
	for _, row := range b.supabase.Rows(w.table) {
		if row["id"] == id {
			return asJSON(b.t, row)
		}
	}
	return "null"
}

// asJSON writes v so that what is equal looks equal.
func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	var plain any
	if err == nil {
		err = json.Unmarshal(text, &plain)
	}
	if err == nil {
		text, err = json.Marshal(plain)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWrite(t *testing.T) {
	t.Parallel()
	onBackends(t, func(b *backend, w writer) {
		w.row = w.with("user_id", b.known)
		type write struct {
			ticket int
			row    map[string]any
		}
		type test struct {
			name   string
			writes []write
			ticket int
			want   map[string]any
		}
		changed := w.with("stripe_customer_id", "cus_2", "metadata", nil)
		tests := []test{
			{"complete", []write{{1, w.row}}, 1, w.row},
			{"newer ticket", []write{{1, w.row}, {2, changed}}, 2, changed},
			{"older ticket", []write{{2, w.row}, {1, changed}}, 2, w.row},
			{"same ticket", []write{{1, w.row}, {1, changed}}, 1, w.row},
			{"unknown key", []write{{1, w.with("colour", "red", "ticket", 9)}}, 1, w.row},
			{"user not known", []write{{1, w.with("user_id", nil)}}, 1, w.with("user_id", nil)},
			{"user missing", []write{{1, w.without("user_id")}}, 1, w.with("user_id", nil)},
			{"user not in auth.users", []write{{1, w.with("user_id", nobody)}}, 1, w.with("user_id", nil)},
			{"user not a uuid", []write{{1, w.with("user_id", "Bob")}}, 1, w.with("user_id", nil)},
			{"user forgotten", []write{{1, w.row}, {2, w.with("user_id", nil)}}, 2, w.row},
			{"user forgotten, late", []write{{2, w.with("user_id", nil)}, {1, w.row}}, 2, w.row},
			{"user gone", []write{{1, w.row}, {2, w.with("user_id", nobody)}}, 2, w.row},
			{"user gone, late", []write{{2, w.row}, {1, w.with("user_id", nobody)}}, 2, w.row},
			{"another user", []write{{1, w.row}, {2, w.with("user_id", b.another)}}, 2, w.with("user_id", b.another)},
			{"another user, late", []write{{2, w.row}, {1, w.with("user_id", b.another)}}, 2, w.row},
			{"another time zone", []write{{1, w.with("created", "2026-10-01T02:00:00.5+02:00")}}, 1, w.with("created", "2026-10-01T00:00:00.5+00:00")},
			{"a number for text", []write{{1, w.with("price_id", 7)}}, 1, w.with("price_id", "7")},
		}
		for key := range w.row {
			switch {
			case key == "user_id" || slices.Contains(w.required, key):
			case slices.Contains(w.kept, key):
				tests = append(tests, test{key + " missing", []write{{1, w.row}, {2, w.without(key)}}, 2, w.row},
					test{key + " null", []write{{1, w.row}, {2, w.with(key, nil)}}, 2, w.with(key, nil)})
			default:
				tests = append(tests, test{key + " missing", []write{{1, w.row}, {2, w.without(key)}}, 2, w.with(key, w.defaults[key])})
			}
		}
		for i, test := range tests {
			id := fmt.Sprint("row_", i)
			for _, write := range test.writes {
				row := maps.Clone(write.row)
				row["id"] = id
				if got := b.write(w, write.ticket, row); got != "204" {
					b.t.Fatalf("%s: %s(%d, %v) = %s; want 204", test.name, w.function, write.ticket, row, got)
				}
			}
			want := maps.Clone(test.want)
			want["id"], want["ticket"] = id, test.ticket
			if got, want := b.stored(w, id), asJSON(b.t, want); got != want {
				b.t.Errorf("%s: row = %s; want %s", test.name, got, want)
			}
		}
	})
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	onBackends(t, func(b *backend, w writer) {
		type test struct {
			key         string
			ticket, row any
			want        string
		}
		null := func(column string) string {
			return fmt.Sprintf("400 %s null value in column %q of relation %q violates not-null constraint", notNull, column, w.table)
		}
		const noTime = "400 22007 invalid input syntax for type timestamp with time zone: \"soon\""
		key := fakesupabase.ServiceRoleKey
		tests := []test{
			{key, nil, w.row, null("ticket")},
			{key, "soon", w.row, "400 22P02 invalid input syntax for type bigint: \"soon\""},
			{key, 1, w.with("created", "soon"), noTime},
			{key, 1, w.with("user_id", []int{1}, "created", "soon"), noTime},
			{key, 1, nil, null("id")},
			{fakesupabase.AnonKey, 1, w.row, "401 " + denied + " permission denied for function " + w.function},
		}
		for _, column := range w.required {
			tests = append(tests, test{key, 1, w.without(column), null(column)}, test{key, 1, w.with(column, nil), null(column)})
		}
		for _, test := range tests {
			if got := b.call(test.key, w.function, map[string]any{"ticket": test.ticket, w.argument(): test.row}); got != test.want {
				b.t.Errorf("%s(%v, %v) = %s; want %s", w.function, test.ticket, test.row, got, test.want)
			}
		}
		if got := b.stored(w, w.row["id"].(string)); got != "null" {
			b.t.Errorf("row = %s; want none", got)
		}
	})
}

// TestDrawTicket: tickets are for the service alone, and they rise.
func TestDrawTicket(t *testing.T) {
	t.Parallel()
	onBackends(t, func(b *backend, _ writer) {
		for _, test := range []struct{ key, want string }{
			{fakesupabase.ServiceRoleKey, "200 1"},
			{fakesupabase.AnonKey, "401 " + denied + " permission denied for function stripe_ticket"},
			{fakesupabase.ServiceRoleKey, "200 2"},
		} {
			if got := b.call(test.key, "stripe_ticket", map[string]any{}); got != test.want {
				b.t.Errorf("stripe_ticket() = %s; want %s", got, test.want)
			}
		}
	})
}
