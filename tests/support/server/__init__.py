"""Parts of the control plane in this process: from one state machine to an installation with agents and callers."""
