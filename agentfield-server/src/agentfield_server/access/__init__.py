"""Who may do what: keys, tokens, and the guards at the door."""
