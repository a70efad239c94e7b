package billing

import "context"

// Row is a row of a table, by column.
type Row = map[string]any

// Bought is what the site's tables say that a user has bought, newest first.
type Bought struct {
	Subscriptions []Row `json:"subscriptions"`
	Purchases     []Row `json:"purchases"`
}

// Bought returns a user's rows, at most 100 of each table, without the column
// ticket, which is no business of a page.
//
// Errors: ErrCustomersUnavailable.
func (b *Billing) Bought(ctx context.Context, userID string) (bought Bought, err error) {
	if bought.Subscriptions, err = b.store.UsersSubscriptions(ctx, userID); err != nil {
		return Bought{}, unavailable(err)
	}
	if bought.Purchases, err = b.store.UsersPurchases(ctx, userID); err != nil {
		return Bought{}, unavailable(err)
	}
	for _, rows := range [][]Row{bought.Subscriptions, bought.Purchases} {
		for _, row := range rows {
			delete(row, "ticket")
		}
	}
	return bought, nil
}
