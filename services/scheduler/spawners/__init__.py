"""How a scheduler obtains and returns machines."""
