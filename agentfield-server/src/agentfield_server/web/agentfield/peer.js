// One WebRTC connection: offer, answer, and the wait until media is connected.

import {CallError} from './http.js';

const CONNECT_MS = 10_000;

/**
 * Connect to the provider through the control plane.
 * @param {object} options
 * @param {MediaStream} options.stream Its first audio track is sent.
 * @param {(sdp: string) => Promise<string>} options.exchange Exchanges the offer for the answer.
 * @param {AbortSignal} options.signal Aborts the connection; the promise is rejected with its reason.
 * @param {(peer: RTCPeerConnection) => void} options.onPeer Receives the connection at once, so that it can be closed.
 * @param {(track: MediaStreamTrack) => void} options.onTrack
 * @param {(data: string) => void} options.onMessage Messages of the data channel.
 * @returns {Promise<RTCPeerConnection>} Resolves once media is connected.
 */
export async function dial({stream, exchange, signal, onPeer, onTrack, onMessage}) {
  // no STUN server: the provider has a public address, and an unresponsive server would cost seconds
  const peer = new RTCPeerConnection({iceServers: []});
  onPeer(peer);
  peer.addTrack(stream.getAudioTracks()[0], stream);
  peer.ontrack = ({track}) => onTrack(track);
  peer.createDataChannel('oai-events').onmessage = ({data}) => onMessage(data);
  const connected = whenConnected(peer, signal);
  connected.catch(() => {}); // awaited below; an earlier failure of the offer must not leave it unhandled
  await peer.setLocalDescription(await peer.createOffer());
  // do not wait for candidates: the provider learns ours from the first packet (peer-reflexive)
  const answer = await exchange(peer.localDescription.sdp);
  signal.throwIfAborted();
  await peer.setRemoteDescription({type: 'answer', sdp: answer});
  await connected;
  return peer;
}

/** The error of a call without a media path (ICE failure). @returns {CallError} */
export function noAudioPath() {
  return new CallError(
    'ice_failed', `No audio path to the provider came up within ${CONNECT_MS / 1000} s.`,
    'a firewall or VPN may block UDP, the provider may advertise an address that is not reached from here, or there is no'
    + ' network but loopback; a session over the websocket transport needs no UDP',
  );
}

/** Resolves when media is connected; rejects 10 s after the answer, or when the call is aborted. */
function whenConnected(peer, signal) {
  return new Promise((resolve, reject) => {
    let timer = 0;
    const fail = () => reject(noAudioPath());
    peer.onsignalingstatechange = () => { if (peer.signalingState === 'stable') timer = setTimeout(fail, CONNECT_MS); };
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === 'connected') resolve();
      if (peer.connectionState === 'failed') fail();
      if (peer.connectionState === 'connected' || peer.connectionState === 'failed') clearTimeout(timer);
    };
    signal.addEventListener('abort', () => { clearTimeout(timer); reject(signal.reason); }, {once: true});
  });
}
