"""Chat completions with audio: recorded turns in, a streamed spoken answer out."""
