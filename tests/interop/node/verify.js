// Verifies a JSON array of credentials from standard input with @digitalbazaar/vc, and prints an array of verdicts.
// Full mode: the proof, the contexts in JSON-LD safe mode, and that the issuer controls the verification method.
import {readFileSync} from 'node:fs';
import {contexts} from '@digitalbazaar/credentials-context';
import {DataIntegrityProof} from '@digitalbazaar/data-integrity';
import * as DidKey from '@digitalbazaar/did-method-key';
import * as Ed25519Multikey from '@digitalbazaar/ed25519-multikey';
import {createVerifyCryptosuite} from '@digitalbazaar/eddsa-jcs-2022-cryptosuite';
import * as vc from '@digitalbazaar/vc';

const driver = DidKey.driver();
driver.use({multibaseMultikeyHeader: 'z6Mk', fromMultibase: Ed25519Multikey.from});

// only what is installed: W3C's contexts, and DIDs that are keys
async function documentLoader(url) {
  if(contexts.has(url)) {
    return {contextUrl: null, documentUrl: url, document: contexts.get(url)};
  }
  if(url.startsWith('did:key:')) {
    return {contextUrl: null, documentUrl: url, document: await driver.get({url})};
  }
  throw new Error(`not loaded: ${url}`);
}

const suite = new DataIntegrityProof({cryptosuite: createVerifyCryptosuite()});
const verdicts = [];
for(const credential of JSON.parse(readFileSync(0, 'utf8'))) {
  const {verified, error} = await vc.verifyCredential({credential, suite, documentLoader});
  verdicts.push({verified, errors: (error?.errors ?? (error ? [error] : [])).map(each => each.message)});
}
console.log(JSON.stringify(verdicts));
