package fakestripe

import "slices"

// SetLookupKey gives a Price a lookup key, taking it from any other. It panics if
// there is no such Price.
func (s *Account) SetLookupKey(price, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.prices.all {
		if p.lookupKey == key {
			p.lookupKey = ""
		}
	}
	s.prices.byID[price].lookupKey = key
}

// DeactivatePrice has a Price be sold no longer. It panics if there is none.
func (s *Account) DeactivatePrice(price string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prices.byID[price].inactive = true
}

func (s *Account) listPrices(q *request) (any, *stripeError) {
	keys, _ := q.at("lookup_keys").([]any)
	if len(keys) > 10 {
		return nil, &stripeError{Message: "You can pass at most 10 lookup keys.", Param: "lookup_keys"}
	}
	var all []object
	for p := range s.prices.all {
		o := p.json()
		active, asked := q.at("active").(bool)
		switch {
		case asked && active == p.inactive:
		case q.has("type") && o["type"] != q.text("type"):
		case q.has("product") && p.product != q.text("product"):
		case keys != nil && (p.lookupKey == "" || !slices.Contains(keys, any(p.lookupKey))):
		default:
			all = append(all, o)
		}
	}
	return page(q, all)
}

func (p *product) json() object {
	return object{
		"id": p.id, "object": "product", "livemode": false, "active": true, "created": p.created.Unix(), "updated": p.created.Unix(),
		"name": p.name, "description": orNull(p.description), "metadata": object{}, "images": []string{}, "type": "service",
	}
}
