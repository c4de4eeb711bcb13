"""`af`: start, watch and make voice calls from a terminal."""
