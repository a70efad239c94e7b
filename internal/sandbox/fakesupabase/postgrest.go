package fakesupabase

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"8space.app/stripe-sidecar/internal/sandbox"
	"github.com/golang-jwt/jwt/v5"
)

// caller finds the role and the user of a request. A bearer token decides,
// unless there is none or it only repeats the API key.
func (s *Project) caller(r *http.Request) (role, userID string, err error) {
	key, token := apiKey(r), sandbox.Bearer(r)
	if token == "" || token == key {
		if key == s.serviceRoleKey {
			return "service_role", "", nil
		}
		return "anon", "", nil
	}
	claims, err := s.verify(token)
	if errors.Is(err, jwt.ErrTokenExpired) {
		return "", "", pgErrorf("PGRST303", "JWT expired")
	} else if parts := strings.Count(token, ".") + 1; parts != 3 {
		return "", "", pgErrorf("PGRST301", "Expected 3 parts in JWT; got %d", parts)
	} else if err != nil {
		return "", "", pgErrorf("PGRST301", "No suitable key or wrong key type")
	}
	role, _ = claims["role"].(string)
	userID, _ = claims["sub"].(string)
	return cmp.Or(role, "anon"), userID, nil
}

func writePGError(w http.ResponseWriter, role string, err error) {
	e, ok := errors.AsType[*PGError](err)
	if !ok {
		e = &PGError{Code: "P0001", Message: err.Error()}
	}
	status := http.StatusBadRequest
	switch e.Code {
	case "PGRST301", "PGRST303":
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer error=\"invalid_token\", error_description=%q", e.Message))
	case "42501":
		status = http.StatusForbidden
		if role == "anon" {
			status = http.StatusUnauthorized
		}
	case "PGRST202", "PGRST205":
		status = http.StatusNotFound
	case "PGRST101", "PGRST117":
		status = http.StatusMethodNotAllowed
	case "23503", "23505":
		status = http.StatusConflict
	}
	orNull := func(text string) any {
		if text == "" {
			return nil
		}
		return text
	}
	sandbox.WriteJSON(w, status, map[string]any{
		"code": e.Code, "message": e.Message, "details": orNull(e.Details), "hint": orNull(e.Hint),
	})
}

func (s *Project) serveFunction(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	role, userID, err := s.caller(r)
	if err != nil {
		writePGError(w, role, err)
		return
	}
	name := r.PathValue("function")
	f := s.functions[name]
	if f == nil {
		e := pgErrorf("PGRST202", "Could not find the function public.%s in the schema cache", name)
		e.Details = "Searched for the function public." + name + ", but no matches were found in the schema cache."
		writePGError(w, role, e)
		return
	}
	if r.Method != http.MethodPost {
		writePGError(w, role, pgErrorf("PGRST101", "Cannot use the %s method on RPC", r.Method))
		return
	}
	args := map[string]any{}
	if r.ContentLength != 0 {
		if err := decodeBody(r, &args); err != nil {
			writePGError(w, role, err)
			return
		}
	}
	var result any
	err = s.inTx(role, userID, func(tx *Tx) error {
		result, err = f(tx, args)
		return err
	})
	if err != nil {
		writePGError(w, role, err)
		return
	}
	if result == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	sandbox.WriteJSON(w, http.StatusOK, result)
}

func decodeBody(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return pgErrorf("PGRST102", "Empty or invalid json")
	}
	return nil
}

// serveTable answers reads and writes of one table.
// https://docs.postgrest.org/en/stable/references/api/tables_views.html
func (s *Project) serveTable(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	role, userID, err := s.caller(r)
	if err == nil {
		err = s.inTx(role, userID, func(tx *Tx) error { return tx.serve(w, r) })
	}
	if err != nil {
		writePGError(w, role, err)
	}
}

// serve writes to w only when nothing can fail any more.
func (tx *Tx) serve(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("table")
	t := tx.s.tables[name]
	if t == nil {
		return pgErrorf("PGRST205", "Could not find the table 'public.%s' in the schema cache", name)
	}
	q, err := parseQuery(t, r.URL.Query())
	if err != nil {
		return err
	}
	prefer := preferences(r)
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	if tx.role != "service_role" && (!reading || t.Select == nil || t.SignedInOnly && tx.role == "anon") {
		return pgErrorf("42501", "permission denied for table %s", t.Name)
	}
	// Supabase loads the extension safeupdate for PostgREST.
	if r.Method == http.MethodPatch && len(q.conditions) == 0 {
		return pgErrorf("21000", "UPDATE requires a WHERE clause")
	}

	var rows []row
	status := http.StatusOK
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		visible := func(r row) bool {
			return tx.role == "service_role" || t.Select(maps.Clone(r), tx.userID)
		}
		for _, r := range tx.rows(t) {
			if visible(r) && q.where(r) {
				rows = append(rows, r)
			}
		}
	case http.MethodPost:
		status = http.StatusCreated
		if rows, err = tx.post(t, r, q, prefer["resolution"]); err != nil {
			return err
		}
	case http.MethodPatch:
		var given row
		if err := decodeBody(r, &given); err != nil {
			return err
		}
		if given, err = t.parseRow(given); err != nil {
			return err
		}
		if rows, err = tx.update(t, q.where, given); err != nil {
			return err
		}
	default:
		return pgErrorf("PGRST117", "Unsupported HTTP method: %s", r.Method)
	}

	q.sort(rows)
	total := len(rows)
	if q.limit >= 0 && q.limit < len(rows) {
		rows = rows[:q.limit]
	}
	out := make([]any, 0, len(rows))
	for _, r := range rows {
		out = append(out, q.project(r))
	}
	represented := reading || prefer["return"] == "representation"
	h := w.Header()
	span, count := "*", "*"
	if len(rows) > 0 && r.Method != http.MethodPost {
		span = fmt.Sprintf("0-%d", len(rows)-1)
	}
	if prefer["count"] == "exact" {
		count = strconv.Itoa(total)
		if reading && len(rows) < total {
			status = http.StatusPartialContent
		}
	}
	h.Set("Content-Range", span+"/"+count)
	var applied []string
	for _, name := range []string{"resolution", "return", "count"} {
		if prefer[name] != "" {
			applied = append(applied, name+"="+prefer[name])
		}
	}
	if applied != nil {
		h.Set("Preference-Applied", strings.Join(applied, ", "))
	}
	switch {
	case represented:
		sandbox.WriteJSON(w, status, out)
	case r.Method == http.MethodPost:
		w.WriteHeader(status)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

// post inserts the row or rows of the body.
func (tx *Tx) post(t *table, r *http.Request, q *query, resolution string) (rows []row, err error) {
	var body json.RawMessage
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	var given []row
	if !bytes.HasPrefix(body, []byte("[")) {
		body = slices.Concat([]byte("["), body, []byte("]"))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&given); err != nil {
		return nil, pgErrorf("PGRST102", "Empty or invalid json")
	}
	arbiter := t.Unique[0]
	if q.onConflict != nil {
		arbiter = q.onConflict
		same := func(unique []string) bool {
			return slices.Equal(slices.Sorted(slices.Values(unique)), slices.Sorted(slices.Values(arbiter)))
		}
		if resolution != "" && !slices.ContainsFunc(t.Unique, same) {
			return nil, pgErrorf("42P10", "there is no unique or exclusion constraint matching the ON CONFLICT specification")
		}
	}
	for _, g := range given {
		if !maps.EqualFunc(g, given[0], func(any, any) bool { return true }) {
			return nil, pgErrorf("PGRST102", "All object keys must match")
		}
		if g, err = t.parseRow(g); err != nil {
			return nil, err
		}
		out, err := tx.insert(t, g, arbiter, resolution)
		if err != nil {
			return nil, err
		}
		if out != nil {
			rows = append(rows, out)
		}
	}
	return rows, nil
}

// preferences are those of the Prefer headers, by name.
// https://docs.postgrest.org/en/stable/references/api/preferences.html
func preferences(r *http.Request) map[string]string {
	m := map[string]string{}
	for p := range strings.SplitSeq(strings.Join(r.Header.Values("Prefer"), ","), ",") {
		if name, value, ok := strings.Cut(strings.TrimSpace(p), "="); ok {
			m[name] = value
		}
	}
	return m
}

// query is what the parameters of a request ask of a table.
type query struct {
	t          *table
	columns    []string // empty: all
	conditions []condition
	order      []ordering
	onConflict []string
	limit      int // -1: none
}

type ordering struct {
	c                *Column
	desc, nullsFirst bool
}

// condition judges a row in three-valued logic: 1 true, -1 false, 0 unknown.
type condition func(row) int

func parseQuery(t *table, values url.Values) (*query, error) {
	q := &query{t: t, limit: -1}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[name] {
			if err := q.parse(name, value); err != nil {
				return nil, err
			}
		}
	}
	return q, nil
}

func (q *query) parse(name, value string) (err error) {
	switch name {
	case "apikey", "columns":
	case "select":
		return q.parseSelect(value)
	case "order":
		return q.parseOrder(value)
	case "limit":
		q.limit, err = parseCount(name, value)
		return err
	case "on_conflict":
		for c := range strings.SplitSeq(value, ",") {
			if q.t.column(c) == nil {
				return pgErrorf("42703", "column %q does not exist", c)
			}
			q.onConflict = append(q.onConflict, c)
		}
	case "or":
		c, err := q.t.parseOr(value)
		q.conditions = append(q.conditions, c)
		return err
	default:
		c, err := q.t.parseCondition(name, value)
		q.conditions = append(q.conditions, c)
		return err
	}
	return nil
}

func parseCount(name, value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return 0, pgErrorf("PGRST100", "%q (line 1, column 1): %s must be a number", value, name)
	}
	return n, nil
}

func (q *query) parseSelect(value string) error {
	for item := range strings.SplitSeq(value, ",") {
		item = strings.TrimSpace(item)
		switch {
		case item == "*" || item == "":
			for _, c := range q.t.Columns {
				q.columns = append(q.columns, c.Name)
			}
		case q.t.column(item) == nil:
			return q.t.noColumn(item)
		default:
			q.columns = append(q.columns, item)
		}
	}
	return nil
}

func (q *query) parseOrder(value string) error {
	for item := range strings.SplitSeq(value, ",") {
		parts := strings.Split(item, ".")
		o := ordering{c: q.t.column(parts[0]), desc: slices.Contains(parts, "desc")}
		if o.c == nil {
			return q.t.noColumn(parts[0])
		}
		o.nullsFirst = o.desc && !slices.Contains(parts, "nullslast") || slices.Contains(parts, "nullsfirst")
		q.order = append(q.order, o)
	}
	return nil
}

func (t *table) noColumn(name string) error {
	return pgErrorf("42703", "column %s.%s does not exist", t.Name, name)
}

// parseOr parses or=(a.eq.1,b.is.null).
func (t *table) parseOr(list string) (condition, error) {
	inner, ok := parenthesised(list)
	if !ok {
		return nil, pgErrorf("PGRST100", "\"failed to parse logic tree (%s)\" (line 1, column 1)", list)
	}
	var parts []condition
	for _, item := range splitList(inner) {
		name, expression, _ := strings.Cut(item, ".")
		operator, operand, _ := strings.Cut(expression, ".")
		c, err := t.parseCondition(name, operator+"."+unquote(operand))
		if err != nil {
			return nil, err
		}
		parts = append(parts, c)
	}
	return func(r row) int {
		result := -1
		for _, c := range parts {
			result = max(result, c(r))
		}
		return result
	}, nil
}

// parseCondition parses the filter <column>=<operator>.<operand>.
func (t *table) parseCondition(name, expression string) (condition, error) {
	operator, operand, ok := strings.Cut(expression, ".")
	if !ok || !slices.Contains([]string{"eq", "neq", "gt", "gte", "lt", "lte", "is", "in"}, operator) {
		return nil, pgErrorf("PGRST100", "\"failed to parse filter (%s)\" (line 1, column 1)", expression)
	}
	c := t.column(name)
	if c == nil {
		return nil, t.noColumn(name)
	}
	truth := func(b bool) int {
		if b {
			return 1
		}
		return -1
	}
	switch operator {
	case "is":
		if operand != "null" {
			return nil, pgErrorf("PGRST100", "\"failed to parse filter (%s)\" (line 1, column 1)", expression)
		}
		return func(r row) int { return truth(r[name] == nil) }, nil
	case "in":
		inner, ok := parenthesised(operand)
		if !ok {
			return nil, pgErrorf("PGRST100", "\"failed to parse filter (%s)\" (line 1, column 1)", expression)
		}
		var among []any
		for _, item := range splitList(inner) {
			v, err := c.parse(unquote(item))
			if err != nil {
				return nil, err
			}
			among = append(among, v)
		}
		return func(r row) int {
			if r[name] == nil {
				return 0
			}
			return truth(slices.ContainsFunc(among, func(v any) bool { return c.compare(r[name], v) == 0 }))
		}, nil
	}
	want, err := c.parse(operand)
	if err != nil {
		return nil, err
	}
	holds := map[string]func(int) bool{
		"eq":  func(d int) bool { return d == 0 },
		"neq": func(d int) bool { return d != 0 },
		"gt":  func(d int) bool { return d > 0 },
		"gte": func(d int) bool { return d >= 0 },
		"lt":  func(d int) bool { return d < 0 },
		"lte": func(d int) bool { return d <= 0 },
	}[operator]
	return func(r row) int {
		if r[name] == nil {
			return 0
		}
		return truth(holds(c.compare(r[name], want)))
	}, nil
}

func parenthesised(list string) (string, bool) {
	if len(list) < 2 || list[0] != '(' || list[len(list)-1] != ')' {
		return "", false
	}
	return list[1 : len(list)-1], true
}

// splitList splits at the commas that stand outside quotes.
func splitList(list string) (items []string) {
	var start int
	var quoted bool
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			items = append(items, list[start:i])
			start = i + 1
		}
	}
	return append(items, list[start:])
}

func unquote(text string) string {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return text
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(text[1 : len(text)-1])
}

func (q *query) where(r row) bool {
	return !slices.ContainsFunc(q.conditions, func(c condition) bool { return c(r) != 1 })
}

func (q *query) sort(rows []row) {
	slices.SortStableFunc(rows, func(a, b row) int {
		for _, o := range q.order {
			va, vb := a[o.c.Name], b[o.c.Name]
			var d int
			switch {
			case va == nil && vb == nil:
			case va == nil || vb == nil:
				d = 1
				if (va == nil) == o.nullsFirst {
					d = -1
				}
			default:
				d = o.c.compare(va, vb)
				if o.desc {
					d = -d
				}
			}
			if d != 0 {
				return d
			}
		}
		return 0
	})
}

func (q *query) project(r row) row {
	if len(q.columns) == 0 {
		return r
	}
	out := row{}
	for _, c := range q.columns {
		out[c] = r[c]
	}
	return out
}
