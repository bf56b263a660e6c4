"""`dist-zero`: all commands together, and what becomes of errors.

Exit codes: 0 all is well; 1 a check failed; 2 the program, the data or the command line is wrong; 3 the
surroundings are (store, settings, broker); 4 a bug of DistZero's; 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
import warnings

from rich.text import Text

from dist_zero.cli import bridge, commands, join, scaling, stores, system_commands, up
from dist_zero.cli.app import BUG, OK, OPERATOR_ERROR, USER_ERROR, app
from dist_zero.cli.render import console_for
from dist_zero_common.allocation import keep_freed_memory
from dist_zero_common.errors import DistZeroError, InternalError, OperatorError, SimulationError, UserError
from dist_zero_common.log_shipping import process_log
from dist_zero_common.settings import load_settings

COMMANDS = (commands, up, join, bridge, system_commands, scaling, stores)
"""The modules whose commands there are: importing them registers these."""


def main() -> None:
    """The entry point: runs a command, and turns errors into one message and an exit code."""
    keep_freed_memory()
    warnings.showwarning = _show_warning
    sys.exit(_main())


def _main() -> int:
    try:
        settings = load_settings()
        with process_log(
            settings.log_directory, "main", level=settings.log_level, logstash=settings.logstash
        ):
            app(prog_name="dist-zero")
        return OK
    except SystemExit as end:  # typer's own way to end, also after an error in the command line
        return end.code if isinstance(end.code, int) else OK
    except UserError as error:
        return _failed(error, USER_ERROR)
    except (InternalError, SimulationError) as error:
        return _bug(error)
    except OperatorError as error:
        return _failed(error, OPERATOR_ERROR)
    except DistZeroError as error:
        return _failed(error, OPERATOR_ERROR)
    except BrokenPipeError:
        return OK
    except OSError as error:
        return _failed(error, OPERATOR_ERROR)
    except Exception as error:
        return _bug(error)


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """What a person is to know; the line of ours that says so helps nobody."""
    console_for(stderr=True).print(Text.assemble(("warning: ", "bold yellow"), str(message)))


def _failed(error: Exception, code: int) -> int:
    console_for(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)))
    return code


def _bug(error: Exception) -> int:
    traceback.print_exception(error)
    console_for(stderr=True).print(
        Text.assemble(
            ("bug: ", "bold red"), f"{error}\nThis should not happen: please report it with the lines above."
        )
    )
    return BUG
