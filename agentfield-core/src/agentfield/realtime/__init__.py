"""The neutral vocabulary of a live conversation: what providers tell, what they are told, and the contracts of both ends."""
