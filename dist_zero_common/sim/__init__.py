"""The simulation: virtual time, a network that delays and reorders, chance from one seed, history."""
