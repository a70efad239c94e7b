package fakesupabase

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Table is a table of the schema public with row level security on. The
// service role may do everything; anon and authenticated are granted select, and
// only where there is a policy.
type Table struct {
	Name    string
	Columns []Column
	// Unique are the unique constraints; the first is the primary key, whose
	// columns are also not null.
	Unique [][]string
	// Select is the policy for reading; userID is "" for anon. nil: nobody but
	// the service role has any right to the table. It must not call the server.
	Select func(row map[string]any, userID string) bool
	// SignedInOnly takes the grant away from anon.
	SignedInOnly bool
}

// Column is a column of a table. Values are kept as PostgREST writes them in
// JSON: string for text, uuid and timestamptz (UTC, 2006-01-02T15:04:05+00:00),
// bool, int64 for int, anything for jsonb, nil for null.
type Column struct {
	Name    string
	Type    string // text, uuid, bool, int, timestamptz or jsonb
	NotNull bool
	Default func() any // nil: null
}

// PGError is an error of PostgREST or of the PostgreSQL behind it.
// https://docs.postgrest.org/en/stable/references/errors.html
type PGError struct{ Code, Message, Details, Hint string }

func (e *PGError) Error() string { return e.Code + ": " + e.Message }

func pgErrorf(code, format string, args ...any) *PGError {
	return &PGError{Code: code, Message: fmt.Sprintf(format, args...)}
}

type row = map[string]any

type table struct {
	Table
	rows []row // never altered, only replaced: a Tx that fails leaves no trace
}

func newTable(t Table) *table {
	if len(t.Unique) == 0 {
		panic("fakesupabase: table " + t.Name + " has no primary key")
	}
	out := &table{Table: t}
	out.Columns = slices.Clone(t.Columns)
	for i, c := range out.Columns {
		if !slices.Contains([]string{"text", "uuid", "bool", "int", "timestamptz", "jsonb"}, c.Type) {
			panic("fakesupabase: " + t.Name + "." + c.Name + " has the unknown type " + c.Type)
		}
		if slices.Contains(t.Unique[0], c.Name) {
			out.Columns[i].NotNull = true
		}
	}
	for _, columns := range t.Unique {
		for _, name := range columns {
			if c := out.column(name); c == nil || c.Type == "jsonb" {
				panic("fakesupabase: table " + t.Name + " has no column " + name + " that could be unique")
			}
		}
	}
	return out
}

func (t *table) column(name string) *Column {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i]
		}
	}
	return nil
}

// parse turns a value of a JSON body (decoded with UseNumber) or of a filter
// into the one that is kept.
func (c *Column) parse(v any) (any, error) {
	if v == nil || c.Type == "jsonb" {
		return v, nil
	}
	text, isText := v.(string)
	if !isText {
		encoded, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		text = string(encoded)
	}
	switch c.Type {
	case "uuid":
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, pgErrorf("22P02", "invalid input syntax for type uuid: %q", text)
		}
		return id.String(), nil
	case "bool":
		switch strings.ToLower(text) {
		case "true", "t":
			return true, nil
		case "false", "f":
			return false, nil
		}
		return nil, pgErrorf("22P02", "invalid input syntax for type boolean: %q", text)
	case "int":
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, pgErrorf("22P02", "invalid input syntax for type bigint: %q", text)
		}
		return n, nil
	case "timestamptz":
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999Z07:00", "2006-01-02 15:04:05.999999Z07", "2006-01-02"} {
			if at, err := time.Parse(layout, text); err == nil {
				return at.UTC().Truncate(time.Microsecond).Format("2006-01-02T15:04:05.999999") + "+00:00", nil
			}
		}
		return nil, pgErrorf("22007", "invalid input syntax for type timestamp with time zone: %q", text)
	}
	return text, nil
}

// compare orders two values of the column, neither of them null.
func (c *Column) compare(a, b any) int {
	switch c.Type {
	case "int":
		return cmp.Compare(a.(int64), b.(int64))
	case "timestamptz":
		at, _ := time.Parse(time.RFC3339Nano, a.(string))
		bt, _ := time.Parse(time.RFC3339Nano, b.(string))
		return at.Compare(bt)
	}
	return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
}

// parseRow checks the columns of a row that was given and their values.
func (t *table) parseRow(given row) (row, error) {
	out := row{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		c := t.column(name)
		if c == nil {
			return nil, pgErrorf("PGRST204", "Could not find the '%s' column of '%s' in the schema cache", name, t.Name)
		}
		v, err := c.parse(given[name])
		if err != nil {
			return nil, err
		}
		out[name] = v
	}
	return out, nil
}

// Tx is a transaction: what it has changed counts when it ends without an
// error. It is not for use afterwards, nor by several goroutines.
type Tx struct {
	s            *Project
	role, userID string
	changed      map[string][]row
}

// inTx runs f and, if it succeeds, makes its changes the tables'. s.mu is held.
func (s *Project) inTx(role, userID string, f func(tx *Tx) error) error {
	tx := &Tx{s: s, role: role, userID: userID, changed: map[string][]row{}}
	if err := f(tx); err != nil {
		return err
	}
	for name, rows := range tx.changed {
		s.tables[name].rows = rows
	}
	return nil
}

// Nextval draws from a sequence, which starts at 1 and, like PostgreSQL's,
// does not go back when the transaction fails.
func (tx *Tx) Nextval(sequence string) int64 {
	tx.s.sequences[sequence]++
	return tx.s.sequences[sequence]
}

// Rows returns copies of all rows in the order of insertion. It panics if
// there is no such table.
func (tx *Tx) Rows(table string) []map[string]any {
	var out []row
	for _, r := range tx.rows(tx.s.mustTable(table)) {
		out = append(out, maps.Clone(r))
	}
	return out
}

// Insert adds a row; columns that are not given take their default. The error
// is a *[PGError]. It panics if there is no such table.
func (tx *Tx) Insert(table string, given map[string]any) error {
	t := tx.s.mustTable(table)
	given, err := parseGo(t, given)
	if err != nil {
		return err
	}
	_, err = tx.insert(t, given, nil, "")
	return err
}

// Update sets columns of the rows for which where is true and returns how many
// there were. The error is a *[PGError]. It panics if there is no such table.
func (tx *Tx) Update(table string, where func(row map[string]any) bool, set map[string]any) (int, error) {
	t := tx.s.mustTable(table)
	set, err := parseGo(t, set)
	if err != nil {
		return 0, err
	}
	changed, err := tx.update(t, where, set)
	return len(changed), err
}

func (tx *Tx) rows(t *table) []row {
	if rows, ok := tx.changed[t.Name]; ok {
		return rows
	}
	return t.rows
}

// insert adds a row. With the resolution ignore-duplicates, a row that agrees
// with it in the columns of arbiter is left. It returns the row, nil if it was
// ignored.
func (tx *Tx) insert(t *table, given row, arbiter []string, resolution string) (out row, err error) {
	out = row{}
	for _, c := range t.Columns {
		v, ok := given[c.Name]
		if !ok && c.Default != nil {
			if v, err = c.parse(jsonValue(c.Default())); err != nil {
				return nil, err
			}
		}
		out[c.Name] = v
	}
	// PostgreSQL looks at null first, then at the conflict.
	if err := t.checkNulls(out); err != nil {
		return nil, err
	}
	rows := tx.rows(t)
	if resolution != "" && resolution != "ignore-duplicates" {
		return nil, pgErrorf("PGRST100", "the sandbox has no resolution=%s", resolution)
	}
	if resolution != "" && findDuplicate(rows, out, arbiter, -1) >= 0 {
		return nil, nil
	}
	if err := t.checkUnique(rows, out, -1); err != nil {
		return nil, err
	}
	tx.changed[t.Name] = append(slices.Clone(rows), out)
	return out, nil
}

func (tx *Tx) update(t *table, where func(row) bool, set row) (changed []row, err error) {
	for i, r := range tx.rows(t) {
		if !where(r) {
			continue
		}
		next, err := tx.replace(t, i, set)
		if err != nil {
			return nil, err
		}
		changed = append(changed, next)
	}
	return changed, nil
}

func (tx *Tx) replace(t *table, i int, set row) (row, error) {
	rows := slices.Clone(tx.rows(t))
	next := maps.Clone(rows[i])
	maps.Copy(next, set)
	if err := t.checkNulls(next); err != nil {
		return nil, err
	}
	if err := t.checkUnique(rows, next, i); err != nil {
		return nil, err
	}
	rows[i] = next
	tx.changed[t.Name] = rows
	return next, nil
}

func (t *table) checkNulls(r row) error {
	for _, c := range t.Columns {
		if c.NotNull && r[c.Name] == nil {
			e := pgErrorf("23502", "null value in column %q of relation %q violates not-null constraint", c.Name, t.Name)
			var values []string
			for _, c := range t.Columns {
				values = append(values, sqlText(r[c.Name]))
			}
			e.Details = "Failing row contains (" + strings.Join(values, ", ") + ")."
			return e
		}
	}
	return nil
}

func (t *table) checkUnique(rows []row, r row, except int) error {
	for i, columns := range t.Unique {
		if findDuplicate(rows, r, columns, except) < 0 {
			continue
		}
		name := t.Name + "_pkey"
		if i > 0 {
			name = t.Name + "_" + strings.Join(columns, "_") + "_key"
		}
		var values []string
		for _, c := range columns {
			values = append(values, sqlText(r[c]))
		}
		e := pgErrorf("23505", "duplicate key value violates unique constraint %q", name)
		e.Details = fmt.Sprintf("Key (%s)=(%s) already exists.", strings.Join(columns, ", "), strings.Join(values, ", "))
		return e
	}
	return nil
}

// findDuplicate returns the index of the row that agrees with r in all columns,
// -1 if there is none; null agrees with nothing.
func findDuplicate(rows []row, r row, columns []string, except int) int {
	for i, other := range rows {
		if i != except && !slices.ContainsFunc(columns, func(c string) bool {
			return r[c] == nil || r[c] != other[c]
		}) {
			return i
		}
	}
	return -1
}

func sqlText(v any) string {
	if v == nil {
		return "null"
	}
	return fmt.Sprint(v)
}

func (s *Project) mustTable(name string) *table {
	if t := s.tables[name]; t != nil {
		return t
	}
	panic("fakesupabase: no table " + name)
}

// Rows returns copies of all rows in the order of insertion. It panics if
// there is no such table.
func (s *Project) Rows(table string) []map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return (&Tx{s: s}).Rows(table)
}

// Insert adds a row past row level security. It panics if there is no such
// table or column, or if the row violates a constraint.
func (s *Project) Insert(table string, row map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.inTx("service_role", "", func(tx *Tx) error { return tx.Insert(table, row) }); err != nil {
		panic("fakesupabase: insert into " + table + ": " + err.Error())
	}
}

// Function registers what POST /rest/v1/rpc/<name> calls with the arguments of
// its JSON body. Anyone with an API key may call it: f looks at tx.Role if it
// minds. f runs as one transaction, undone if it returns an error: a *[PGError]
// is answered as it is, any other as an exception raised with this text
// (P0001). A nil result is answered as a function that returns void. f must not
// call the server but through tx.
func (s *Project) Function(name string, f func(tx *Tx, args map[string]any) (any, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.functions[name] = f
}

// parseGo parses a row of Go values, of any types that JSON can carry.
func parseGo(t *table, given row) (row, error) {
	asJSON, _ := jsonValue(given).(map[string]any)
	return t.parseRow(asJSON)
}

// jsonValue is v after a way through JSON, numbers kept as they are written.
func jsonValue(v any) any {
	encoded, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	d := json.NewDecoder(bytes.NewReader(encoded))
	d.UseNumber()
	var out any
	if err := d.Decode(&out); err != nil {
		panic(err)
	}
	return out
}
