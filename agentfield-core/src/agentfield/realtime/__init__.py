"""Realtime conversations: the vocabulary and the contracts that no provider or transport owns.

`commands` go to a provider's session and `events` come from it; `config` declares a session and `audio` names formats. Adapters
implement `provider`, transports implement `caller` and `transport`, and the package `bridge` connects both ends where the
control plane carries the audio. `sdp` checks WebRTC offers; `gc_tuning` keeps garbage collection out of the audio. Read
`events` and `commands` first.
"""
