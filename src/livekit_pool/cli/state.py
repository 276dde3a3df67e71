"""
``livekit-pool state export`` and ``state import``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from ..config import Settings
from ..core.stored import rfc3339
from ..exceptions import ConfigurationError, PoolError
from ..stores import store_from_url
from ..stores.base import Store
from ..stores.moving import Import, Target, look, read_state, summary
from ..stores.state_json import State, state_from_json, state_to_json
from .api import actor
from .flags import json_flag, with_settings, yes_flag
from .output import Table, is_terminal, local_time, print_json

__all__ = ["state"]

_T = TypeVar("_T")

# What the table calls the fields of a summary.
_LABELS = {
    "revision": "revision",
    "active": "active server",
    "rotations": "rotations",
    "placements": "placements",
    "sums": "ledger sums",
}
# Placements, from which on their writing is told of as it goes on.
_MANY = 1000


@click.group()
def state() -> None:
    """
    Write all that the pool remembers to a file, and read it into another store.

    Neither asks a running pool: both open the store itself. To move a pool, stop it first.
    """


@state.command()
@click.option(
    "--output", type=Path, metavar="FILE", help="Write to FILE, which only its owner may read."
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@with_settings(("store",), need_servers=True)
def export(settings: Settings, output: Path | None, force: bool) -> None:
    """
    Write the document, the history, the placements and the ledger of the store as JSON.

    It holds no secret. The pool may run; but what it does afterwards is not in the file.
    """
    if force and output is None:
        raise click.UsageError("--force is for a file: give --output FILE.")
    _check_there(settings)

    async def read(store: Store) -> tuple[State, int]:
        return await read_state(store), len(await store.rows())

    found, living = _with_store(settings, read)
    text = state_to_json(found)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text, force)
    has = summary(found)
    # Beside the file, if that goes to standard output.
    click.echo(
        f"Exported from {found.store}: revision {has.revision}, active server {has.active}; "
        f"rotations: {has.rotations}, placements: {has.placements}, ledger sums: {has.sums}.",
        err=output is None,
    )
    if living:
        click.echo(
            f"livekit-pool: Processes that use this store: {living}. What they do from now on is "
            "not in the file: to move the pool, stop it and export again.",
            err=True,
        )


@state.command(name="import")
@click.argument("file", metavar="FILE")
@click.option(
    "--replace",
    "replace_",
    is_flag=True,
    help="Also into a store that holds a document: it and its placements give way.",
)
@click.option("--dry-run", is_flag=True, help="Say what would happen, and write nothing.")
@yes_flag
@json_flag
@with_settings(("store",), need_servers=True)
def import_(
    settings: Settings, *, file: str, replace_: bool, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """
    Read FILE, as written by 'state export', into the store; - is standard input.

    Shows first what is there and what is in FILE, then asks. Without a terminal, and without
    --yes, nothing is written. The pool must not run. An import that was interrupted is simply
    repeated.
    """
    name = "standard input" if file == "-" else file
    read = state_from_json(_read(file, name), name)
    plan = partial(
        Import,
        read,
        names=[server.name for server in settings.servers],
        actor=actor(),
        replace_=replace_,
    )
    found = _look(settings)
    made = plan(found)
    asks = not (dry_run or yes) and is_terminal() and sys.stdin.isatty()
    writes = yes and not dry_run
    if not as_json:
        _table(name, read, found, made).show()
    if (sentence := made.refusal) is not None:
        raise PoolError(sentence)
    if asks:
        if not click.confirm(f"Write this to {found.url}?"):
            raise PoolError("Nothing was done.")
        writes = True
    if writes:
        made = _with_store(settings, partial(_import, found=found, plan=plan))
    if as_json:
        print_json(_public(read, found, made, written=writes))
    elif writes:
        click.echo(f"Imported into {found.url}, revision {made.document.revision}.")
    else:
        hint = "" if dry_run else " There is no terminal to ask on: give --yes to write it."
        click.echo(f"A dry run: nothing was written.{hint}")


async def _import(store: Store, found: Target, plan: Callable[[Target], Import]) -> Import:
    """Write, if the store still holds the document that was shown."""
    now = await look(store)
    if now.document != found.document:
        raise PoolError(f"The document in {now.url} was changed meanwhile: look again, and decide.")
    made = plan(now)
    await made.run(store, _progress)
    return made


# -- the store --


def _with_store(settings: Settings, work: Callable[[Store], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        names = tuple(server.name for server in settings.servers)
        async with store_from_url(settings.store, names=names) as store:
            return await work(store)

    if settings.store.lower().startswith("memory:"):
        raise ConfigurationError(
            "LIVEKIT_POOL_STORE is memory://, which ends with its process: name the store of "
            "which the state is to be kept (--store)."
        )
    return asyncio.run(run())


def _look(settings: Settings) -> Target:
    database = _database(settings)
    if database is not None and database.parent.is_dir() and not database.exists():
        # To open it would make it, and this much is to write nothing.
        return Target(url=settings.store, now=0.0, ledger={})
    return _with_store(settings, look)


def _check_there(settings: Settings) -> None:
    """Refuse to make an empty database only to find nothing in it."""
    database = _database(settings)
    if database is not None and not database.exists():
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE: {database} does not exist: name the database of the pool."
        )


def _database(settings: Settings) -> Path | None:
    """The file of an SQLite store."""
    scheme, _, location = settings.store.partition(":///")
    return settings.directory / location if scheme.lower() == "sqlite" and location else None


# -- the file --


def _read(file: str, name: str) -> str:
    try:
        if file == "-":
            return sys.stdin.buffer.read().decode()
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}: this is not JSON; export the state again.") from None


def _write(path: Path, text: str, force: bool) -> None:
    """Write a file that is there whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if force:
                draft.replace(path)
            else:
                # Never replaces a file, as a rename would.
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise PoolError(
            f"{path} exists: name another file, or give --force to replace it."
        ) from None
    except OSError as error:
        raise PoolError(f"{path} cannot be written: {error.strerror}.") from None


# -- what is shown --


def _table(name: str, read: State, found: Target, made: Import) -> Table:
    columns = [summary(found), summary(read), made.after]
    rows = [
        [
            label,
            *(
                "" if getattr(each, field) is None else str(getattr(each, field))
                for each in columns
            ),
        ]
        for field, label in _LABELS.items()
    ]
    already = ["The document of this file is there already."] if made.resumed else []
    return Table(
        columns=("", "THERE", "FILE", "AFTER"),
        rows=rows,
        header=f"{name}, exported {local_time(rfc3339(read.exported_at))} from {read.store}, "
        f"into {found.url}",
        footer=[*already, *made.warnings],
    )


def _public(read: State, found: Target, made: Import, *, written: bool) -> dict[str, Any]:
    return {
        "written": written,
        "store": found.url,
        "there": asdict(summary(found)),
        "file": {
            "store": read.store,
            "exported_at": rfc3339(read.exported_at),
            **asdict(summary(read)),
        },
        "after": asdict(made.after),
        "warnings": made.warnings,
    }


def _progress(done: int, of: int) -> None:
    if of > _MANY:
        click.echo(f"Placements written: {done:,} of {of:,}.", err=True)
