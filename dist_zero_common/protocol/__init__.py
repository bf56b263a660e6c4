"""Messages as frozen dataclasses, their Cap'n Proto form, and the table of who handles which."""
