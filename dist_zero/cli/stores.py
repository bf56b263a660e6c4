"""The command for stores that nobody uses just now: `copy-store`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from dist_zero.cli.app import AsJson, app
from dist_zero.cli.render import console_for
from dist_zero_common.errors import OperatorError
from dist_zero_common.settings import load_settings
from dist_zero_common.store.base import Store
from dist_zero_common.store.copying import Copied, copy_store
from dist_zero_common.store.directory import DirectoryStore
from dist_zero_common.store.opening import directory_of, open_store

_WHERE = "A directory, or s3://bucket/prefix."


@app.command("copy-store")
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help=_WHERE)],
    target: Annotated[str, typer.Argument(metavar="TO", help=f"{_WHERE} Empty, or an older copy.")],
    as_json: AsJson = False,
) -> None:
    """Copy all that a store holds to another place, or another kind of store: as a backup, or to move a system.

    No system may use either meanwhile. Of an older copy only what has changed is written, and all of it is compared.
    """
    copied = asyncio.run(_copy(source, target))
    if as_json:
        said = {"objects": copied.objects, "new_objects": copied.new_objects, "new_bytes": copied.new_bytes}
        typer.echo(json.dumps(said))
    else:
        typer.echo(
            f"{target} holds the {copied.objects:,} objects of {source}; {copied.new_objects:,} of them,"
            f" {copied.new_bytes / 1e6:,.1f} MB, are new there"
        )


async def _copy(source: str, target: str) -> Copied:
    there = directory_of(source)
    if there is not None and not there.is_dir():
        raise OperatorError(f"there is no store to copy: {source} is no directory")
    console = console_for(stderr=True)
    held = _open(source)
    try:
        kept = _open(target)
        try:
            with console.status("copying") as status:
                return await copy_store(
                    held, kept, lambda done, of: status.update(f"copying {done:,} of {of:,} objects")
                )
        finally:
            await kept.close()
    finally:
        await held.close()


def _open(where: str) -> Store:
    """The store, for nobody else if it is a directory."""
    directory: Path | None = directory_of(where)
    return DirectoryStore(directory) if directory is not None else open_store(where, load_settings())
