package fakestripe

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/param"
	"github.com/stripe/stripe-mock/param/coercer"
	"github.com/stripe/stripe-mock/spec"
)

// stripeSchema checks parameters as stripe-mock does, by its packages and not
// by its server, which prints every request with its parameters to standard
// output.
type stripeSchema struct {
	paths map[string]json.RawMessage

	mu         sync.Mutex
	operations map[string]operation // by method and path
}

type operation struct {
	schema    *spec.Schema
	validator interface{ Validate(any) error }
}

// loadSchema runs once in a process. It leaves the operations undecoded,
// because all of them take seconds and a test needs few.
var loadSchema = sync.OnceValue(func() *stripeSchema {
	s := &stripeSchema{operations: map[string]operation{}}
	if err := json.Unmarshal(embedded.OpenAPISpec, &struct {
		Paths *map[string]json.RawMessage
	}{&s.paths}); err != nil {
		panic(err)
	}
	return s
})

func (s *stripeSchema) operation(method, path string) operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op, ok := s.operations[method+path]; ok {
		return op
	}
	var described map[string]struct {
		Parameters  []*spec.Parameter
		RequestBody spec.RequestBody
	}
	if err := json.Unmarshal(s.paths[path], &described); err != nil {
		panic("fakestripe: schema of " + path + ": " + err.Error())
	}
	of, ok := described[strings.ToLower(method)]
	if !ok {
		panic("fakestripe: Stripe has no " + method + " " + path)
	}
	op := operation{schema: spec.BuildQuerySchema(&spec.Operation{Parameters: of.Parameters})}
	if method != http.MethodGet {
		for _, content := range of.RequestBody.Content {
			op.schema = content.Schema
		}
	}
	var err error
	if op.validator, err = spec.GetValidatorForOpenAPI3Schema(op.schema, nil); err != nil {
		panic(err)
	}
	s.operations[method+path] = op
	return op
}

// parse returns the request's parameters, nested and with the types of the
// schema, if they satisfy it.
func (s *stripeSchema) parse(path string, r *http.Request) (params, *stripeError) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); r.Method == http.MethodPost &&
		r.ContentLength != 0 && kind != "application/x-www-form-urlencoded" {
		return nil, &stripeError{Message: "Invalid request (check that your POST content type is application/x-www-form-urlencoded). If you have any questions, we can help at https://support.stripe.com/."}
	}
	op := s.operation(r.Method, path)
	values, err := param.ParseParams(r)
	if err != nil {
		return nil, &stripeError{Message: fmt.Sprintf("Couldn't parse query/body: %v", err)}
	}
	if values == nil {
		values = map[string]any{}
	}
	if err := coercer.CoerceParams(op.schema, values); err != nil {
		return nil, &stripeError{Message: fmt.Sprintf("Request coercion error: %v", err)}
	}
	if name := unknownParam(op.schema, values, ""); name != "" {
		return nil, &stripeError{Code: "parameter_unknown", Message: "Received unknown parameter: " + name, Param: name}
	}
	if name, limit := longParam(op.schema, values); name != "" {
		return nil, &stripeError{Message: fmt.Sprintf("Invalid string: %s; must be at most %d characters", values[name], limit), Param: name}
	}
	if err := op.validator.Validate(values); err != nil {
		return nil, &stripeError{Message: fmt.Sprintf("Request validation error: %v", err)}
	}
	return values, nil
}

// unknownParam returns the name of a parameter that the schema does not have,
// nested ones included, which the validator lets pass.
func unknownParam(schema *spec.Schema, value any, name string) string {
	switch value := value.(type) {
	case map[string]any:
		properties := schema.Properties
		if len(schema.AnyOf) > 0 {
			properties = map[string]*spec.Schema{}
			for _, alternative := range schema.AnyOf {
				maps.Copy(properties, alternative.Properties)
			}
		}
		if len(properties) == 0 {
			return ""
		}
		for key, v := range value {
			inner := key
			if name != "" {
				inner = name + "[" + key + "]"
			}
			if properties[key] == nil {
				return inner
			}
			if found := unknownParam(properties[key], v, inner); found != "" {
				return found
			}
		}
	case []any:
		if schema.Items == nil {
			return ""
		}
		for i, v := range value {
			if found := unknownParam(schema.Items, v, fmt.Sprintf("%s[%d]", name, i)); found != "" {
				return found
			}
		}
	}
	return ""
}

// longParam returns the name of a top-level string that is longer than the
// schema allows, in characters, and the limit.
func longParam(schema *spec.Schema, values map[string]any) (string, int) {
	for name, v := range values {
		text, _ := v.(string)
		if p := schema.Properties[name]; p != nil && p.MaxLength > 0 && len([]rune(text)) > p.MaxLength {
			return name, p.MaxLength
		}
	}
	return "", 0
}

// params are the parameters of a request, nested.
type params map[string]any

// at returns the value under a path of names, nil if there is none.
func (p params) at(path ...string) any {
	var v any = map[string]any(p)
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// text returns a string parameter, "" if there is none.
func (p params) text(path ...string) string {
	s, _ := p.at(path...).(string)
	return s
}

// has reports whether there is such a parameter and it is not empty.
func (p params) has(path ...string) bool {
	v := p.at(path...)
	return v != nil && v != ""
}

// on reports whether a boolean parameter is true.
func (p params) on(path ...string) bool { return p.at(path...) == true }

// mergeMetadata writes the metadata that was given into old and returns it: an
// empty value removes its key, an empty metadata removes all.
// https://docs.stripe.com/api/metadata
func (p params) mergeMetadata(old map[string]string) map[string]string {
	if p["metadata"] == "" || old == nil {
		old = map[string]string{}
	}
	given, _ := p["metadata"].(map[string]any)
	for key, v := range given {
		if v == "" {
			delete(old, key)
		} else {
			old[key] = fmt.Sprint(v)
		}
	}
	return old
}
