// What supabase-js and @supabase/ssr do on a real site, in short: sign in with
// Auth, keep the session in the cookie that the service reads, and select the
// user's own subscriptions.

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
  if (!response.ok) throw new Error(answer?.msg ?? answer?.message ?? `Supabase answers ${response.status}`)
  return answer
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

function show() {
  const session = readSession()
  $('who').textContent = session?.user?.email ?? ''
  for (const id of ['who', 'sign-out']) $(id).hidden = !session
  $('sign-in').hidden = !!session
  if (!session) $('plan').hidden = true
  showPlan()
}

// The webhook may be slower than the buyer, so this is asked again and again.
async function showPlan() {
  const session = await currentSession().catch(() => null)
  if (!session || document.hidden) return
  const rows = await supabase('/rest/v1/subscriptions?select=*&order=created.desc', session.access_token).catch(() => [])
  $('plan').hidden = rows.length === 0
  $('subscriptions').replaceChildren(...rows.map(row => {
    const item = document.createElement('li')
    const badge = document.createElement('span')
    badge.className = 'badge'
    badge.textContent = { active: 'Subscribed', trialing: 'Trial' }[row.status] ?? row.status.replace('_', ' ')
    item.append(badge, ` ${offer(row.price_id)}, ${dates(row)}`)
    return item
  }))
}

function offer(price) {
  return document.querySelector(`button-checkout[price="${price}"]`)?.closest('article').querySelector('h3').textContent ?? price
}

function dates(row) {
  const day = text => new Date(text).toLocaleDateString('en-GB', { day: 'numeric', month: 'long', year: 'numeric', timeZone: 'UTC' })
  if (row.ended_at) return `ended on ${day(row.ended_at)}`
  return `${row.cancel_at_period_end ? 'ends' : 'renews'} on ${day(row.current_period_end)}`
}

$('sign-in').querySelector('form').addEventListener('submit', async event => {
  event.preventDefault()
  $('sign-in-error').textContent = ''
  try {
    const { email, password } = Object.fromEntries(new FormData(event.target))
    writeSession(await supabase('/auth/v1/' + event.submitter.value, null, { email, password }))
    show()
  } catch (error) {
    $('sign-in-error').textContent = error.message
  }
})

$('sign-out').addEventListener('click', async () => {
  const session = readSession()
  writeSession(null)
  show()
  await supabase('/auth/v1/logout?scope=local', session?.access_token, {}).catch(() => {})
})

const query = new URLSearchParams(location.search)
if (query.has('bought')) $('notice').textContent = 'Thank you. Your purchase is complete.'
if (query.has('back')) $('notice').textContent = 'You turned back, and nothing was bought.'
show()
if (query.has('bought')) sync().then(showPlan, () => {}) // a guest has none
setInterval(showPlan, 2000)
addEventListener('pageshow', event => { if (event.persisted) show() })
