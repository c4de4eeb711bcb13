"""Adapters with one fault each, made from the tone provider; the kit must find every one of them."""
