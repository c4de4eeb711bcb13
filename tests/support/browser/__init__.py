"""Chromium and the installation that the browser tests run it against."""
