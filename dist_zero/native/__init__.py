"""The native executor: a plan rendered to C, compiled by the machine's `cc`, and loaded.

It keeps the contract of `dist_zero/executor.py` with the same bits as `reference/interpreter.py`, which is the
definition of every operator; so what one of them saved, the other loads. `runtime/` has the C that is the same for
all plans, as headers of `static` functions that are included into the one translation unit of a plan: shapes of rows
and functions are constants where they are called, and the compiler makes special code for each.

`render.py` writes the C of a plan, operator by operator: `text.py` has what its parts share, `stateless.py`,
`stateful.py`, `joining.py`, `reducing.py` with `groups.py` and `accumulating.py`, and `topping.py` the operators,
`scalars.py` their expressions, `layout.py` how rows lie in memory. `build.py` compiles, keeps what it compiled, and
loads it; `library.py` calls it, and `executor.py` is the executor, with `kept.py`, `loading.py` and `failing.py`: its
state, and the rows that it leaves out. `choice.py` says who runs plans. Where there is no compiler, the interpreter
does.
`columns.py` is another library, of what batches need on their way, whatever the plan.
"""
