// Buttons that sell and manage, for pages without a framework:
//
//   <script type="module" src="/api/stripe/buttons.js"></script>
//   <button-checkout price="price_…" mode="subscription">Subscribe</button-checkout>
//   <button-account signin-url="/login">Billing</button-account>
//   <button-price price="price_…"></button-price>
//
// quantity is how many of the price are bought; flow opens billing at a step,
// payment_method_update, subscription_cancel or subscription_update, the last two
// of the subscription that is named, or the only one.
// button-price shows a price, by its ID or lookup key, in the page's language;
// what stands in it is shown until then.
// Either button goes to signin-url, if it has one, where somebody must sign in.
// success-url, cancel-url and return-url are relative to the page, and the page
// itself when missing; endpoint is where the service is, by default where this
// file came from. Style with ::part(button), ::part(error) and [aria-busy=true].

const style = new CSSStyleSheet()
style.replaceSync(`
  :host { display: inline-block }
  :host([hidden]) { display: none }
  button { font: inherit; cursor: pointer }
  button[aria-busy=true] { cursor: progress; opacity: .6 }
  [part=error] { color: light-dark(#a3201d, #ff9c94) }
  [part=error]:not(:empty) { display: block; margin-top: .5em }
`)

const base = endpoint => endpoint == null ? new URL('.', import.meta.url) : new URL(endpoint.replace(/\/?$/, '/'), document.baseURI)

const trouble = 'Something went wrong. Please try again.'

// The service's answer, with its status.
async function post(path, endpoint, body) {
  let response
  try {
    response = await fetch(new URL(path, base(endpoint)), {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      credentials: 'include',
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(30000),
    })
  } catch {
    throw new Error('The server could not be reached. Please try again.')
  }
  return { ...await response.json().catch(() => ({})), status: response.status }
}

// For the page that a buyer returns to, which may be there before Stripe has told
// of the purchase: records it, and gives the user's subscriptions and purchases.
export async function sync(endpoint) {
  const { status, error, subscriptions, purchases } = await post('sync', endpoint, {})
  if (status !== 200) throw new Error(error || trouble)
  return { subscriptions, purchases }
}

class StripeButton extends HTMLElement {
  #button
  #error

  constructor() {
    super()
    // The label stays the page's own child, so that a framework can change it.
    const root = this.attachShadow({ mode: 'open', delegatesFocus: true })
    root.adoptedStyleSheets = [style]
    // Not innerHTML, which pages with Trusted Types refuse.
    this.#button = document.createElement('button')
    this.#button.type = 'button'
    this.#button.append(document.createElement('slot'))
    this.#error = document.createElement('span')
    this.#error.role = 'alert'
    this.#button.part = 'button'
    this.#error.part = 'error'
    root.append(this.#button, this.#error)
    this.#button.addEventListener('click', () => this.#go())
  }

  connectedCallback() {
    addEventListener('pageshow', this)
  }

  disconnectedCallback() {
    removeEventListener('pageshow', this)
  }

  // Back from Stripe the page may come as it was left: busy.
  handleEvent(event) {
    if (event.persisted) this.#busy = false
  }

  // Not disabled, which would take the focus away.
  set #busy(on) {
    for (const element of [this, this.#button]) {
      on ? element.setAttribute('aria-busy', 'true') : element.removeAttribute('aria-busy')
    }
  }

  async #go() {
    if (this.hasAttribute('aria-busy')) return
    this.#busy = true
    this.#error.textContent = ''
    try {
      const url = await this.#ask()
      // A javascript: URL would run in the page.
      if (!/^https?:/i.test(new URL(url, document.baseURI).href)) throw new Error('This is not a page to go to.')
      location.assign(url)
      if (url.split('#')[0] === location.href.split('#')[0]) this.#busy = false // nothing was left
    } catch (error) {
      this.#busy = false
      this.#error.textContent = error.message
    }
  }

  // The page to go to; an error has the text to show.
  async #ask() {
    const { status, url, error } = await post(this.path, this.getAttribute('endpoint'), this.body())
    if (status === 401 && this.hasAttribute('signin-url')) return this.url('signin-url')
    if (!url) throw new Error(error || trouble)
    return url
  }

  // An attribute's URL in full. Stripe wants its template unescaped.
  url(attribute) {
    const { href } = new URL(this.getAttribute(attribute) || location.href, document.baseURI)
    return href.replaceAll('%7BCHECKOUT_SESSION_ID%7D', '{CHECKOUT_SESSION_ID}')
  }
}

customElements.define('button-checkout', class extends StripeButton {
  path = 'create-checkout'

  body() {
    const quantity = this.getAttribute('quantity') ?? undefined
    return {
      priceId: this.getAttribute('price'),
      quantity: Number(quantity) || quantity, // what is not a number is the service's to refuse
      mode: this.getAttribute('mode'),
      successUrl: this.url('success-url'),
      cancelUrl: this.url('cancel-url'),
    }
  }
})

customElements.define('button-account', class extends StripeButton {
  path = 'create-portal'

  body() {
    return {
      returnUrl: this.url('return-url'),
      flow: this.getAttribute('flow') ?? undefined,
      subscription: this.getAttribute('subscription') ?? undefined,
    }
  }
})

// Stripe's smallest units, which for some currencies are not those of Intl.
// https://docs.stripe.com/currencies#zero-decimal
const decimals = currency => /^(bif|clp|djf|gnf|jpy|kmf|krw|mga|pyg|rwf|vnd|vuv|xaf|xof|xpf)$/.test(currency) ? 0
  : /^(bhd|jod|kwd|omr|tnd)$/.test(currency) ? 3 : 2

const catalogues = {} // one request for all of a page

customElements.define('button-price', class extends HTMLElement {
  static observedAttributes = ['price']

  constructor() {
    super()
    this.attachShadow({ mode: 'open' }).append(document.createElement('slot'))
  }

  connectedCallback() {
    this.#show()
  }

  attributeChangedCallback() {
    this.#show()
  }

  async #show() {
    const url = new URL('prices', base(this.getAttribute('endpoint')))
    catalogues[url] ??= fetch(url).then(response => response.json()).catch(() => ({}))
    const { prices = [] } = await catalogues[url]
    const name = this.getAttribute('price')
    const price = prices.find(price => price.id === name || price.lookup_key === name)
    const part = (part, text) => Object.assign(document.createElement('span'), { part, textContent: text })
    this.shadowRoot.replaceChildren(...price?.unit_amount == null ? [document.createElement('slot')]
      : [part('amount', this.#amount(price)), ...price.interval ? [part('interval', this.#interval(price))] : []])
  }

  get #language() {
    return this.closest('[lang]')?.lang || navigator.language
  }

  #amount({ unit_amount, currency }) {
    return new Intl.NumberFormat(this.#language, { style: 'currency', currency, trailingZeroDisplay: 'stripIfInteger' })
      .format(unit_amount / 10 ** decimals(currency))
  }

  #interval({ interval, interval_count }) {
    const count = new Intl.NumberFormat(this.#language, { style: 'unit', unit: interval, unitDisplay: 'long' })
    const field = interval === 'week' ? 'weekOfYear' : interval
    return ` / ${interval_count > 1 ? count.format(interval_count) : new Intl.DisplayNames(this.#language, { type: 'dateTimeField' }).of(field)}`
  }
})
