"""Every statement, one file a noun. A function takes an open transaction and the workspace, and commits nothing.

``fleet`` is the exception to the second rule: what a worker process does for all it runs is above workspaces.
"""
