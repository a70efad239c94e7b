// The panel "what just happened": the sandbox tells, as server-sent events, of
// each request to the service with what it caused, and of the rows. No real site
// has anything like it.

const $ = id => document.getElementById(id)

// Text is only ever set as text.
function element(name, className, ...children) {
  const made = document.createElement(name)
  if (className) made.className = className
  made.append(...children)
  return made
}

function fields(className, list) {
  return element('dl', className, ...list.map(({ name, value }) =>
    element('div', '', element('dt', '', name), element('dd', '', value))))
}

function status(call) {
  const badge = element('span', 'status', call.status ? String(call.status) : '…')
  if (call.status >= 400) badge.classList.add('failed')
  return badge
}

// One call: a line, behind which its parameters are.
function line(call, who, open) {
  const what = call.event || `${call.method} ${call.path}`
  const details = element('details', '', element('summary', '', status(call), element('span', '', element('b', '', who), ' ', element('code', '', what))),
    ...call.sent.length ? [element('p', 'label', 'Sent'), fields('', call.sent)] : [],
    ...call.answer.length ? [element('p', 'label', 'Answer'), fields('', call.answer)] : [])
  details.open = open
  return details
}

function entry(call, opened) {
  const trouble = call.answer.find(field => field.name === 'error')
  return element('li', '',
    element('time', '', new Date(call.at).toLocaleTimeString('en-GB')),
    line(call, `${call.from} → ${call.to}`, opened.has(0)),
    ...trouble ? [element('p', 'trouble', trouble.value)] : [],
    element('ul', '', ...call.made.map((made, i) => element('li', '', line(made, `→ ${made.to}`, opened.has(i + 1))))))
}

function showEntry(event) {
  const call = JSON.parse(event.data)
  const before = $(`entry-${call.id}`)
  // What is being read stays open, and keeps the focus.
  const parts = before ? [...before.querySelectorAll('details')] : []
  const made = entry(call, new Set(parts.flatMap((part, i) => part.open ? [i] : [])))
  const focused = parts.findIndex(part => part.contains(document.activeElement))
  before ? before.replaceWith(made) : $('log').prepend(made)
  if (focused >= 0) made.querySelectorAll('summary')[focused].focus({ preventScroll: true })
  made.id = `entry-${call.id}`
  while ($('log').children.length > 60) $('log').lastChild.remove()
  say('')
}

function showRows(event) {
  $('rows').replaceChildren(...JSON.parse(event.data).flatMap(table => [
    element('p', 'table', element('code', '', table.name), ` ${table.total === 1 ? '1 row' : `${table.total || 'no'} rows`}`,
      table.total > table.rows.length ? `, the newest ${table.rows.length}:` : ''),
    ...table.rows.map(row => fields('row', row)),
  ]))
  document.dispatchEvent(new Event('sandbox-rows'))
}

function say(text) {
  $('panel-state').textContent = text
}

function start() {
  $('log').replaceChildren()
  say('Nothing yet: sign in, or buy something.')
}

let source

// A browser has few connections to one site, which hidden pages leave to others,
// and a page that is listening may not be kept for the browser's Back.
function listen() {
  source?.close()
  source = null
  if (document.hidden) return
  source = new EventSource('/sandbox/events')
  source.onerror = () => say('The sandbox does not answer. Was it stopped?')
  source.addEventListener('start', start)
  source.addEventListener('entry', showEntry)
  source.addEventListener('rows', showRows)
}

document.addEventListener('visibilitychange', listen)
listen()
