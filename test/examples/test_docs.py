"""What the README and the documentation say is tried: their programs run and print what the pages show, their
commands and options exist, and their links lead somewhere.

A page is one session, from top to bottom, in a directory of its own. A fenced block is

- a file, when the line before it ends in its name, as in "Save this as `app.py`:"; "Add this at the end of `app.py`:"
  appends to it;
- `python`: run, in one namespace per page; a `text` block right behind it is what it prints;
- `console`: lines that begin with `$` are commands, with what they print below them; `dist-zero`, `cat` and `docker`
  are run. What is behind `<!-- docker` needs containers, and is run by test_tutorial_virtual.py.

In what is printed, `...` stands for any text. Python blocks are called `app.py` in errors, and their lines
are counted from the block's first.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

import dist_zero as dz
from dist_zero.cli import main as cli
from dist_zero.cli.app import app
from scripts.reference import PAGES as PAGES_OF_CODE
from scripts.reference import SCHEMA, structs_of
from test.unit.tidy import tracked

NEEDS_DOCKER = "<!-- docker"
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])
SESSIONS = [page for page in PAGES if re.search(r"^```(python|console)", page.read_text(), re.MULTILINE)]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_APPENDED_FILE = re.compile(r"at the end of `([\w-]+\.\w+)`:\s*\Z")
_NAMED_FILE = re.compile(r"`([\w-]+\.\w+)`:\s*\Z")
_EXIT_CODE = re.compile(r"^exit code \d+\n\Z", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CHECKER = doctest.OutputChecker()


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, line in the page, the text before it, and what it prints, if that
    is said."""

    language: str
    text: str
    line: int
    before: str
    printed: str | None


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page; a `text` block right behind a `python` block is joined to it."""
    blocks: list[Block] = []
    end = 0
    for match in _FENCE.finditer(page):
        before, language, text = page[end : match.start()], match[1], match[2]
        line = page.count("\n", 0, match.start()) + 1
        if language == "text" and not before.strip() and blocks and blocks[-1].language == "python":
            last = blocks.pop()
            blocks.append(Block(last.language, last.text, last.line, last.before, text))
        else:
            blocks.append(Block(language, text, line, before, None))
        end = match.end()
    return blocks


def commands_of(text: str) -> list[tuple[str, str]]:
    """The commands of a `console` block, each with what it prints."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    pairs = [part.partition("\n") for part in parts[1:]]
    return [(command, printed) for command, _, printed in pairs]


class Session:
    """What the blocks of one page do, one after the other."""

    def __init__(self, page: str, dist_zero: Callable[[list[str]], str] | None = None) -> None:
        """`dist_zero` runs a command, and returns what it prints; None: in this process."""
        self._page, self._dist_zero = page, dist_zero or run_command
        self._namespace: dict[str, Any] = {"__name__": "app"}

    def run(self, block: Block) -> None:
        """Run one block, and hold what it prints against the page."""
        before = block.before.rstrip()
        if appended := _APPENDED_FILE.search(before):
            with Path(appended[1]).open("a") as file:
                file.write(f"\n\n{block.text}")
        elif named := _NAMED_FILE.search(before):
            Path(named[1]).write_text(block.text)
        elif block.language == "python":
            self._compare(block, self._run_python(block), block.printed or "")
        elif block.language == "console":
            for command, printed in commands_of(block.text):
                words = shlex.split(command)
                if words[0] == "dist-zero":
                    self._compare(block, self._dist_zero(words), printed)
                elif words[0] == "cat":
                    self._compare(block, Path(words[1]).read_text(), printed)
                elif words[0] == "docker":
                    self._compare(block, subprocess.check_output(words, text=True), printed)

    def _run_python(self, block: Block) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block.text, "app.py", "exec"), self._namespace)
        return printed.getvalue()

    def _compare(self, block: Block, got: str, wanted: str) -> None:
        got, wanted = ("".join(f"{line.rstrip()}\n" for line in text.splitlines()) for text in (got, wanted))
        failed = _EXIT_CODE.search(got)  # which no `...` may hide
        agrees = _CHECKER.check_output(wanted, got, doctest.ELLIPSIS)
        if not agrees or (failed and failed[0] not in wanted):
            pytest.fail(f"{self._page}:{block.line} says\n{wanted}and this is printed\n{got}", pytrace=False)


def run_command(words: list[str]) -> str:
    """What `dist-zero …` prints, to both streams; the exit code behind it, if it is not 0."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as printed:
        patch.setattr(sys, "argv", words)
        patch.setenv("COLUMNS", "80")
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = cli._main()
        return printed.getvalue() + (f"exit code {code}\n" if code else "")


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a session, from which modules can be imported; they are forgotten behind
    it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(sys.modules)
    for name in ("leaderboard", "app"):
        sys.modules.pop(name, None)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    sys.modules.update({name: before[name] for name in ("leaderboard", "app") if name in before})


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.name)
@pytest.mark.usefixtures("empty_directory")
def test_page_embedded_and_simulated(page: Path) -> None:
    """Every program of the page runs, and prints what the page says it prints."""
    session = Session(str(page.relative_to(ROOT)))
    for block in blocks_of(page.read_text()):
        if NEEDS_DOCKER in block.before:
            break
        session.run(block)


def test_blocks_are_found() -> None:
    """The reader of pages sees files, programs with what they print, and commands: a page cannot pass
    unread."""
    page = "a `f.csv`:\n\n```csv\nx\n```\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```console\n$ a b\nc\n```\n"
    file, program, console = blocks_of(page)
    assert (file.language, program.printed, program.line) == ("csv", "1\n", 7)
    assert _NAMED_FILE.search(file.before.rstrip())
    assert commands_of(console.text) == [("a b", "c\n")]


def test_wrong_output_is_noticed() -> None:
    """A page that shows something else than is printed fails."""
    session = Session("page")
    session.run(Block("python", "print('one')", 1, "", "o...e\n"))
    with pytest.raises(pytest.fail.Exception, match="exit code 2"):
        session.run(Block("console", "$ dist-zero run nothing.py\n...\n", 1, "", None))
    with pytest.raises(pytest.fail.Exception, match="page:1 says"):
        session.run(Block("python", "print('one')", 1, "", "two\n"))


# ---- commands ----------------------------------------------------------------------------------------------


def written_commands() -> list[tuple[str, str]]:
    """Every command line in blocks of shell and in `code` of a line, with the page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in blocks_of(text):
            if block.language in ("sh", "console"):
                lines = [
                    re.sub(r"^(\$ )?(\.venv/bin/|pipenv run )?", "", line) for line in block.text.splitlines()
                ]
                found += [(page.name, line.partition("  #")[0].strip()) for line in lines]
        found += [(page.name, code) for code in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))]
    return [(page, line) for page, line in found if line.split(" ")[0] in ("make", "dist-zero", "pipenv")]


def test_written_commands_exist() -> None:
    """Targets of make, commands of dist-zero and their options that the pages name are there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = options_of_commands()
    wrong = []
    for page, line in written_commands():
        words = line.split()
        if words[0] == "make" and len(words) > 1 and words[1] not in targets:
            wrong.append(f"{page}: {line}")
        if words[0] == "dist-zero" and len(words) > 1 and not words[1].startswith("-"):
            known = commands.get(words[1])
            options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
            if known is None or not options <= known:
                wrong.append(f"{page}: {line}")
    assert not wrong
    assert any(line.startswith("make demo") for page, line in written_commands() if page == "README.md")


def test_readme_commands_run_simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the README tells a newcomer to type about the examples runs, in a clone."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DIST_ZERO_LOG_DIR", str(tmp_path))
    lines = [line for page, line in written_commands() if page == "README.md"]
    commands = [words for line in lines if (words := line.split())[0] == "dist-zero" and len(words) > 2]
    typed = [words for words in commands if Path(words[2]).exists()]
    # Those that need Docker are what test/virtual does: a run in three containers, and one against the composed system.
    typed = [words for words in typed if not {"--mode", "--broker"}.intersection(words)]
    assert [words[1] for words in typed] == ["run", "explain", "run"]
    for words in typed:
        printed = run_command(words)
        assert printed
        assert "exit code" not in printed


def test_readme_program_has_ten_lines() -> None:
    """The first program of the README is as short as it says."""
    first = next(b for b in blocks_of((ROOT / "README.md").read_text()) if b.language == "python")
    assert len([line for line in first.text.splitlines() if line.strip()]) == 10


def test_every_option_is_documented() -> None:
    """The page of the command line names every command and every option, in its section."""
    page = (DOCS / "command-line.md").read_text()
    for command, options in options_of_commands().items():
        section = re.search(rf"^## `dist-zero {command}.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section, f"no section for dist-zero {command}"
        missing = {option for option in options - {"--help"} if f"`{option}" not in section[0]}
        assert not missing, f"dist-zero {command}"


def options_of_commands() -> dict[str, set[str]]:
    """The commands of dist-zero with their options."""
    group: Any = typer.main.get_command(app)
    return {
        name: {
            option
            for parameter in command.params
            if not getattr(parameter, "hidden", False)  # what our own processes say to each other
            for option in parameter.opts
            if option.startswith("--")
        }
        | {"--help"}
        for name, command in group.commands.items()
    }


def test_every_operation_has_an_example() -> None:
    """Every verb of tables, method of columns, aggregate and public function is used by a program of the language page;
    every public name is in the API reference."""
    language = (DOCS / "language.md").read_text()
    code = "\n".join(block.text for block in blocks_of(language) if block.language == "python")
    verbs = [f".{name}(" for of in (dz.Table, dz.Column) for name in vars(of) if not name.startswith("_")]
    assert not [v for v in verbs if v not in code and v not in (".key(", ".row_type(")]
    functions = [name for name in dz.__all__ if name[0].islower() and name not in ("read_rows",)]
    assert not [name for name in functions if f"dz.{name}(" not in code]
    reference = (DOCS / "api.md").read_text()
    assert not [name for name in dz.__all__ if not re.search(rf":: {name}\b", reference)]


def test_named_files_are_there() -> None:
    """Files of the tree that the pages name, as `expr/ops.py`, are there."""
    there = [path.as_posix() for path in tracked()]
    missing = []
    for page in PAGES:
        for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|capnp|md))`", page.read_text()):
            if not any(f"/{path}".endswith(f"/{name}") for path in there):
                missing.append(f"{page.name}: {name}")
    assert not missing


def test_links_lead_somewhere() -> None:
    """Every link to a file of the tree finds it."""
    broken = []
    for page in PAGES:
        for link in _LINK.findall(_FENCE.sub("", page.read_text())):
            target = link.partition("#")[0]
            if "://" not in link and target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {link}")
    assert not broken


@pytest.mark.parametrize("name", PAGES_OF_CODE)
def test_reference_is_what_the_code_says(name: str) -> None:
    """The pages on settings and messages are what would be written now."""
    assert (DOCS / name).read_text() == PAGES_OF_CODE[name](), "run: python -m scripts.reference"


def test_the_schema_is_read_whole() -> None:
    """Every struct of the schema is found by the reader of schemas, with as many fields as it numbers."""
    schema = re.sub(r"#.*", "", SCHEMA.read_text())
    found = structs_of(SCHEMA.read_text())
    assert {struct.name for struct in found} == set(re.findall(r"(?:struct|enum) (\w+)", schema))
    assert sum(len(struct.fields) for struct in found) == len(re.findall(r"\w @\d+", schema))
    assert not [struct.name for struct in found if not struct.says], "every struct says what it is"


@pytest.mark.long
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    """`make docs`: no broken reference between pages, no docstring that does not render."""
    options = shlex.split("-m sphinx -W --keep-going -q -b html docs")
    command = [sys.executable, *options, str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "api.html").exists()
