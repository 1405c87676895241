"""The command that exports events: complete, or not at all."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import click

from dory_orchestrator.commands.asking import (
    FAILED,
    FLEET,
    INTERRUPTED,
    WRONG_CALL,
    Api,
    Failure,
    end,
    find_url,
    identify,
)
from dory_orchestrator.commands.events import since_of

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 30.0
_PATH = FLEET + "/events/export"
# What a terminal would obey; within JSON it may be written so, too.
_STEERING = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]")
_CUT = re.compile(rb"\xc2\Z|\xe2[\x80\x81]?\Z")


@click.command("events-export")
@click.option("--since", metavar="TIME", help="RFC 3339, or how long ago: 12h, 7d.")
@click.option("--until", metavar="TIME", help="The same; the first that is too late.")
@click.option("--processor", help="An id, or how a name or an id begins.")
@click.option("--node", help="On this node.")
@click.option("--kind", help="create, delete, guard, ...")
@click.option("--explained", is_flag=True, help="With the decisions behind them.")
@click.option(
    "--to",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Written when all has come.  [standard output]",
)
@click.option("--url", metavar="URL", help="Which orchestrator.  [DORY_URL]")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=".dory",
    help="Where `dev` tells its URL.  [.dory]",
)
def export_command(
    since: str | None,
    until: str | None,
    processor: str | None,
    explained: bool,
    file: Path | None,
    url: str | None,
    data_dir: Path,
    **filters: str | None,
) -> None:
    """Write all events, the oldest first, one JSON object on each line.

    Exit code 0 only if all came: what is on standard output else is not complete.

    \b
    Examples:
      dory-orchestrator events-export --since 7d --to events.jsonl
    """
    query = {
        **filters,
        "since": since_of(since),
        "until": since_of(until),
        "explained": "true" if explained else None,
    }
    try:
        found = find_url(url, data_dir)
        with _writing(file) as write:
            asyncio.run(_export(found, query, processor, write))
    except Failure as error:
        end(error.code, str(error))
    except OSError as error:
        if file is None:
            raise  # the pipe is closed: click knows
        end(FAILED, f"{file}: cannot be written: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextmanager
def _writing(file: Path | None) -> Iterator[Callable[[bytes], Any]]:
    """Standard output; or a file, which is there when all of it is, and else is as it was."""
    if file is None:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream.write
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


async def _export(
    url: str,
    query: dict[str, str | None],
    processor: str | None,
    write: Callable[[bytes], Any],
) -> None:
    """Raises Failure, OSError."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
    )
    async with aiohttp.ClientSession(timeout=timeout) as session:
        api = Api(url, session)
        if processor is not None:
            query["processor"] = await identify(api, processor)
        given = {name: value for name, value in query.items() if value is not None}
        async for chunk in _chunks(api, session, url + _PATH, given):
            write(chunk)


async def _chunks(
    api: Api, session: aiohttp.ClientSession, url: str, query: dict[str, str]
) -> AsyncIterator[bytes]:
    """What comes, harmless to terminals. Raises Failure."""
    answered = False
    try:
        async with session.get(url, params=query, allow_redirects=False) as answer:
            answered = True
            if answer.status != 200:
                api.read(FLEET, answer.status, await answer.read())
            kept = b""
            async for came in answer.content.iter_any():
                # A character may be cut in two.
                whole = _CUT.sub(b"", kept + came)
                kept = (kept + came)[len(whole) :]
                yield _STEERING.sub(_escaped, whole)
    except (aiohttp.InvalidURL, ValueError) as error:
        raise Failure(f"{url}: is no URL", WRONG_CALL) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        if answered:
            raise Failure("the export was cut: what came is not complete") from error
        raise Failure(
            f"cannot reach {url}: is the orchestrator running? give --url, or set DORY_URL"
        ) from error


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())
