-- The tables of stripe-sidecar, for the SQL editor or a migration of a Supabase
-- project. Safe to run again, over any earlier version, and on top of a table
-- customers(id, stripe_customer_id) that is there already. All or nothing:
-- after an error nothing has changed.

begin;

-- Which Stripe Customer each user is. The service role's alone: to whoever may
-- write a row here, the billing portal of any Customer opens.
create table if not exists public.customers (
  id uuid primary key references auth.users (id) on delete cascade,
  stripe_customer_id text -- cus_…
);

do $$
declare
  item name;
begin
  -- One user has one Customer, and no Customer two users. The first is what
  -- makes the first of many purchases at once win; a table that was there
  -- already may lack either.
  foreach item in array array['id', 'stripe_customer_id'] loop
    if not exists (
      select from pg_catalog.pg_index i
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
      where i.indrelid = 'public.customers'::regclass and a.attname = item
        and i.indisunique and i.indisvalid and i.indnkeyatts = 1 and i.indpred is null
    ) then
      execute format('create unique index on public.customers (%I)', item);
    end if;
  end loop;

  -- A policy left over would open the table again with the next broad grant.
  for item in
    select policyname from pg_catalog.pg_policies
    where schemaname = 'public' and tablename = 'customers'
  loop
    execute format('drop policy %I on public.customers', item);
  end loop;
end $$;

-- A subscription as Stripe described it last.
-- https://docs.stripe.com/api/subscriptions/object
create table if not exists public.subscriptions (
  id text primary key, -- sub_…
  user_id uuid references auth.users (id) on delete set null, -- null: not known
  stripe_customer_id text not null, -- cus_…
  status text not null, -- trialing, active, past_due, canceled, unpaid, incomplete, incomplete_expired or paused
  price_id text, -- price_…, of the first item, as are the next two
  product_id text, -- prod_…
  quantity bigint,
  cancel_at_period_end boolean not null,
  cancel_at timestamptz,
  canceled_at timestamptz, -- when it was asked for; ended_at is when it took effect
  current_period_start timestamptz,
  current_period_end timestamptz,
  trial_start timestamptz,
  trial_end timestamptz,
  ended_at timestamptz,
  created timestamptz not null,
  metadata jsonb,
  ticket bigint not null -- see stripe_ticket
);
create index if not exists subscriptions_user_id_idx on public.subscriptions (user_id);
create index if not exists subscriptions_stripe_customer_id_idx on public.subscriptions (stripe_customer_id);

-- A Checkout Session for a one-time payment as Stripe described it last. https://docs.stripe.com/api/checkout/sessions/object
create table if not exists public.purchases (
  id text primary key, -- cs_…
  user_id uuid references auth.users (id) on delete set null, -- null: a guest, or not known
  stripe_customer_id text, -- cus_…
  payment_intent_id text, -- pi_…, null where nothing was to pay
  status text, -- open, complete or expired
  payment_status text, -- paid, unpaid or no_payment_required
  price_id text, -- price_…, of the first line item
  line_items jsonb not null, -- [{"price_id", "quantity", "amount_total"}]
  amount_total bigint, -- in the currency's smallest unit (cents), as are all amounts
  amount_refunded bigint not null default 0,
  disputed boolean not null default false,
  currency text, -- three lower-case letters
  created timestamptz not null,
  metadata jsonb,
  ticket bigint not null -- see stripe_ticket
);
create index if not exists purchases_user_id_idx on public.purchases (user_id);
create index if not exists purchases_stripe_customer_id_idx on public.purchases (stripe_customer_id);
create index if not exists purchases_payment_intent_id_idx on public.purchases (payment_intent_id);

-- Who may do what. A project may give the API's roles every right to a new
-- table or none at all, depending on its age, so all of it is said here.
alter table public.customers enable row level security;
alter table public.subscriptions enable row level security;
alter table public.purchases enable row level security;
revoke all on public.customers, public.subscriptions, public.purchases from public, anon, authenticated;
grant all on public.customers, public.subscriptions, public.purchases to service_role;
grant select on public.subscriptions, public.purchases to authenticated;

-- The inner select makes auth.uid() run once a query and not once a row.
drop policy if exists "Users see their own subscriptions" on public.subscriptions;
create policy "Users see their own subscriptions" on public.subscriptions
  for select to authenticated using ((select auth.uid()) = user_id);
drop policy if exists "Users see their own purchases" on public.purchases;
create policy "Users see their own purchases" on public.purchases
  for select to authenticated using ((select auth.uid()) = user_id);

-- Tickets put writes in order. Two fetches of one Stripe object can overtake
-- each other on their way here, so each writer draws a ticket before it
-- fetches, and a write counts only against an older ticket. Every change at
-- Stripe sends an event, and whoever serves it draws a ticket after the change:
-- the fetch of the highest ticket has seen them all. This needs no clock and no
-- lock held while Stripe is asked.
--
-- It does need tickets that rise: the sequence must not cache, and must come
-- along when the tables move to another database.
create sequence if not exists public.stripe_tickets cache 1;
revoke all on sequence public.stripe_tickets from public, anon, authenticated;
grant all on sequence public.stripe_tickets to service_role;

create or replace function public.stripe_ticket() returns bigint
language sql volatile security invoker set search_path = '' as $$
  select nextval('public.stripe_tickets')
$$;

-- stripe_write_subscription writes a row of subscriptions unless a newer ticket
-- has. The keys of subscription are the columns; a missing one is null, an
-- unknown one is ignored.
--
-- A known user is kept when a write does not know one, and filled in even by a
-- write that comes too late: the row of customers may be there at one event
-- and not at the other, and the result must not depend on their order. A user
-- who is not in auth.users (deleted, say) is not known; the service role may
-- not look there, so the foreign key tells.
create or replace function public.stripe_write_subscription(ticket bigint, subscription jsonb) returns void
language plpgsql volatile security invoker set search_path = '' as $$
begin
  insert into public.subscriptions as stored (
    id, user_id, stripe_customer_id, status, price_id, product_id, quantity,
    cancel_at_period_end, cancel_at, canceled_at, current_period_start, current_period_end,
    trial_start, trial_end, ended_at, created, metadata, ticket)
  select
    id, user_id, stripe_customer_id, status, price_id, product_id, quantity,
    cancel_at_period_end, cancel_at, canceled_at, current_period_start, current_period_end,
    trial_start, trial_end, ended_at, created, metadata, stripe_write_subscription.ticket
  from jsonb_populate_record(null::public.subscriptions, subscription)
  on conflict (id) do update set
    user_id = coalesce(excluded.user_id, stored.user_id),
    stripe_customer_id = excluded.stripe_customer_id,
    status = excluded.status,
    price_id = excluded.price_id,
    product_id = excluded.product_id,
    quantity = excluded.quantity,
    cancel_at_period_end = excluded.cancel_at_period_end,
    cancel_at = excluded.cancel_at,
    canceled_at = excluded.canceled_at,
    current_period_start = excluded.current_period_start,
    current_period_end = excluded.current_period_end,
    trial_start = excluded.trial_start,
    trial_end = excluded.trial_end,
    ended_at = excluded.ended_at,
    created = excluded.created,
    metadata = excluded.metadata,
    ticket = excluded.ticket
  where stored.ticket < excluded.ticket;
  if not found then
    update public.subscriptions stored
    set user_id = (subscription ->> 'user_id')::uuid
    where stored.id = subscription ->> 'id' and stored.user_id is null;
  end if;
exception when foreign_key_violation or invalid_text_representation then
  if subscription ->> 'user_id' is null then
    raise;
  end if;
  perform public.stripe_write_subscription(ticket, subscription - 'user_id');
end
$$;

-- stripe_write_purchase does the same for a row of purchases; a missing
-- amount_refunded is 0, a missing disputed false.
create or replace function public.stripe_write_purchase(ticket bigint, purchase jsonb) returns void
language plpgsql volatile security invoker set search_path = '' as $$
begin
  insert into public.purchases as stored (
    id, user_id, stripe_customer_id, payment_intent_id, status, payment_status, price_id,
    line_items, amount_total, amount_refunded, disputed, currency, created, metadata, ticket)
  select
    id, user_id, stripe_customer_id, payment_intent_id, status, payment_status, price_id,
    line_items, amount_total, coalesce(amount_refunded, 0), coalesce(disputed, false),
    currency, created, metadata, stripe_write_purchase.ticket
  from jsonb_populate_record(null::public.purchases, purchase)
  on conflict (id) do update set
    user_id = coalesce(excluded.user_id, stored.user_id),
    stripe_customer_id = excluded.stripe_customer_id,
    payment_intent_id = excluded.payment_intent_id,
    status = excluded.status,
    payment_status = excluded.payment_status,
    price_id = excluded.price_id,
    line_items = excluded.line_items,
    amount_total = excluded.amount_total,
    amount_refunded = excluded.amount_refunded,
    disputed = excluded.disputed,
    currency = excluded.currency,
    created = excluded.created,
    metadata = excluded.metadata,
    ticket = excluded.ticket
  where stored.ticket < excluded.ticket;
  if not found then
    update public.purchases stored
    set user_id = (purchase ->> 'user_id')::uuid
    where stored.id = purchase ->> 'id' and stored.user_id is null;
  end if;
exception when foreign_key_violation or invalid_text_representation then
  if purchase ->> 'user_id' is null then
    raise;
  end if;
  perform public.stripe_write_purchase(ticket, purchase - 'user_id');
end
$$;

-- Even where somebody grants them to all later, the functions write with the
-- rights of the caller only.
revoke all on function public.stripe_ticket(),
  public.stripe_write_subscription(bigint, jsonb),
  public.stripe_write_purchase(bigint, jsonb) from public, anon, authenticated;
grant execute on function public.stripe_ticket(),
  public.stripe_write_subscription(bigint, jsonb),
  public.stripe_write_purchase(bigint, jsonb) to service_role;

commit;
