"""The definition of every operator (`interpreter.py`), and the oracle that checks it (`evaluate.py`)."""
