"""The reference executor and the oracle: plain Python, readable before fast.

Reading order: `functions.py` and `scalar.py` (what an expression is), `operators.py`, `join.py`, `accumulators.py`,
`aggregate.py`, `top.py` (what an operator does to changes), `source.py` and `interpreter.py` (how a node runs them),
then `evaluate.py` and `history.py`: the same again from whole datasets, to compare with.
"""
