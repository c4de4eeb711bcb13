"""Audio conversion and the `/v1/audio` routes.

PCM of one rate or codec goes in, PCM of another comes out: `pcm` holds stateless sample arithmetic (G.711),
`resampler` and `tempo` stateful FFmpeg filters of one stream, `codecs` the wire formats of a session. `transcriptions`
and `routes` serve recordings to text (in the forms of `transcript_formats`) and text to speech; read them last.
"""
