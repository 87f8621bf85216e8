"""Which version serves: the gate, and the change of the registry."""
