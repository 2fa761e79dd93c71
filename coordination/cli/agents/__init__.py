"""Commands about agents, and about the accounts that their jobs use."""
