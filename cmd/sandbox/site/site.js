// What supabase-js and @supabase/ssr do on a real site, in short: sign in with
// Auth, keep the session in the cookie that the service reads, and select the
// user's own subscriptions and purchases.

import { sync } from '/api/stripe/buttons.js'

const { supabaseUrl, supabaseKey, cookieName } = document.documentElement.dataset
const $ = id => document.getElementById(id)

// Cookies as @supabase/ssr 0.12 writes them.

const maxChunk = 3180

function cookies() {
  return Object.fromEntries(document.cookie.split('; ').map(pair => pair.split(/=(.*)/s)))
}

function readSession() {
  const all = cookies()
  let value = all[cookieName] ?? ''
  for (let i = 0; (i || !value) && all[`${cookieName}.${i}`]; i++) value += all[`${cookieName}.${i}`]
  try {
    const bytes = atob(value.slice('base64-'.length).replaceAll('-', '+').replaceAll('_', '/'))
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, c => c.charCodeAt(0))))
  } catch {
    return null
  }
}

function writeSession(session) {
  const set = (name, value, maxAge) => { document.cookie = `${name}=${value}; Path=/; SameSite=Lax; Max-Age=${maxAge}` }
  for (const name of Object.keys(cookies())) {
    if (name === cookieName || name.startsWith(cookieName + '.')) set(name, '', 0)
  }
  if (!session) return
  const bytes = String.fromCharCode(...new TextEncoder().encode(JSON.stringify(session)))
  const value = 'base64-' + btoa(bytes).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
  if (value.length <= maxChunk) return set(cookieName, value, 34560000)
  for (let i = 0; i * maxChunk < value.length; i++) {
    set(`${cookieName}.${i}`, value.slice(i * maxChunk, (i + 1) * maxChunk), 34560000)
  }
}

async function supabase(path, token, body) {
  const response = await fetch(supabaseUrl + path, {
    method: body ? 'POST' : 'GET',
    headers: { apikey: supabaseKey, 'Content-Type': 'application/json', ...token && { Authorization: `Bearer ${token}` } },
    body: body && JSON.stringify(body),
  })
  const answer = await response.json().catch(() => null)
  if (response.ok) return answer
  const error = new Error(answer?.msg ?? answer?.message ?? `Supabase answers ${response.status}`)
  error.refused = response.status < 429
  throw error
}

// The session, renewed when it is about to end.
async function currentSession() {
  let session = readSession()
  if (session && session.expires_at - Date.now() / 1000 < 90) {
    session = await supabase('/auth/v1/token?grant_type=refresh_token', null, { refresh_token: session.refresh_token })
    writeSession(session)
  }
  return session
}

function say(...parts) {
  $('notice').replaceChildren(...parts)
}

function show() {
  const session = readSession()
  $('who').textContent = session?.user?.email ?? ''
  for (const id of ['who', 'sign-out']) $(id).hidden = !session
  $('sign-in').hidden = !!session
  if (!session) $('plan').hidden = true
  showBought()
}

// Asked again whenever a row has changed, for the webhook may be slower than the
// buyer, and when the sandbox was restarted. The last to ask is the one that shows.
let asked = 0
let shown = ''

async function showBought() {
  const mine = ++asked
  const had = readSession()
  if (!had) return
  let subscriptions, purchases
  try {
    const { access_token: token } = await currentSession();
    [subscriptions, purchases] = await Promise.all(['subscriptions', 'purchases'].map(table =>
      supabase(`/rest/v1/${table}?select=*&order=created.desc`, token)))
  } catch (error) {
    if (error.refused && mine === asked) forget()
    return
  }
  if (mine !== asked) return
  $('plan').hidden = !subscriptions.length && !purchases.length
  $('change-card').hidden = !subscriptions.some(row => !row.ended_at)
  const now = JSON.stringify([subscriptions, purchases])
  if (now === shown) return // and its buttons may be in use
  shown = now
  $('bought').replaceChildren(
    ...subscriptions.map(row => item({ active: 'Subscribed', trialing: 'Trial' }[row.status] ?? row.status.replace('_', ' '), row, dates(row), ...steps(row))),
    ...purchases.map(row => item(row.amount_refunded ? 'Refunded' : row.payment_status === 'unpaid' ? 'Not paid yet' : 'Bought', { ...row, ...row.line_items[0] }, `on ${day(row.created)}`)))
}

// What can be done about a subscription. Stripe cancels none twice, and resumes
// one in the portal alone.
function steps(row) {
  if (row.ended_at) return []
  if (ends(row)) return [billing('Resume in billing')]
  return [billing('Change plan', 'subscription_update', row), billing('Cancel', 'subscription_cancel', row)]
}

function billing(label, flow, row) {
  const button = document.createElement('button-account')
  button.append(label)
  button.setAttribute('return-url', '/')
  if (flow) button.setAttribute('flow', flow)
  if (row) button.setAttribute('subscription', row.id)
  return button
}

function ends(row) {
  return row.cancel_at_period_end || row.cancel_at
}

// The user of a sandbox that was restarted, or of another one under the same
// host, is not known to this one. Left alone, the page would show them as signed in and sell to a guest.
function forget() {
  asked++
  writeSession(null)
  show()
  say('You were signed out: this sandbox does not know you. It was restarted and has forgotten everyone, or you signed in to another one.')
}

function item(state, { price_id: price, quantity }, when, ...buttons) {
  const item = document.createElement('li')
  const text = document.createElement('span')
  const badge = document.createElement('span')
  badge.className = 'badge'
  badge.textContent = state
  text.append(badge, ` ${offer(price)}${quantity > 1 ? ` × ${quantity}` : ''}, ${when}`)
  item.append(text)
  if (buttons.length) {
    const flows = document.createElement('span')
    flows.className = 'flows'
    flows.append(...buttons)
    item.append(flows)
  }
  return item
}

function offer(price) {
  return document.querySelector(`button-checkout[price="${price}"]`)?.closest('article').querySelector('h3').textContent ?? price
}

function day(text) {
  return new Date(text).toLocaleDateString('en-GB', { day: 'numeric', month: 'long', year: 'numeric', timeZone: 'UTC' })
}

function dates(row) {
  if (row.ended_at) return `ended on ${day(row.ended_at)}`
  return `${ends(row) ? 'ends' : 'renews'} on ${day(row.current_period_end)}`
}

async function signIn(action, email, password) {
  $('sign-in-error').textContent = ''
  try {
    writeSession(await supabase(`/auth/v1/${action}`, null, { email, password }))
  } catch (error) {
    $('sign-in-error').textContent = error.message
    return
  }
  show()
  say(`You are signed in as ${email}.`)
  $('notice').focus() // what had it is gone
}

$('sign-in').querySelector('form').addEventListener('submit', event => {
  event.preventDefault()
  const { email, password } = Object.fromEntries(new FormData(event.target))
  signIn(event.submitter.value, email, password)
})

$('demo').addEventListener('click', ({ currentTarget: { dataset } }) => signIn('token?grant_type=password', dataset.email, dataset.password))

$('sign-out').addEventListener('click', async () => {
  const session = readSession()
  writeSession(null)
  show()
  say('You are signed out.')
  $('email').focus()
  await supabase('/auth/v1/logout?scope=local', session?.access_token, {}).catch(() => {})
})

const query = new URLSearchParams(location.search)
if (query.has('bought')) thank(query.get('bought'))
if (query.has('back')) say('You turned back, and nothing was bought.')
if (query.has('sign-in') && !readSession()) {
  say({ billing: 'Sign in to open billing.', subscribe: 'Sign in to subscribe.' }[query.get('sign-in')] ?? 'Sign in to buy this.')
  $('notice').focus()
}
show()

// Anyone can write an address, so the site's server is asked.
async function thank(id) {
  const { complete } = await fetch(`/sandbox/checkout?id=${encodeURIComponent(id)}`).then(response => response.json()).catch(() => ({}))
  if (!complete) return say('There is no completed purchase with this number.')
  const link = document.createElement('a')
  link.href = '#panel'
  link.textContent = 'See what just happened'
  link.addEventListener('click', () => { $('panel').open = true })
  say('Thank you. Your purchase is complete.', readSession() ? '' : ' You bought as a guest: its row in the database belongs to no user.', ' ', link)
  await sync().then(showBought, () => {}) // a guest has none
}

addEventListener('pageshow', event => { if (event.persisted) show() })
document.addEventListener('sandbox-rows', showBought)
