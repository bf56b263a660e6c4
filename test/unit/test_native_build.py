"""The cache of compiled libraries is not believed, several may use it at once, and what cannot be is said clearly."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dist_zero.native import build
from dist_zero.native.build import ABI, FLAGS, RUNTIME, compiled, find_compiler, library_key
from dist_zero_common.errors import InternalError, NativeUnavailable
from dist_zero_common.settings import Settings, child_environment, load_settings

pytestmark = pytest.mark.skipif(build.available() is not None, reason="there is no C compiler")

ANSWER = '#include "core.h"\nDZ_EXPORT int64_t answer(void) { return %d; }\n'


def in_cache(directory: Path) -> Settings:
    """The settings of this run, with a cache of their own."""
    return replace(load_settings(), native_cache=directory)


def answer(directory: Path, number: int = 42) -> int:
    library = compiled(ANSWER % number, settings=in_cache(directory))
    library.answer.restype = ctypes.c_int64
    return int(library.answer())


def only_library(directory: Path) -> Path:
    (found,) = directory.glob("*.so")
    return found


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o700)
    return str(path)


def test_a_library_is_built_once(tmp_path: Path) -> None:
    """The second time it comes from the cache, where its source lies beside it; nobody else may look into it."""
    assert answer(tmp_path / "deep" / "cache") == 42
    path = only_library(tmp_path / "deep" / "cache")
    first = path.stat().st_ino
    assert answer(path.parent) == 42
    assert path.stat().st_ino == first
    assert path.with_suffix(".c").read_text(encoding="utf-8") == ANSWER % 42
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o077) == (0o700, 0)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.with_suffix(".c").name, path.name]


def test_the_key_is_all_that_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Source, headers, flags and compiler: a change of any is another library."""
    compiler = find_compiler(Settings())
    keys = [
        library_key("source", compiler),
        library_key("other source", compiler),
        library_key("source", compiler, ("-g",)),
        library_key("source", replace(compiler, version="another")),
    ]
    monkeypatch.setattr(build, "_headers", lambda: ("core.h", "changed"))
    keys.append(library_key("source", compiler))
    monkeypatch.setattr(build, "FLAGS", (*FLAGS, "-DMORE"))
    keys.append(library_key("source", compiler))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "misnamed", "writable"])
def test_what_is_damaged_is_built_anew(tmp_path: Path, damage: str) -> None:
    """Cut short, changed, of another name, or writable for others."""
    answer(tmp_path, 7)
    other = only_library(tmp_path)
    data = other.read_bytes()
    other.unlink()
    # Not loaded yet: whoever damages a library that runs gets what he deserves.
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], check=True, env=child_environment({}))
    path = only_library(tmp_path)
    good = path.read_bytes()
    if damage == "writable":
        path.chmod(0o777)
    else:
        damaged = {
            "cut": good[: len(good) // 2],
            "flipped": good[:4000] + bytes([good[4000] ^ 1]) + good[4001:],
            "empty": b"",
            "misnamed": data,
        }
        path.write_bytes(damaged[damage])
    first = path.stat().st_ino
    assert answer(tmp_path) == 42
    assert path.stat().st_ino != first
    assert path.read_bytes()[-100:] == good[-100:]


BUILD = """
import sys
from pathlib import Path
from test.unit.test_native_build import answer
assert answer(Path(sys.argv[1])) == 42
"""


def test_several_build_the_same_at_once(tmp_path: Path) -> None:
    """Each gets it, and one file is left."""
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    environment = child_environment({"PYTHONPATH": os.pathsep.join(sys.path)})
    running = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert len(list(tmp_path.iterdir())) == 2


def test_old_libraries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used last stay."""
    monkeypatch.setattr(build, "_KEPT_MAX", 2)
    for number in range(3):
        answer(tmp_path, number)
        for path in tmp_path.glob("*.so"):
            os.utime(path, (path.stat().st_atime - 10, path.stat().st_mtime - 10))
    assert len(list(tmp_path.glob("*.so"))) == len(list(tmp_path.glob("*.c"))) == 2
    left = {path.read_text(encoding="utf-8") for path in tmp_path.glob("*.c")}
    assert left == {ANSWER % 1, ANSWER % 2}


def test_a_cache_that_cannot_be_used_is_done_without(tmp_path: Path) -> None:
    """A file is in the way: the library is built for this process alone."""
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert answer(tmp_path / "file" / "cache") == 42
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_where_the_cache_is(tmp_path: Path) -> None:
    """As set; else in the user's directory for caches."""
    home = replace(Settings(), cache_home=tmp_path)
    assert build.cache_directory(home) == tmp_path / "dist-zero" / "native"
    assert build.cache_directory(replace(home, native_cache=Path("here"))) == Path("here")
    usual = Path.home() / ".cache" / "dist-zero" / "native"
    assert build.cache_directory(Settings()) == usual
    assert build.cache_directory(replace(home, cache_home=Path("relative"))) == usual


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what is missing, and what to do."""
    with pytest.raises(NativeUnavailable, match="CC says 'no-such-cc', and there is no such program"):
        compiled("", settings=replace(Settings(), c_compiler="no-such-cc"))
    assert build.available(Settings()) is None
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert build.available(Settings()) == "there is no C compiler (cc, gcc, clang); install one, or set CC"


def test_a_compiler_that_does_not_work(tmp_path: Path) -> None:
    """A machine without headers, say, is told from a source that is wrong."""
    says_version = script(
        tmp_path / "cc1", "echo 'cc 1.0'; [ \"$1\" = --version ] || { echo 'no stdio.h'; exit 1; }"
    )
    settings = replace(in_cache(tmp_path / "cache"), c_compiler=says_version)
    with pytest.raises(NativeUnavailable, match=r"does not work here: cc 1\.0\nno stdio\.h"):
        compiled(ANSWER % 1, settings=settings)
    silent = script(tmp_path / "cc2", "exit 3")
    with pytest.raises(NativeUnavailable, match="--version says"):
        compiled(ANSWER % 1, settings=replace(settings, c_compiler=silent))
    assert not list((tmp_path / "cache").iterdir())


def test_a_source_that_does_not_compile_is_our_bug(tmp_path: Path) -> None:
    """With what the compiler says of it."""
    with pytest.raises(InternalError, match=r"refuses generated C of 2 lines:\n(.|\n)*no_such_name"):
        compiled('#include "core.h"\nint x(void) { return no_such_name; }', settings=in_cache(tmp_path))


def test_big_endian_machines_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are little-endian."""
    monkeypatch.setattr("sys.byteorder", "big")
    with pytest.raises(NativeUnavailable, match="big-endian"):
        compiled("")


def test_machines_of_32_bits_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are multiplied in 128 bits, which compilers have for machines of 64."""
    monkeypatch.setattr("sys.maxsize", 2**31 - 1)
    with pytest.raises(NativeUnavailable, match="32 bits"):
        find_compiler(Settings())


def test_a_library_that_another_process_forgets_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a library may go between its check and its loading; that was taken for a machine that cannot load."""
    assert answer(tmp_path, 8) == 8

    def forgotten(name: str) -> None:
        monkeypatch.undo()
        Path(name).unlink()
        raise OSError("no such file")

    monkeypatch.setattr(ctypes, "CDLL", forgotten)
    assert answer(tmp_path, 8) == 8
    assert only_library(tmp_path).exists()


def test_both_sides_agree_on_the_abi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number in Python is the one in C; a library of another one is not loaded."""
    found = re.search(r"#define DZ_ABI (\d+)", (RUNTIME / "core.h").read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1]) == ABI
    monkeypatch.setattr(build, "ABI", ABI + 1)
    with pytest.raises(InternalError, match="has another ABI"):
        answer(tmp_path)


def test_headers_go_with_the_package() -> None:
    """pyproject.toml names them as package data."""
    text = (Path(build.__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"dist_zero.native" = ["runtime/*.h"]' in text


def test_headers_that_change_while_a_process_runs_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the key was of the headers as the process had read them, and the compiler took those of the tree. So
    what one process had half edited came to others under the name of what they had."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for header in RUNTIME.glob("*.h"):
        (runtime / header.name).write_bytes(header.read_bytes())
    monkeypatch.setattr(build, "RUNTIME", runtime)
    build._headers.cache_clear()
    try:
        assert answer(tmp_path / "cache") == 42
        (runtime / "core.h").write_text("#error half edited\n", encoding="utf-8")
        assert answer(tmp_path / "cache", 43) == 43
    finally:
        build._headers.cache_clear()


def test_the_command_line_says_once_that_there_is_no_compiler(tmp_path: Path) -> None:
    """One sentence, no line of ours, and the same answer."""
    command = [sys.executable, "-c", "from dist_zero.cli.main import main; main()"]
    command += ["run", "examples/leaderboard.py"]
    said = [
        subprocess.run(
            command,
            cwd=Path(__file__).parents[2],
            env=child_environment({"DIST_ZERO_NATIVE_CACHE": str(tmp_path), "COLUMNS": "200", **more}),
            capture_output=True,
            text=True,
            check=True,
        )
        for more in ({"CC": "/no/such", "DIST_ZERO_EXECUTOR": "auto"}, {"DIST_ZERO_EXECUTOR": "interpreter"})
    ]
    warning = (
        "warning: CC says '/no/such', and there is no such program; so plans are interpreted, which is slower"
    )
    assert [line for line in said[0].stderr.splitlines() if "arning" in line] == [warning]
    assert "arning" not in said[1].stderr
    tables = [[line for line in each.stdout.splitlines() if line.startswith("│")] for each in said]
    assert tables[0] == tables[1] != []
