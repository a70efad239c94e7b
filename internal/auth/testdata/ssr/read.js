// Reads {cookie, lines} from standard input: the Cookie header a browser sent
// and the Set-Cookie lines it got back. Prints what the published library makes
// of the cookies that the browser then holds.
import { readFileSync } from 'node:fs'
import { createServerClient, parseCookieHeader } from '@supabase/ssr'

const { cookie, lines, tokensOnly } = JSON.parse(readFileSync(0, 'utf8'))

const jar = new Map()
for (const pair of cookie.split('; ')) {
  const at = pair.indexOf('=')
  jar.set(pair.slice(0, at), pair.slice(at + 1))
}
for (const line of lines) {
  const [pair, ...attributes] = line.split('; ')
  const at = pair.indexOf('=')
  if (attributes.includes('Max-Age=0')) jar.delete(pair.slice(0, at))
  else jar.set(pair.slice(0, at), pair.slice(at + 1))
}
const header = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')

const wrote = []
const supabase = createServerClient('http://127.0.0.1:54321', 'anon', {
  global: { fetch: () => { throw new Error('asked the network') } },
  realtime: { transport: class {} },
  cookies: {
    ...(tokensOnly ? { encode: 'tokens-only' } : {}),
    getAll: () => parseCookieHeader(header),
    setAll: (cookies) => wrote.push(...cookies.map(({ name }) => name)),
  },
})
const { data, error } = await supabase.auth.getSession()
console.log(JSON.stringify({
  names: [...jar.keys()],
  access: data.session?.access_token ?? null,
  refresh: data.session?.refresh_token ?? null,
  expires: data.session?.expires_at ?? null,
  user: tokensOnly ? null : data.session?.user?.id ?? null,
  metadata: tokensOnly ? null : data.session?.user?.user_metadata?.note ?? null,
  error: error?.message ?? null,
  wrote,
}))
