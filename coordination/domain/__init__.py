"""Pure nouns: records, state machines, arithmetic. Nothing here knows a clock, a database or a network."""
