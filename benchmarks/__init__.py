"""Measurements, each beside a floor or a peer of the same run. They judge nothing on their own; they print rows."""
