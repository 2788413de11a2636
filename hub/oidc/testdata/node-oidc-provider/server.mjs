// npm's certified oidc-provider on a loopback port, for Carrel's sign-in tests. Its configuration is
// one JSON object on standard input; it says "ready" when it listens, and ends with its input.
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { Provider } from 'oidc-provider'

const lines = process.stdin[Symbol.asyncIterator]()
let input = ''
while (!input.includes('\n')) input += (await lines.next()).value
const config = JSON.parse(input)

const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' })
const provider = new Provider(config.issuer, {
  clients: [{
    client_id: config.client_id,
    client_secret: config.client_secret,
    redirect_uris: [config.redirect_uri],
    post_logout_redirect_uris: [config.post_logout_redirect_uri],
    backchannel_logout_uri: config.backchannel_logout_uri,
    backchannel_logout_session_required: true,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    id_token_signed_response_alg: 'ES256',
  }],
  jwks: { keys: [{ ...key, use: 'sig', alg: 'ES256', kid: 'test' }] },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  claims: {
    openid: ['sub', 'sid'],
    profile: ['name', 'preferred_username'],
    email: ['email', 'email_verified'],
    groups: ['groups'],
  },
  scopes: ['openid', 'profile', 'email', 'groups', 'offline_access'],
  features: {
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    devInteractions: { enabled: true },
  },
  // Without the agent that refuses loopback addresses: the hub under test is on one.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  async findAccount(_, id) {
    const person = config.people[id]
    if (!person) return undefined
    return { accountId: id, claims: async () => ({ sub: id, ...person }) }
  },
})
provider.on('backchannel.error', (_, error) => console.error('back-channel logout:', error.message, error.cause))
provider.on('server_error', (_, error) => console.error('server error:', error))

const { hostname, port } = new URL(config.issuer)
provider.listen(Number(port), hostname, () => console.log('ready'))
for await (const _ of { [Symbol.asyncIterator]: () => lines }) { /* until the test closes it */ }
process.exit(0)
