"""The control plane's end of the node links."""
