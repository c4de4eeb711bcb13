"""The demo: a control plane, an agent, the offline speech server and one real call between them."""
