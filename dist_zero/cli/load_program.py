"""From a file of the user's to the program in it, with errors that name the user's line and nothing of
ours."""

from __future__ import annotations

import importlib.util
import linecache
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from dist_zero.program import Program
from dist_zero_common.errors import DistZeroError, ProgramError


def load_program(path: Path, name: str | None) -> Program:
    """The program that the Python file declares; `name` picks one of several, by its name or its variable's.

    Raises `ProgramError` when there is no such file, it cannot be run, or holds no program.
    """
    module = _run_file(_checked(path))
    found = {variable: value for variable, value in vars(module).items() if isinstance(value, Program)}
    programs = list({id(program): program for program in found.values()}.values())
    names = ", ".join(program.name for program in programs)
    if name is not None:
        chosen = found.get(name) or next((p for p in programs if p.name == name), None)
        if chosen is None:
            raise ProgramError(f"{path} has no program {name!r}; it has {names or 'none'}")
        return chosen
    if not programs:
        raise ProgramError(f"{path} has no program: it needs a line such as app = dz.Program({path.stem!r})")
    if len(programs) > 1:
        raise ProgramError(f"{path} has {len(programs)} programs: pick one of {names} with --program")
    return programs[0]


def _checked(path: Path) -> Path:
    if path.is_dir():
        raise ProgramError(f"{path} is a directory; name the Python file in it that declares the program")
    if not path.exists():
        raise ProgramError(f"there is no file {path}")
    if path.suffix != ".py":
        raise ProgramError(
            f"{path} is not a Python file: those end in .py; data are named with --load DATASET=FILE"
        )
    return path


def _run_file(path: Path) -> ModuleType:
    """The file as a module, so that files beside it can be imported, and can import it back."""
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names or not name.isidentifier():
        name = "".join(c if c.isalnum() else "_" for c in f"{name}_program")
    try:
        source = path.read_text(encoding="utf-8")
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ProgramError(_not_python(path, error)) from None
    except OSError as error:
        raise ProgramError(f"{path} cannot be read: {error.strerror}") from None
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    directory = str(path.resolve().parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    sys.modules[name] = module
    try:
        exec(code, vars(module))
    except DistZeroError:
        raise
    except SystemExit as error:
        raise ProgramError(f"{path} ends the process when it is imported (exit {error.code})") from None
    except Exception as error:
        raise ProgramError(_at_users_line(path, error)) from None
    return module


def _not_python(path: Path, error: SyntaxError | ValueError) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        line = f"\n    {error.text.strip()}" if error.text else ""
        return f"{path}:{error.lineno}: not Python: {error.msg}{line}"
    return f"{path} is not Python: {error}"


def _at_users_line(path: Path, error: Exception) -> str:
    """The error at the innermost line that is the user's: neither ours nor of an installed library."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if _is_users(frame.filename)]
    place, line = str(path), ""
    if mine:
        frame = mine[-1]
        place = f"{os.path.relpath(frame.filename)}:{frame.lineno}"
        text = linecache.getline(frame.filename, frame.lineno or 0).strip()
        line = f"\n    {text}" if text else ""
    if isinstance(error, ImportError) and error.path and Path(error.path).resolve() == path.resolve():
        return (
            f"{place}: a cyclic import: {path} is being imported already, and imports this file in turn;"
            f" move what both need into a third file{line}"
        )
    return f"{place}: {type(error).__name__}: {error}{line}"


def _is_users(file: str) -> bool:
    package = str(Path(__file__).resolve().parents[1])
    installed = ("site-packages", "dist-packages")
    resolved = str(Path(file).resolve())
    if (
        file.startswith("<")
        or resolved.startswith(package)
        or any(part in installed for part in Path(resolved).parts)
    ):
        return False
    return not resolved.startswith(str(Path(linecache.__file__).resolve().parent))
