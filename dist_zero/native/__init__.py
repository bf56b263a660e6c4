"""The native executor: a plan rendered to C, compiled by the machine's `cc`, and loaded.

It keeps the contract of `dist_zero/executor.py` with the same bits as `reference/interpreter.py`, which is the
definition of every operator; so what one of them saved, the other loads. `runtime/` has the C that is the same for
all plans, as headers of `static` functions that are included into the one translation unit of a plan: shapes of rows
and functions are constants where they are called, and the compiler makes special code for each.

`build.py` compiles, keeps what it compiled, and loads it. Where there is no compiler, the interpreter runs.
"""
