"""The door for agents that speak the Model Context Protocol: a small set of tools, every call safe to repeat."""
