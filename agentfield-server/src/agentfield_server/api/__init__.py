"""The REST interface, a module per resource."""
