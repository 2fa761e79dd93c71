"""Commands about workers and the whole system: status, doctor, retain."""
