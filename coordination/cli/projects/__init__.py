"""Commands about projects, sessions and the workspace, and those that stop and start their work."""
