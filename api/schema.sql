-- The tables of stripe-sidecar, for the SQL editor or a migration of a Supabase
-- project. Safe to run again and over any earlier version. All or nothing: after
-- an error nothing has changed. What it takes away from a table that was there
-- already (policies, grants, a foreign key) it names in a NOTICE.
--
-- Version 2 of the schema. A program of an earlier version runs on it.
--
-- Where SUBSCRIPTIONS_TABLE, PURCHASES_TABLE or CUSTOMERS_TABLE is set, run what
-- `stripe-sidecar schema` prints: this text with those names. What stands here
-- between "customers: begin" and "customers: end" it leaves out for a table of
-- the site's own, which is checked and never changed.

begin;

-- What is there already, before anything is added.
do $$
declare
  item record;
begin
  if to_regclass('public.stripe_settings') is not null then
    if (select version from public.stripe_settings) > 2 then
      raise exception 'the schema in this database is newer than this one'
        using hint = 'Run what the newest stripe-sidecar that is in use prints.';
    end if;
  end if;

  for item in
    select name, variable, free
    from (values
      -- customers: begin
      ('public.customers', 'CUSTOMERS_TABLE', 'stripe_customers', array['id uuid', 'stripe_customer_id text', 'stripe_customer_id varchar']),
      -- customers: end
      ('public.subscriptions', 'SUBSCRIPTIONS_TABLE', 'stripe_subscriptions', array['ticket int8', 'stripe_customer_id text']),
      ('public.purchases', 'PURCHASES_TABLE', 'stripe_purchases', array['ticket int8', 'stripe_customer_id text'])
    ) as ours (name, variable, free, columns)
    join pg_catalog.pg_class c on c.oid = to_regclass(ours.name)
    where c.relkind <> 'r' or 2 <> (
      select count(*) from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
      where a.attrelid = c.oid and a.attname || ' ' || t.typname = any (ours.columns)
    )
  loop
    raise exception using
      errcode = 'duplicate_table',
      message = format('%s is there already, and it is not a table of stripe-sidecar', item.name),
      hint = format('Set %s to a name that is free, %s say, for the service too, and run what "stripe-sidecar schema" prints with it.', item.variable, item.free);
  end loop;

  if to_regprocedure('public.has_paid(text)') is not null
    and coalesce(obj_description(to_regprocedure('public.has_paid(text)'), 'pg_proc'), '') not like 'stripe-sidecar:%' then
    raise exception using
      errcode = 'duplicate_function',
      message = 'function public.has_paid(text) is there already, and it is not stripe-sidecar''s',
      hint = 'Give the site''s own function another name.';
  end if;

  -- Said before the tables are added: what a project grants to new tables of its
  -- own accord is revoked without a word.
  for item in
    select ours.name, g.what, case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee)::text end as role
    from (values
      -- customers: begin
      ('public.customers', ''),
      -- customers: end
      ('public.subscriptions', 'SELECT'), ('public.purchases', 'SELECT')
    ) as ours (name, authenticated_may)
    join pg_catalog.pg_class c on c.oid = to_regclass(ours.name)
    cross join lateral (
      select acl.grantee, string_agg(acl.what, ', ' order by acl.what) as what
      from (
        select t.grantee, t.privilege_type as what from aclexplode(c.relacl) t
        union all
        select t.grantee, format('%s (%I)', t.privilege_type, a.attname)
        from pg_catalog.pg_attribute a, aclexplode(a.attacl) t where a.attrelid = c.oid
      ) acl
      where acl.grantee in (0, 'anon'::regrole)
        or acl.grantee = 'authenticated'::regrole and acl.what <> ours.authenticated_may
      group by acl.grantee
    ) g
  loop
    raise notice 'revoked % on % from %', item.what, item.name, item.role;
  end loop;
  -- customers: begin

  -- A policy left over would open the table again with the next broad grant.
  for item in
    select polname from pg_catalog.pg_policy where polrelid = to_regclass('public.customers')
  loop
    execute format('drop policy %I on public.customers', item.polname);
    raise notice 'dropped policy % on public.customers', quote_ident(item.polname);
  end loop;
  -- customers: end
end $$;

-- PostgreSQL need not tell what it skips.
set local client_min_messages = warning;

-- customers: begin
-- Which Stripe Customer each user is. The service role's alone: to whoever may
-- write a row here, the billing portal of any Customer opens.
create table if not exists public.customers (
  id uuid primary key references auth.users (id) on delete cascade,
  stripe_customer_id text -- cus_…
);

-- A table that was there already may keep '' for none, which is not unique.
alter table public.customers alter column stripe_customer_id drop not null;
update public.customers set stripe_customer_id = null where stripe_customer_id = '';

-- customers: end
-- A subscription as Stripe described it last.
-- https://docs.stripe.com/api/subscriptions/object
create table if not exists public.subscriptions (
  id text primary key, -- sub_…
  user_id uuid references auth.users (id) on delete set null, -- null: not known
  stripe_customer_id text not null, -- cus_…
  status text not null, -- trialing, active, past_due, canceled, unpaid, incomplete, incomplete_expired or paused
  price_id text, -- price_…, of the first item, as are the next two
  product_id text, -- prod_…
  quantity bigint, -- null: metered
  items jsonb, -- of all items: [{"price_id", "product_id", "quantity"}]
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
  livemode boolean, -- false: Stripe's test mode, where nobody pays; null: written by version 1
  ticket bigint not null -- see stripe_ticket
);
alter table public.subscriptions
  add column if not exists items jsonb,
  add column if not exists livemode boolean;

-- A Checkout Session for a one-time payment as Stripe described it last.
-- https://docs.stripe.com/api/checkout/sessions/object
create table if not exists public.purchases (
  id text primary key, -- cs_…
  user_id uuid references auth.users (id) on delete set null, -- null: a guest, or not known
  stripe_customer_id text, -- cus_…
  email text, -- what the buyer entered, which proves nothing
  payment_intent_id text, -- pi_…, null where nothing was to pay
  status text, -- open, complete or expired
  payment_status text, -- paid, unpaid or no_payment_required
  price_id text, -- price_…, of the first line item, as is the next
  product_id text, -- prod_…
  line_items jsonb not null, -- [{"price_id", "product_id", "quantity", "amount_total"}]
  amount_total bigint, -- in the currency's smallest unit (cents), as are all amounts
  amount_refunded bigint not null default 0,
  disputed boolean not null default false,
  currency text, -- three lower-case letters
  created timestamptz not null,
  metadata jsonb,
  livemode boolean, -- as in subscriptions
  ticket bigint not null -- see stripe_ticket
);
alter table public.purchases
  add column if not exists email text,
  add column if not exists product_id text,
  add column if not exists livemode boolean;

-- What holds for the schema as a whole: one row.
create table if not exists public.stripe_settings (
  id boolean primary key default true check (id),
  version integer not null,
  test_mode_counts boolean not null default false -- for has_paid
);
insert into public.stripe_settings (version) values (2)
  on conflict (id) do update set version = excluded.version;
-- Only for a database in which nothing is sold for money. `stripe-sidecar schema`
-- sets it where it has a key: true with one of Stripe's test mode, false with a live one.
-- update public.stripe_settings set test_mode_counts = true;

-- Users who were deleted and were Customers: at Stripe, their subscriptions go on.
create table if not exists public.stripe_deleted_users (
  stripe_customer_id text primary key, -- cus_…
  user_id uuid not null,
  left_at timestamptz not null default now(),
  done_at timestamptz -- when USER_DELETED was carried out; null: not yet
);

-- Keys and indexes that a table lacks which was there already.
set local client_min_messages = notice;
do $$
declare
  item record;
begin
  -- One user has one Customer, and no Customer two users. The first is what
  -- makes the first of many purchases at once win.
  for item in
    select needed.* from (values
      -- customers: begin
      ('public.customers'::regclass, 'id'), ('public.customers', 'stripe_customer_id'),
      -- customers: end
      ('public.subscriptions'::regclass, 'id'), ('public.purchases', 'id')
    ) as needed (name, col)
    where not exists (
      select from pg_catalog.pg_index i
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
      where i.indrelid = needed.name and a.attname = needed.col
        and i.indisunique and i.indisvalid and i.indnkeyatts = 1 and i.indpred is null
    )
  loop
    execute format('create unique index on %s (%I)', item.name, item.col);
  end loop;

  for item in
    select needed.* from (values
      ('public.subscriptions'::regclass, 'user_id'), ('public.subscriptions', 'stripe_customer_id'),
      ('public.purchases', 'user_id'), ('public.purchases', 'stripe_customer_id'), ('public.purchases', 'payment_intent_id')
    ) as needed (name, col)
    where not exists (
      select from pg_catalog.pg_index i
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
      where i.indrelid = needed.name and a.attname = needed.col
    )
  loop
    execute format('create index on %s (%I)', item.name, item.col);
  end loop;

  -- A foreign key without ON DELETE would leave a user who has bought undeletable.
  for item in
    select needed.*, a.attnum, k.conname, k.convalidated from (values
      -- customers: begin
      ('public.customers'::regclass, 'id', 'c'),
      -- customers: end
      ('public.subscriptions'::regclass, 'user_id', 'n'), ('public.purchases', 'user_id', 'n')
    ) as needed (name, col, action)
    join pg_catalog.pg_attribute a on a.attrelid = needed.name and a.attname = needed.col
    left join pg_catalog.pg_constraint k on k.conrelid = needed.name and k.contype = 'f'
      and k.confrelid = 'auth.users'::regclass and k.conkey = array[a.attnum]
    where k.confdeltype is distinct from needed.action
  loop
    if item.conname is not null then
      execute format('alter table %s drop constraint %I', item.name, item.conname);
      raise notice 'replaced foreign key % of %', quote_ident(item.conname), item.name;
    end if;
    if not exists (
      select from pg_catalog.pg_constraint k
      where k.conrelid = item.name and k.contype = 'f' and k.confrelid = 'auth.users'::regclass
        and k.conkey = array[item.attnum] and k.confdeltype = item.action::"char"
    ) then
      -- Where there was none, rows of users who are gone already may stay.
      execute format('alter table %s add foreign key (%I) references auth.users (id) on delete %s %s', item.name, item.col,
        case item.action when 'c' then 'cascade' else 'set null' end, case when item.convalidated then '' else 'not valid' end);
    end if;
  end loop;
end $$;

set local client_min_messages = warning;

-- Who may do what. A project may give the API's roles every right to a new
-- table or none at all, depending on its age, so all of it is said here.
-- customers: begin
alter table public.customers enable row level security;
revoke all on public.customers from public, anon, authenticated;
grant all on public.customers to service_role;
-- customers: end
alter table public.subscriptions enable row level security;
alter table public.purchases enable row level security;
alter table public.stripe_settings enable row level security;
alter table public.stripe_deleted_users enable row level security;
revoke all on public.subscriptions, public.purchases, public.stripe_settings, public.stripe_deleted_users
  from public, anon, authenticated;
grant all on public.subscriptions, public.purchases, public.stripe_settings, public.stripe_deleted_users to service_role;
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
-- It does need tickets that rise: the sequence must not cache, and must not begin
-- anew when the tables move to another database.
create sequence if not exists public.stripe_tickets;
alter sequence public.stripe_tickets increment 1 cache 1 no cycle;
do $$
declare
  highest bigint := greatest((select max(ticket) from public.subscriptions), (select max(ticket) from public.purchases));
begin
  if highest > (select last_value from public.stripe_tickets) then
    perform setval('public.stripe_tickets', highest);
  end if;
end $$;
revoke all on sequence public.stripe_tickets from public, anon, authenticated;
grant all on sequence public.stripe_tickets to service_role;

-- needs is the version of the schema that the program was made for. Every write
-- of a program begins here, so that one made for a later schema fails before it
-- writes: its row would lose the columns that this one lacks.
drop function if exists public.stripe_ticket();
create or replace function public.stripe_ticket(needs integer default 1) returns bigint
language plpgsql volatile security invoker set search_path = '' as $$
begin
  if needs > (select version from public.stripe_settings) then
    raise exception using
      errcode = 'feature_not_supported',
      message = format('the program needs version %s of the schema', needs),
      hint = 'Run what its "stripe-sidecar schema" prints.';
  end if;
  return nextval('public.stripe_tickets');
end
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
--
-- What version 1 did not know is kept when its key is missing, for a program of
-- version 1 that writes again what a later one has written. The items are kept
-- as long as the first of them, which it does write, is the same.
create or replace function public.stripe_write_subscription(ticket bigint, subscription jsonb) returns void
language plpgsql volatile security invoker set search_path = '' as $$
begin
  insert into public.subscriptions as stored (
    id, user_id, stripe_customer_id, status, price_id, product_id, quantity, items,
    cancel_at_period_end, cancel_at, canceled_at, current_period_start, current_period_end,
    trial_start, trial_end, ended_at, created, metadata, livemode, ticket)
  select
    id, user_id, stripe_customer_id, status, price_id, product_id, quantity, items,
    cancel_at_period_end, cancel_at, canceled_at, current_period_start, current_period_end,
    trial_start, trial_end, ended_at, created, metadata, livemode, stripe_write_subscription.ticket
  from jsonb_populate_record(null::public.subscriptions, subscription)
  on conflict (id) do update set
    user_id = coalesce(excluded.user_id, stored.user_id),
    stripe_customer_id = excluded.stripe_customer_id,
    status = excluded.status,
    price_id = excluded.price_id,
    product_id = excluded.product_id,
    quantity = excluded.quantity,
    items = case
      when subscription ? 'items' then excluded.items
      when (excluded.price_id, excluded.product_id, excluded.quantity)
        is not distinct from (stored.price_id, stored.product_id, stored.quantity) then stored.items
    end,
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
    livemode = case when subscription ? 'livemode' then excluded.livemode else stored.livemode end,
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
    id, user_id, stripe_customer_id, email, payment_intent_id, status, payment_status, price_id, product_id,
    line_items, amount_total, amount_refunded, disputed, currency, created, metadata, livemode, ticket)
  select
    id, user_id, stripe_customer_id, email, payment_intent_id, status, payment_status, price_id, product_id,
    line_items, amount_total, coalesce(amount_refunded, 0), coalesce(disputed, false),
    currency, created, metadata, livemode, stripe_write_purchase.ticket
  from jsonb_populate_record(null::public.purchases, purchase)
  on conflict (id) do update set
    user_id = coalesce(excluded.user_id, stored.user_id),
    stripe_customer_id = excluded.stripe_customer_id,
    email = case when purchase ? 'email' then excluded.email else stored.email end,
    payment_intent_id = excluded.payment_intent_id,
    status = excluded.status,
    payment_status = excluded.payment_status,
    price_id = excluded.price_id,
    product_id = case when purchase ? 'product_id' then excluded.product_id else stored.product_id end,
    line_items = excluded.line_items,
    amount_total = excluded.amount_total,
    amount_refunded = excluded.amount_refunded,
    disputed = excluded.disputed,
    currency = excluded.currency,
    created = excluded.created,
    metadata = excluded.metadata,
    livemode = case when purchase ? 'livemode' then excluded.livemode else stored.livemode end,
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

-- has_paid tells whether the calling user may use something: null for anything,
-- else the ID of a price or a product, price_… or prod_…. True with a subscription
-- to it that is live (past_due: the last payment failed, and Stripe tries again) or
-- with a purchase of it that stands: paid, not refunded in full, not disputed.
-- False for a guest.
--
-- What Stripe's test mode sold counts only where stripe_settings says so. Rows
-- that version 1 wrote do not tell the mode and count, as they did: "stripe-sidecar
-- sync" writes them anew.
--
-- With the owner's rights, so that a policy may call it for whom the tables are
-- closed; it looks at rows of auth.uid() only.
create or replace function public.has_paid(what text default null) returns boolean
language sql stable security definer set search_path = '' as $$
  select exists (
    select from public.subscriptions s
    where s.user_id = (select auth.uid()) and s.status in ('active', 'trialing', 'past_due')
      and (s.livemode is not false or (select test_mode_counts from public.stripe_settings))
      and (what is null or what in (s.price_id, s.product_id)
        or s.items @> jsonb_build_array(jsonb_build_object('price_id', what))
        or s.items @> jsonb_build_array(jsonb_build_object('product_id', what)))
  ) or exists (
    select from public.purchases p
    where p.user_id = (select auth.uid()) and p.status = 'complete' and p.payment_status <> 'unpaid'
      and not p.disputed and (p.amount_refunded = 0 or p.amount_refunded < p.amount_total)
      and (p.livemode is not false or (select test_mode_counts from public.stripe_settings))
      and (what is null or what in (p.price_id, p.product_id)
        or p.line_items @> jsonb_build_array(jsonb_build_object('price_id', what))
        or p.line_items @> jsonb_build_array(jsonb_build_object('product_id', what)))
  )
$$;
comment on function public.has_paid(text) is 'stripe-sidecar: may the calling user use this? null for anything, price_… or prod_…';

-- stripe_remember_user writes a user who is deleted into stripe_deleted_users. The
-- trigger is on auth.users and not on the table of Customers: that one may be the
-- site's own, may keep the row without its user, and a row that is deleted there by
-- hand is not a user who left. It comes last of all triggers before a deletion (they
-- go by name), of which any may prevent it. Whatever it meets, it never prevents it
-- itself.
create or replace function public.stripe_remember_user() returns trigger
language plpgsql volatile security definer set search_path = '' as $$
begin
  insert into public.stripe_deleted_users (user_id, stripe_customer_id)
  select customers.id, customers.stripe_customer_id from public.customers as customers
  where customers.id = old.id and customers.stripe_customer_id <> ''
  on conflict (stripe_customer_id) do update set user_id = excluded.user_id, left_at = now(), done_at = null;
  return old;
exception when others then
  raise warning 'stripe-sidecar cannot remember that user % was deleted: %', old.id, sqlerrm;
  return old;
end
$$;
create or replace trigger zz_stripe_remember_user before delete on auth.users
  for each row execute function public.stripe_remember_user();

-- stripe_users_left tells how many deleted users' Customers still stand at Stripe as
-- they did, and names those who left first, at most as many as asked for. Who is
-- there again, from a backup say, has not left, nor is a Customer that belongs to
-- another user now one of a user who left. With the owner's rights, because the
-- service role may not look into auth.users.
create or replace function public.stripe_users_left(most integer) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin -- in plpgsql, which does not look for the tables before it is called
  -- Even where somebody grants it to all later.
  if current_setting('role', true) in ('anon', 'authenticated') then
    raise insufficient_privilege using message = 'permission denied for function stripe_users_left';
  end if;
  return (
    with users_left as (
      select d.stripe_customer_id, row_number() over (order by d.left_at, d.stripe_customer_id) as n
      from public.stripe_deleted_users d
      where d.done_at is null
        and not exists (select from auth.users u where u.id = d.user_id)
        and not exists (select from public.customers as customers
          where customers.stripe_customer_id = d.stripe_customer_id and customers.id <> d.user_id)
    )
    select jsonb_build_object('total', count(*), 'customers',
      coalesce(jsonb_agg(stripe_customer_id order by n) filter (where n <= most), '[]'))
    from users_left
  );
end
$$;

-- stripe_schema tells what this schema is and what is wrong with it: what has been
-- taken away since, and with a table of the site's own whatever it lacks. It
-- changes nothing. Each problem has "table" (or "functions"), "problem" and "remedy".
create or replace function public.stripe_schema() returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  sites_own constant boolean := false; -- whether the table of Customers is the site's own
  user_column constant text := 'id';
  customer_column constant text := 'stripe_customer_id';
  customers constant regclass := to_regclass('public.customers');
  subscriptions constant regclass := to_regclass('public.subscriptions');
  purchases constant regclass := to_regclass('public.purchases');
  settings constant regclass := to_regclass('public.stripe_settings');
  deleted_users constant regclass := to_regclass('public.stripe_deleted_users');
  again constant text := 'run what "stripe-sidecar schema" prints';
  answer jsonb := jsonb_build_object(
    'customers_table', (parse_ident('public.customers'))[2],
    'subscriptions_table', (parse_ident('public.subscriptions'))[2], 'purchases_table', (parse_ident('public.purchases'))[2],
    'customers_user_column', user_column, 'customers_customer_column', customer_column,
    'version', null, 'test_mode_counts', null);
  tickets_used bigint;
  tickets_drawn bigint;
  problems jsonb;
begin
  if settings is not null and has_table_privilege(settings, 'select') then
    answer := answer || coalesce((select jsonb_build_object('version', version, 'test_mode_counts', test_mode_counts)
      from public.stripe_settings), '{}');
  end if;
  if to_regclass('public.stripe_tickets') is not null and has_sequence_privilege('public.stripe_tickets', 'select')
    and subscriptions is not null and has_table_privilege(subscriptions, 'select')
    and purchases is not null and has_table_privilege(purchases, 'select') then
    tickets_used := greatest((select max(ticket) from public.subscriptions), (select max(ticket) from public.purchases));
    tickets_drawn := (select last_value from public.stripe_tickets);
  end if;
  with ours (name, tab, forbidden_to_anon, forbidden_to_users, needed) as (values
      ('public.customers', customers, 'select insert update delete truncate', 'select insert update delete truncate', 'select insert update'),
      ('public.subscriptions', subscriptions, 'select insert update delete truncate', 'insert update delete truncate', 'select insert update'),
      ('public.purchases', purchases, 'select insert update delete truncate', 'insert update delete truncate', 'select insert update'),
      ('public.stripe_settings', settings, 'select insert update delete truncate', 'select insert update delete truncate', 'select'),
      ('public.stripe_deleted_users', deleted_users, 'select insert update delete truncate', 'select insert update delete truncate', 'select insert update')
  ), tables as (
    select ours.*, sites_own and ours.name = 'public.customers' as own from ours
  ), missing_tables as (
    select name, case when tables.own then 'there is no such table: correct CUSTOMERS_TABLE, or make one' else 'there is no such table' end,
      case when tables.own then format('create table public.customers (%I uuid primary key references auth.users (id) on delete cascade, %I text unique); '
        'alter table public.customers enable row level security; revoke all on public.customers from anon, authenticated', user_column, customer_column)
      else again end
    from tables where tab is null
  ), columns (name, tab, col, wanted, types) as (values
      ('public.customers', customers, user_column, 'uuid', array['uuid']),
      ('public.customers', customers, customer_column, 'text', array['text', 'varchar'])
  ), missing_columns as (
    select c.name, format('column %I is missing, or not of type %s', c.col, c.wanted),
      case when sites_own then format('set CUSTOMERS_USER_COLUMN and CUSTOMERS_CUSTOMER_COLUMN to columns of %s', c.name)
        else 'set CUSTOMERS_TABLE to another name, and ' || again end
    from columns c
    where c.tab is not null and not exists (
      select from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
      where a.attrelid = c.tab and a.attname = c.col and t.typname = any (c.types) and not a.attisdropped)
  ), not_nullable as (
    select 'public.customers', format('column %I may not be null, as it is while a user has no Customer', customer_column),
      case when sites_own then format('alter table public.customers alter column %I drop not null', customer_column) else again end
    from pg_catalog.pg_attribute a where a.attrelid = customers and a.attname = customer_column and a.attnotnull
  ), keys (name, tab, col, own) as (values
      ('public.customers', customers, user_column, sites_own), ('public.customers', customers, customer_column, sites_own),
      ('public.subscriptions', subscriptions, 'id', false), ('public.purchases', purchases, 'id', false)
  ), not_unique as (
    select k.name, format('column %I is not unique', k.col),
      case when not k.own then again else
        case when k.col = customer_column then format('update public.customers set %1$I = null where %1$I = ''''; ', k.col) else '' end ||
        format('create unique index on public.customers (%I)', k.col) end
    from keys k join pg_catalog.pg_attribute a on a.attrelid = k.tab and a.attname = k.col
    where not exists (
      select from pg_catalog.pg_index i
      where i.indrelid = k.tab and i.indkey[0] = a.attnum and i.indisunique and i.indisvalid
        and i.indnkeyatts = 1 and i.indpred is null)
  ), references_users (name, tab, col, action, own) as (values
      ('public.customers', customers, user_column, 'c', sites_own),
      ('public.subscriptions', subscriptions, 'user_id', 'n', false), ('public.purchases', purchases, 'user_id', 'n', false)
  ), foreign_keys as (
    select r.name, case when k.conname is null then format('column %I does not refer to auth.users', r.col)
        else format('foreign key %I keeps users from being deleted', k.conname) end,
      case when r.own then format('alter table public.customers drop constraint %I, add foreign key (%I) references auth.users (id) on delete cascade', k.conname, r.col)
        else again end
    from references_users r
    join pg_catalog.pg_attribute a on a.attrelid = r.tab and a.attname = r.col
    left join pg_catalog.pg_constraint k on k.conrelid = r.tab and k.contype = 'f' and k.conkey = array[a.attnum]
      and k.confrelid = (select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'auth' and c.relname = 'users')
    where case when r.own then k.confdeltype in ('a', 'r') else k.confdeltype is distinct from r.action::"char" end
  ), open_tables as (
    select t.name, 'row level security is off', case when t.own then 'alter table public.customers enable row level security, with policies for what users may read' else again end
    from tables t join pg_catalog.pg_class c on c.oid = t.tab
    where not c.relrowsecurity and (not t.own or exists (
      select from unnest(array['anon', 'authenticated']) role
      where has_any_column_privilege(role, t.tab, 'select, insert, update')))
  ), grants as (
    select t.name, format('%s may %s', r.role, string_agg(privilege, ', ')), again
    from tables t
    cross join lateral (values ('anon', t.forbidden_to_anon), ('authenticated', t.forbidden_to_users)) as r (role, forbidden)
    cross join lateral regexp_split_to_table(r.forbidden, ' ') as privilege
    where not t.own and case when privilege in ('select', 'insert', 'update')
      then has_any_column_privilege(r.role, t.tab, privilege) else has_table_privilege(r.role, t.tab, privilege) end
    group by t.name, r.role
  ), missing_grants as (
    select t.name, format('%s may not %s', r.role, string_agg(privilege, ', ')),
      case when t.own then format('grant %s on public.customers to service_role', replace(t.needed, ' ', ', ')) else again end
    from tables t
    cross join lateral (values ('service_role', t.needed),
      ('authenticated', case when t.tab in (subscriptions, purchases) then 'select' end)) as r (role, needed)
    cross join lateral regexp_split_to_table(r.needed, ' ') as privilege
    where not has_table_privilege(r.role, t.tab, privilege)
    group by t.name, t.own, t.needed, r.role
  ), written as ( -- by users, through a policy or without row level security
    select p.privilege, string_agg(r.role, ' and ') as roles
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = customer_column
    cross join (values ('insert', 'a'), ('update', 'w')) as p (privilege, command)
    cross join (values ('anon'), ('authenticated')) as r (role)
    where sites_own and c.oid = customers and has_column_privilege(r.role, c.oid, a.attnum, p.privilege)
      and (not c.relrowsecurity or exists (
        select from pg_catalog.pg_policy y
        where y.polrelid = c.oid and y.polpermissive and y.polcmd in ('*', p.command::"char")
          and exists (select from unnest(y.polroles) of where case when of = 0 then true else pg_has_role(r.role, of, 'member') end)))
    group by p.privilege
  ), writable as (
    select 'public.customers', format('%s may %s column %I: who can put a Customer there opens that Customer''s billing portal', roles, privilege, customer_column),
      format('revoke %1$s on public.customers from public, anon, authenticated; grant %1$s (%2$s) on public.customers to authenticated', privilege, (
        select string_agg(quote_ident(attname), ', ' order by attnum) from pg_catalog.pg_attribute
        where attrelid = customers and attnum > 0 and not attisdropped and attname <> customer_column and attgenerated = ''))
    from written
  ), no_policy as (
    select t.name, 'no policy lets users see their own rows', again
    from tables t
    where t.tab in (subscriptions, purchases) and not exists (
      select from pg_catalog.pg_policy y
      where y.polrelid = t.tab and y.polpermissive and y.polcmd in ('*', 'r') and y.polqual is not null
        and exists (select from unnest(y.polroles) of where case when of = 0 then true else pg_has_role('authenticated', of, 'member') end))
  ), policies as (
    select t.name, format('policy %I is for all rows', y.polname), format('drop policy %I on %s', y.polname, t.name)
    from tables t join pg_catalog.pg_policy y on y.polrelid = t.tab
    where not t.own and y.polpermissive and y.polcmd in ('*', 'r') and pg_get_expr(y.polqual, y.polrelid) = 'true'
      and exists (select from unnest(y.polroles) of where case when of = 0 then true else pg_has_role('authenticated', of, 'member') end)
  ), functions (signature, everybody, definer) as (values
      ('public.stripe_ticket(integer)', false, false), ('public.stripe_schema()', false, false),
      ('public.stripe_write_subscription(bigint,jsonb)', false, false), ('public.stripe_write_purchase(bigint,jsonb)', false, false),
      ('public.has_paid(text)', true, true), ('public.stripe_remember_user()', false, true),
      ('public.stripe_users_left(integer)', false, true)
  ), broken_functions as (
    select 'functions', case
        when p.oid is null then format('function %s is missing', f.signature)
        when p.prosecdef <> f.definer then format('function %s runs with the rights of the wrong role', f.signature)
        when not has_function_privilege('service_role', p.oid, 'execute') then format('service_role may not call %s', f.signature)
        when f.everybody then format('users may not call %s', f.signature)
        else format('users may call %s', f.signature) end, again
    from functions f left join pg_catalog.pg_proc p on p.oid = to_regprocedure(f.signature)
    where p.oid is null or p.prosecdef <> f.definer or not has_function_privilege('service_role', p.oid, 'execute')
      or has_function_privilege('anon', p.oid, 'execute') <> f.everybody
      or has_function_privilege('authenticated', p.oid, 'execute') <> f.everybody
  ), tickets as (
    select 'functions', case
        when c.oid is null then 'sequence public.stripe_tickets is missing'
        when s.seqcache <> 1 or s.seqcycle or s.seqincrement < 1 then 'sequence public.stripe_tickets does not rise one by one'
        when tickets_used > tickets_drawn then 'sequence public.stripe_tickets is behind the rows: nothing new would be written'
        else 'service_role may not use sequence public.stripe_tickets' end, again
    from (select to_regclass('public.stripe_tickets')) as needed (name)
    left join pg_catalog.pg_class c on c.oid = needed.name
    left join pg_catalog.pg_sequence s on s.seqrelid = c.oid
    where c.oid is null or s.seqcache <> 1 or s.seqcycle or s.seqincrement < 1
      or tickets_used > tickets_drawn or not has_sequence_privilege('service_role', c.oid, 'usage')
  ), no_trigger as (
    select 'functions', 'deleted users are not remembered: auth.users lacks the trigger', again
    where not exists (select from pg_catalog.pg_trigger t
      where t.tgfoid = to_regprocedure('public.stripe_remember_user()') and t.tgenabled in ('O', 'A'))
  ), no_version as (
    select 'public.stripe_settings', 'it has no row', again
    where settings is not null and has_table_privilege(settings, 'select') and answer ->> 'version' is null
  ), problem (name, problem, remedy) as (
    select * from missing_tables union all select * from missing_columns union all select * from not_nullable
    union all select * from not_unique union all select * from foreign_keys union all select * from open_tables
    union all select * from grants union all select * from missing_grants union all select * from writable
    union all select * from no_policy union all select * from policies union all select * from broken_functions
    union all select * from tickets union all select * from no_trigger union all select * from no_version
  )
  select jsonb_agg(jsonb_build_object('table', problem.name, 'problem', problem.problem, 'remedy', problem.remedy))
  into problems from problem;
  return answer || jsonb_build_object('problems', coalesce(problems, '[]'));
end
$$;

-- Even where somebody grants them to all later, the functions write with the
-- rights of the caller only.
revoke all on function public.stripe_ticket(integer), public.stripe_schema(), public.stripe_remember_user(),
  public.stripe_users_left(integer),
  public.stripe_write_subscription(bigint, jsonb),
  public.stripe_write_purchase(bigint, jsonb) from public, anon, authenticated;
grant execute on function public.stripe_ticket(integer), public.stripe_schema(), public.stripe_remember_user(),
  public.stripe_users_left(integer),
  public.stripe_write_subscription(bigint, jsonb),
  public.stripe_write_purchase(bigint, jsonb) to service_role;
revoke all on function public.has_paid(text) from public;
grant execute on function public.has_paid(text) to anon, authenticated, service_role;

-- Nothing is left half right: what could not be mended here ends it.
do $$
declare
  problems constant jsonb := public.stripe_schema() -> 'problems';
begin
  if problems <> '[]' then
    raise exception using
      message = (select string_agg(format('%s: %s', p ->> 'table', p ->> 'problem'), E'\n') from jsonb_array_elements(problems) p),
      hint = (select string_agg(distinct p ->> 'remedy', E'\n') from jsonb_array_elements(problems) p);
  end if;
end $$;

-- PostgREST remembers what functions there are. Supabase tells it by itself.
notify pgrst, 'reload schema';

commit;
