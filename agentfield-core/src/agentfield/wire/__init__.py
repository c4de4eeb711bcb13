"""What travels between a node, the control plane and a client: link frames, REST models, headers."""
