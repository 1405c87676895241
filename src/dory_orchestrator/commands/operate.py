"""Commands of operators: they ask a running orchestrator over HTTP.

Exit codes: 0 fine, 1 the orchestrator cannot be reached or says no, 2 the call is wrong.
"""

import asyncio
import getpass
import json
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import aiohttp
import click

from dory_orchestrator.commands import tables
from dory_orchestrator.settings import duration_seconds

T = TypeVar("T")
_Command = TypeVar("_Command", bound=Callable[..., Any])
_PROGRAM = "dory-orchestrator"
_FAILED, _WRONG_CALL, _INTERRUPTED = 1, 2, 130
_DEFAULT_URL = "http://127.0.0.1:8080"
_ROOT = "/api/v1/fleet"
_TIMEOUT_SECONDS = 10.0
_PAGE = 1000
_FOLLOW_SECONDS = 1.0
_RETRY_SECONDS_MAX = 5.0
_SHOWN_EVENTS = 10_000
_OVERRIDE_SECONDS_MAX = 86_400
_OURS = {400: _WRONG_CALL, 401: _WRONG_CALL, 403: _WRONG_CALL}


class Failure(Exception):
    """What was asked for cannot be had. `lasting` says that to ask again will not help."""

    def __init__(self, text: str, code: int = _FAILED, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Target:
    """Which orchestrator is asked, and how its answer is shown."""

    url: str
    output: str

    @property
    def as_json(self) -> bool:
        return self.output == "json"

    @property
    def wide(self) -> bool:
        return self.output == "wide"


class Api:
    """A running orchestrator's fleet API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer. Raises Failure."""
        given = {k: str(v) for k, v in (query or {}).items() if v is not None}
        return await self._ask("GET", path, params=given)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a decision, made with the token of the environment. Raises Failure."""
        token = os.environ.get("DORY_OPERATOR_TOKEN", "")
        if not re.fullmatch(r"[\x21-\x7e]*", token):
            raise Failure("DORY_OPERATOR_TOKEN: is no token: it holds odd characters", _WRONG_CALL)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self._ask("POST", path, json=body, headers=headers)

    async def all(
        self, path: str, name: str, query: Mapping[str, Any], limit: int | None
    ) -> dict[str, Any]:
        """The rows of as many pages as it takes. Raises Failure."""
        rows: list[Any] = []
        cursor = None
        while limit is None or len(rows) < limit:
            wanted = _PAGE if limit is None else min(_PAGE, limit - len(rows))
            page = await self.get(path, {**query, "limit": wanted, "cursor": cursor})
            rows += page[name]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return {name: rows, "next_cursor": cursor}

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        where = f"{self._url}{_ROOT}{path}"
        try:
            async with self._session.request(
                method, where, allow_redirects=False, **options
            ) as answer:
                return self._read(answer.status, await answer.read())
        except (aiohttp.InvalidURL, ValueError) as error:
            raise Failure(f"{tables.clean(self._url)}: is no URL", _WRONG_CALL) from error
        except TimeoutError as error:
            raise Failure(f"{self._url}: no answer within {_TIMEOUT_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Failure(
                f"cannot reach {self._url}: is the orchestrator running? give --url, or set"
                f" DORY_URL ({_one_line(error)})"
            ) from error

    def _read(self, status: int, text: bytes) -> dict[str, Any]:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise Failure(f"{self._url} answers, but is no orchestrator (status {status})")
        if status == 200:
            return content
        raise Failure(_said(status, content), _OURS.get(status, _FAILED), lasting=status < 500)


def _said(status: int, content: Mapping[str, Any]) -> str:
    text = tables.clean(str(content.get("error", f"status {status}")))
    if status == 401:
        return "the operators' token is needed: set DORY_OPERATOR_TOKEN"
    if status == 404 and text == "Not Found":
        return "this orchestrator has no fleet API: it is older than this command, or another role"
    return f"the orchestrator says: {text}" if status >= 500 else text


# Options -----------------------------------------------------------------------------------


def _target_options(*outputs: str) -> Callable[[_Command], _Command]:
    options = [
        click.option("--url", metavar="URL", help="Which orchestrator.  [DORY_URL]"),
        click.option(
            "--data-dir",
            type=click.Path(file_okay=False, path_type=Path),
            default=".dory",
            help="Where `dev` tells its URL.  [.dory]",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Choice(outputs),
            default="table",
            help="How it is shown.  [table]",
        ),
    ]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_tables = _target_options("table", "wide", "json")
_plain = _target_options("table", "json")
_limit = click.option("--limit", type=click.IntRange(1), metavar="NUMBER", help="How many at most.")


def _target(url: str | None, data_dir: Path, output: str) -> Target:
    found = url or os.environ.get("DORY_URL") or _url_of_dev(data_dir) or _DEFAULT_URL
    if not found.startswith(("http://", "https://")):
        _exit(_WRONG_CALL, f"{tables.clean(found)}: is no URL such as {_DEFAULT_URL}")
    return Target(found.rstrip("/"), output)


def _url_of_dev(data_dir: Path) -> str | None:
    file = data_dir / "endpoints.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["http"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _exit(_WRONG_CALL, f"{file}: cannot be read: give --url ({_one_line(error)})")


# Commands ----------------------------------------------------------------------------------


@click.command("nodes")
@click.option("--kind", type=click.Choice(["edge", "application", "other"]))
@click.option("--ready/--not-ready", default=None, help="Not ready: also not in the cluster.")
@click.option("--status", help="Of edge nodes: online, decommissioned, ...")
@click.option("--organization", type=click.UUID)
@click.option("-q", "--name", "prefix", metavar="TEXT", help="How the name begins.")
@click.option("--sort", type=click.Choice(["name", "kind", "utilisation"]))
@_limit
@_tables
def nodes_command(
    url: str | None,
    data_dir: Path,
    output: str,
    limit: int | None,
    ready: bool | None,
    prefix: str | None,
    **filters: Any,
) -> None:
    """List nodes: those of the cluster, and edge nodes that are not in it."""
    target = _target(url, data_dir, output)
    word = None if ready is None else str(ready).lower()
    query = {**filters, "ready": word, "q": prefix}
    found = _run(target, lambda api: api.all("/nodes", "nodes", query, limit))
    _show_rows(target, found, "nodes", tables.nodes)


@click.command("processors")
@click.argument("processor", required=False)
@click.option("--state", help="One, or several with commas: running,held,error,...")
@click.option("--node", help="On this node.")
@click.option("--template", help="Of the template with this slug.")
@click.option("--organization", type=click.UUID)
@click.option("--namespace")
@click.option("--health", type=click.Choice(["unknown", "healthy", "unhealthy"]))
@click.option("-q", "--name", "prefix", metavar="TEXT", help="How the name or the id begins.")
@click.option("--sort", type=click.Choice(["name", "state", "node", "since"]))
@_limit
@_tables
def processors_command(
    processor: str | None,
    url: str | None,
    data_dir: Path,
    output: str,
    limit: int | None,
    prefix: str | None,
    **filters: Any,
) -> None:
    """List processors; or show PROCESSOR: an id, or how a name or an id begins."""
    target = _target(url, data_dir, output)
    if processor is not None:
        if limit or prefix or any(value is not None for value in filters.values()):
            _exit(_WRONG_CALL, "give either a processor or filters")
        _show_processor(target, processor)
        return
    query = {**filters, "q": prefix}
    found = _run(target, lambda api: api.all("/processors", "processors", query, limit))
    _show_rows(target, found, "processors", tables.processors)


@click.command("events")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("--processor", help="An id, or how a name or an id begins.")
@click.option("--node")
@click.option("--kind", help="create, delete, guard, ...")
@click.option("--reason")
@click.option("--since", metavar="TIME", help="RFC 3339, or how long ago: 10m, 2h.")
@click.option(
    "--limit", type=click.IntRange(0), default=50, metavar="NUMBER", help="How many.  [50]"
)
@_tables
def events_command(
    follow: bool,
    processor: str | None,
    since: str | None,
    limit: int,
    url: str | None,
    data_dir: Path,
    output: str,
    **filters: Any,
) -> None:
    """Show what was done and why, the newest last."""
    target = _target(url, data_dir, output)
    query = {**filters, "since": _since(since)}

    async def work(api: Api) -> None:
        if processor is not None:
            query["processor"] = await _identify(api, processor)
        await _tell_events(api, target, query, limit, follow=follow)

    _run(target, work)


@click.command("moves")
@click.option("--open", "is_open", is_flag=True, help="Only those that are under way.")
@click.option("--processor", help="An id, or how a name or an id begins.")
@click.option("--node", help="From or to this node.")
@click.option(
    "--limit", type=click.IntRange(1), default=50, metavar="NUMBER", help="How many.  [50]"
)
@_tables
def moves_command(
    is_open: bool,
    processor: str | None,
    node: str | None,
    limit: int,
    url: str | None,
    data_dir: Path,
    output: str,
) -> None:
    """Show which processors were moved between nodes, the newest last."""
    target = _target(url, data_dir, output)

    async def work(api: Api) -> dict[str, Any]:
        key = None if processor is None else await _identify(api, processor)
        query = {"open": "true" if is_open else None, "processor_id": key, "node": node}
        return await api.all("/moves", "moves", query, limit)

    found = _run(target, work)
    rows = found if target.as_json else {"moves": found["moves"][::-1], "next_cursor": None}
    _show_rows(target, rows, "moves", tables.moves)


@click.group("guard")
def guard_group() -> None:
    """What waits for an operator's word."""


@guard_group.command("status")
@_plain
def status_command(url: str | None, data_dir: Path, output: str) -> None:
    """Show what is held back, and why."""
    target = _target(url, data_dir, output)
    status = _run(target, lambda api: api.get("/guard"))
    if target.as_json:
        _show_json(status)
        return
    _show_guard(status)
    if status["held"]:
        click.echo(f'\nto accept what is held: "{_PROGRAM} guard confirm"')
    if status["frozen_count"]:
        click.echo(f'\nto accept the pods of frozen ones: "{_PROGRAM} guard adopt --all"')


_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_by = click.option("--by", metavar="NAME", help="Who decides, for the record.")


@guard_group.command("confirm")
@_yes
@_by
@_plain
def confirm_command(
    yes: bool, by: str | None, url: str | None, data_dir: Path, output: str
) -> None:
    """Accept the present counts of processors: what is held is deleted then."""
    target = _target(url, data_dir, output)
    status = _run(target, lambda api: api.get("/guard"))
    if not status["held"]:
        _exit(_FAILED, "nothing is held: there is nothing to confirm")
    if not target.as_json:
        _show_held(status)
    _ask(yes, f"Delete the pods of {_counted(status['processors_count'])}?")
    body = {"by": by or _whoami(), "groups": status["groups"]}
    answer = _run(target, lambda api: api.post("/guard/confirm", body))
    if target.as_json:
        _show_json(answer)
    else:
        click.echo("confirmed")


@guard_group.command("adopt")
@click.argument("processors", nargs=-1, type=click.UUID)
@click.option("--all", "everyone", is_flag=True, help="All that are frozen.")
@_yes
@_by
@_plain
def adopt_command(
    processors: tuple[UUID, ...],
    everyone: bool,
    yes: bool,
    by: str | None,
    url: str | None,
    data_dir: Path,
    output: str,
) -> None:
    """Take the word of frozen processors' pods for their epoch.

    For after the database was restored from a backup: the pods that run are newer than it.
    """
    if everyone is bool(processors):
        _exit(_WRONG_CALL, "give the ids of processors, or --all")
    target = _target(url, data_dir, output)
    wanted = "all" if everyone else [str(key) for key in processors]
    if not yes:
        _show_guard(_run(target, lambda api: api.get("/guard")), err=True)
    _ask(yes, "Let the pods that run own these processors?")
    body = {"by": by or _whoami(), "processors": wanted}
    answer = _run(target, lambda api: api.post("/guard/adopt", body))
    if target.as_json:
        _show_json(answer)
    else:
        click.echo(f"adopted {len(answer['adopted'])}")


# Nodes -------------------------------------------------------------------------------------


_organization = click.option(
    "--organization",
    type=click.UUID,
    metavar="ID",
    help="Where two organizations have a node of this name.",
)


@click.command("cordon")
@click.argument("node")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the record.")
@_organization
@_by
@_plain
def cordon_command(
    node: str,
    reason: str,
    organization: UUID | None,
    by: str | None,
    url: str | None,
    data_dir: Path,
    output: str,
) -> None:
    """Give an edge node no new work, and let nothing come home to it; what runs there stays."""
    body = {"node": node, "reason": reason, "by": by or _whoami()}
    _decide_node(_target(url, data_dir, output), "/nodes/cordon", body, organization)


@click.command("uncordon")
@click.argument("node")
@_organization
@_by
@_plain
def uncordon_command(
    node: str,
    organization: UUID | None,
    by: str | None,
    url: str | None,
    data_dir: Path,
    output: str,
) -> None:
    """Give an edge node work again: what is away from home comes back once it is well."""
    body = {"node": node, "by": by or _whoami()}
    _decide_node(_target(url, data_dir, output), "/nodes/uncordon", body, organization)


def _decide_node(
    target: Target, path: str, body: Mapping[str, Any], organization: UUID | None
) -> None:
    chosen = {} if organization is None else {"organization": str(organization)}
    answer = _run(target, lambda api: api.post(path, {**body, **chosen}))
    if target.as_json:
        _show_json(answer)
    else:
        click.echo(tables.clean(f"{answer['node']}: {answer['message']}"))


# The brake ---------------------------------------------------------------------------------


@click.group("brake")
def brake_group() -> None:
    """What keeps processors in place when many nodes look dead at once."""


@brake_group.command("status")
@_plain
def brake_status_command(url: str | None, data_dir: Path, output: str) -> None:
    """Show whether the brake holds, why, and which nodes look dead."""
    target = _target(url, data_dir, output)
    status = _run(target, lambda api: api.get("/brake"))
    if target.as_json:
        _show_json(status)
        return
    _show_brake(status)
    if status["engaged"]:
        click.echo(f'\nto move all the same: "{_PROGRAM} brake override --for 10m --reason ..."')


@brake_group.command("override")
@click.option(
    "--for",
    "duration",
    required=True,
    metavar="DURATION",
    help="For how long: 10m, 1h; at most 24h.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the record.")
@_yes
@_by
@_plain
def override_command(
    duration: str,
    reason: str,
    yes: bool,
    by: str | None,
    url: str | None,
    data_dir: Path,
    output: str,
) -> None:
    """Move away from dead nodes, however many they are.

    Also ahead of time: a brake that is not engaged does not engage until then.
    """
    seconds = _override_seconds(duration)
    target = _target(url, data_dir, output)
    if not yes:
        _show_brake(_run(target, lambda api: api.get("/brake")), err=True)
    _ask(yes, f"Move away from nodes that look dead, for {duration} from now on?")
    body = {"for_seconds": seconds, "reason": reason, "by": by or _whoami()}
    _decide_brake(target, "/brake/override", body)


@brake_group.command("clear")
@_by
@_plain
def clear_command(by: str | None, url: str | None, data_dir: Path, output: str) -> None:
    """End an override: the brake holds again, if it has cause to."""
    target = _target(url, data_dir, output)
    _decide_brake(target, "/brake/clear", {"by": by or _whoami()})


def _decide_brake(target: Target, path: str, body: Mapping[str, Any]) -> None:
    answer = _run(target, lambda api: api.post(path, body))
    if target.as_json:
        _show_json(answer)
        return
    if (until := answer["override_until"]) is not None:
        click.echo(f"overridden until {tables.clean(until)}")
    click.echo(tables.clean(answer["message"]))


def _override_seconds(text: str) -> float:
    try:
        seconds = duration_seconds(text)
    except ValueError as error:
        _exit(_WRONG_CALL, f"--for: {tables.clean(text)}: {error}")
    if not 1 <= seconds <= _OVERRIDE_SECONDS_MAX:
        _exit(_WRONG_CALL, f"--for: {tables.clean(text)}: expected 1s to 24h")
    return seconds


def _show_brake(status: Mapping[str, Any], *, err: bool = False) -> None:
    values: dict[str, object] = {"brake": tables.brake_state(status)}
    if status["engaged_at"] is not None:
        values |= {"engaged": tables.ago(status["engaged_at"]), "reason": status["reason"]}
        values |= {"counted": f"{status['population_count']} edge nodes"}
    if status["detail"]:
        values["why"] = status["detail"]
    if status["override_until"] is not None:
        values["overridden until"] = tables.until(status["override_until"])
        values |= {"by": status["override_by"], "because": status["override_reason"]}
    click.echo(tables.render(tables.pairs(values)), err=err)
    if count := status["nodes_count"]:
        click.echo(f"\nedge nodes that are suspect or offline: {count}", err=err)
        click.echo(tables.render(tables.suspects(status["nodes"])), err=err)
        if (more := count - len(status["nodes"])) > 0:
            click.echo(f"and {more} more", err=err)


# Events ------------------------------------------------------------------------------------


async def _tell_events(
    api: Api, target: Target, query: Mapping[str, Any], limit: int, *, follow: bool
) -> None:
    found = await api.all("/events", "events", query, limit) if limit else {"events": []}
    # Where to go on is told by the first page: what happens meanwhile comes after it.
    start = await api.get("/events", {"limit": 1}) if follow else {"follow": 0}
    rows = found["events"]
    if not follow:
        _show_events(target, found)
        return
    newest = rows[0]["id"] if rows else start["follow"]
    for row in reversed(rows):
        _show_event(target, row)
    await _follow(api, target, query, min(newest, start["follow"]), {row["id"] for row in rows})


async def _follow(
    api: Api, target: Target, query: Mapping[str, Any], after: int, shown: set[int]
) -> None:
    """For ever; an orchestrator that restarts is waited for."""
    recent: deque[int] = deque(sorted(shown), maxlen=_SHOWN_EVENTS)
    lost, pause_seconds = False, _FOLLOW_SECONDS
    while True:
        try:
            page = await api.get("/events", {**query, "after": after, "limit": _PAGE})
        except Failure as error:
            if error.lasting:
                raise
            if not lost:
                _complain(str(error), "it is tried again")
            lost, pause_seconds = True, min(pause_seconds * 2, _RETRY_SECONDS_MAX)
        else:
            if lost:
                _complain("reached again")
            lost, pause_seconds = False, _FOLLOW_SECONDS
            for row in page["events"]:
                # While writers take long, the same event may be told twice.
                if row["id"] not in recent:
                    _show_event(target, row)
                    recent.append(row["id"])
            after = page["follow"]
            if len(page["events"]) == _PAGE:
                continue
        await asyncio.sleep(pause_seconds)


def _show_event(target: Target, row: Mapping[str, Any]) -> None:
    line = _json(row) if target.as_json else tables.event_line(row, wide=target.wide)
    click.echo(line)


def _show_events(target: Target, found: Mapping[str, Any]) -> None:
    if target.as_json:
        _show_json(found)
        return
    _show_rows(
        target, {"events": found["events"][::-1], "next_cursor": None}, "events", tables.events
    )


def _since(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        ago = timedelta(seconds=duration_seconds(text))
        return (datetime.now(UTC) - ago).isoformat()
    except ValueError:
        return text  # a moment; the orchestrator says if it is none
    except OverflowError:
        _exit(_WRONG_CALL, f"--since: {text}: is longer ago than anything")


# Showing -----------------------------------------------------------------------------------


def _show_rows(
    target: Target, found: Mapping[str, Any], name: str, table: Callable[..., Any]
) -> None:
    if target.as_json:
        _show_json(found)
        return
    rows = found[name]
    if not rows:
        click.echo(f"no {name}", err=True)
        return
    click.echo(tables.render(table(rows, wide=target.wide), wide=target.wide))
    if found["next_cursor"] is not None:
        click.echo(f"there are more {name}: give a higher --limit", err=True)


def _show_processor(target: Target, text: str) -> None:
    async def work(api: Api) -> dict[str, Any]:
        return await api.get(f"/processors/{await _identify(api, text)}")

    found = _run(target, work)
    if target.as_json:
        _show_json(found)
        return
    click.echo(tables.render(tables.processor(found["processor"])))
    if found["events"]:
        click.echo()
        click.echo(
            tables.render(tables.events(found["events"][::-1], wide=target.wide), wide=target.wide)
        )


async def _identify(api: Api, text: str) -> str:
    """The id of the one processor that is meant. Raises Failure."""
    try:
        return str(UUID(text))
    except ValueError:
        page = await api.get("/processors", {"q": text, "limit": 100})
    found = page["processors"]
    same = [row for row in found if row["name"] == text]
    found = same or found
    if len(found) == 1:
        return str(found[0]["id"])
    if not found:
        raise Failure(f"no processor is called {tables.clean(text)!r}")
    ids = ", ".join(row["id"] for row in found[:5]) + (", ..." if len(found) > 5 else "")
    raise Failure(f"several processors are called {tables.clean(text)!r}: give an id of {ids}")


def _show_guard(status: Mapping[str, Any], *, err: bool = False) -> None:
    if status["held"]:
        _show_held(status, err=err)
    else:
        click.echo("the deletion guard holds nothing", err=err)
    if status["confirmed_at"] is not None:
        by = tables.clean(str(status["confirmed_by"]))
        accepted = tables.clean(tables.counts(status["confirmed"]))
        when = tables.ago(status["confirmed_at"])
        click.echo(f"last confirmed by {by}, {when}: {accepted}", err=err)
    if count := status["strangers_count"]:
        click.echo(f"\npods of other fleets, which are not touched: {count}", err=err)
        click.echo(tables.render(tables.strangers(status["strangers"])), err=err)
    if count := status["frozen_count"]:
        click.echo(f"\nfrozen, as their pods are of a later epoch: {count}", err=err)
        click.echo(tables.render(tables.waiting(status["frozen"])), err=err)


def _show_held(status: Mapping[str, Any], *, err: bool = False) -> None:
    values = {
        "deletion guard": f"HOLDS since {tables.ago(status['held_since'])}",
        "why": status["detail"],
        "still desired": tables.counts(status["groups"]),
        "would be deleted": f"pods of {_counted(status['processors_count'])}",
    }
    click.echo(tables.render(tables.pairs(values)), err=err)
    if status["processors"]:
        click.echo(tables.render(tables.waiting(status["processors"])), err=err)
    more = status["processors_count"] - len(status["processors"])
    if more > 0:
        click.echo(f"and {more} more", err=err)


def _show_json(content: Mapping[str, Any]) -> None:
    click.echo(_json(content, indent=2))


def _json(content: Mapping[str, Any], indent: int | None = None) -> str:
    # As it is, but for what a terminal would obey.
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


# Running -----------------------------------------------------------------------------------


def _run(target: Target, work: Callable[[Api], Awaitable[T]]) -> T:
    """What `work` returns; its Failure ends the command."""

    async def run() -> T:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return await work(Api(target.url, session))

    try:
        return asyncio.run(run())
    except Failure as error:
        _exit(error.code, str(error))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _counted(count: int) -> str:
    return "1 processor" if count == 1 else f"{count} processors"


def _ask(yes: bool, question: str) -> None:
    if not yes and not click.confirm(question, default=False, err=True):
        _exit(_FAILED, "nothing was done")


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return tables.clean(f"{user}@{socket.gethostname()}")[:253]


def _one_line(error: BaseException) -> str:
    return tables.clean(" ".join(str(error).split()) or type(error).__name__)


def _complain(*problems: str) -> None:
    click.echo(f"{_PROGRAM}: {'; '.join(problems)}", err=True)


def _exit(code: int, *problems: str) -> NoReturn:
    _complain(*problems)
    sys.exit(code)
