"""Cloud mode at whoever types the command: what `up --mode cloud`, `down` and `orphans --cloud` do."""
