"""How commands ask a running orchestrator over HTTP.

Exit codes: 0 fine, 1 the orchestrator cannot be reached or says no, 2 the call is wrong.
"""

import asyncio
import functools
import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import aiohttp
import click

from dory_orchestrator.commands import tables

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])
PROGRAM = "dory-orchestrator"
FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130
DEFAULT_URL = "http://127.0.0.1:8080"
FLEET, EDGE = "/api/v1/fleet", "/api/v1/edge"
TIMEOUT_SECONDS = 10.0
PAGE = 1000
_CANDIDATES_MAX = 5
OUTPUTS = ("table", "wide", "json", "yaml")
_SUCCESSES = (200, 201)
_OURS = {400: WRONG_CALL, 401: WRONG_CALL, 403: WRONG_CALL}
_TOKENS = {FLEET: "DORY_OPERATOR_TOKEN", EDGE: "DORY_STATE_TOKEN"}
_WHOSE = {FLEET: "the operators' token", EDGE: "the token of edge pods"}
_API = {FLEET: "fleet API", EDGE: "edge API"}


class Failure(Exception):
    """What was asked for cannot be had. `lasting` says that to ask again will not help."""

    def __init__(self, text: str, code: int = FAILED, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Target:
    """Which orchestrator is asked, and how its answer is shown."""

    url: str
    output: str

    @property
    def as_data(self) -> bool:
        """As the API answers it, and not as a table for people."""
        return self.output in ("json", "yaml")

    @property
    def wide(self) -> bool:
        return self.output == "wide"


class Api:
    """A running orchestrator's HTTP API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The fleet API's answer. Raises Failure."""
        given = {k: str(v) for k, v in (query or {}).items() if v is not None}
        return self.read(FLEET, *await self._ask("GET", FLEET + path, params=given))

    async def post(
        self, path: str, body: Mapping[str, Any], *, root: str = FLEET
    ) -> dict[str, Any]:
        """The answer to a decision, made with the token of the environment. Raises Failure."""
        headers = _authorization(_TOKENS[root])
        answer = await self._ask("POST", root + path, json=body, headers=headers)
        return self.read(root, *answer)

    async def all(
        self, path: str, name: str, query: Mapping[str, Any], limit: int | None
    ) -> dict[str, Any]:
        """The rows of as many pages as it takes. Raises Failure."""
        rows: list[Any] = []
        cursor = None
        while limit is None or len(rows) < limit:
            wanted = PAGE if limit is None else min(PAGE, limit - len(rows))
            page = await self.get(path, {**query, "limit": wanted, "cursor": cursor})
            rows += page[name]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return {name: rows, "next_cursor": cursor}

    async def health(self) -> dict[str, Any]:
        """What `/healthz` says, also when it is not well. Raises Failure."""
        status, text = await self._ask("GET", "/healthz")
        return self._content(status, text)

    async def _ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        try:
            async with self._session.request(
                method, f"{self._url}{path}", allow_redirects=False, **options
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.InvalidURL, ValueError) as error:
            raise Failure(f"{tables.clean(self._url)}: is no URL", WRONG_CALL) from error
        except TimeoutError as error:
            seconds = self._session.timeout.total or TIMEOUT_SECONDS
            raise Failure(f"{self._url}: no answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Failure(
                f"cannot reach {self._url}: is the orchestrator running? start one"
                f' ("{PROGRAM} dev"), give --url, or set DORY_URL ({one_line(error)})'
            ) from error

    def read(self, root: str, status: int, text: bytes) -> dict[str, Any]:
        content = self._content(status, text)
        if status in _SUCCESSES:
            return content
        # The call names several: it is the caller who has to say which.
        code = WRONG_CALL if "candidates" in content else _OURS.get(status, FAILED)
        raise Failure(_said(root, status, content), code, lasting=status < 500)

    def _content(self, status: int, text: bytes) -> dict[str, Any]:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise Failure(
                f"{self._url} answers, but is no orchestrator (status {status}):"
                " look at --url and DORY_URL"
            )
        return content


def _authorization(variable: str) -> dict[str, str]:
    token = os.environ.get(variable, "")
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise Failure(f"{variable}: is no token: it holds odd characters", WRONG_CALL)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _said(root: str, status: int, content: Mapping[str, Any]) -> str:
    text = tables.clean(str(content.get("error", f"status {status}")))
    if status == 401:
        return f"{_WHOSE[root]} is needed: set {_TOKENS[root]}"
    if status == 404 and text == "Not Found":
        return (
            f"this orchestrator has no {_API[root]}: it is older than this command, or another role"
        )
    return f"the orchestrator says: {text}" if status >= 500 else text


async def identify(api: Api, text: str, *, exact: bool = False) -> str:
    """The id of the one processor that is meant, by its id, its name, or, unless `exact`, how that
    begins: what is ordered must not be done to another. Raises Failure."""
    try:
        return str(UUID(text))
    except ValueError:
        page = await api.get("/processors", {"q": text, "limit": 100})
    found = page["processors"]
    same = [row for row in found if row["name"] == text]
    found = same if exact else same or found
    if len(found) == 1:
        return str(found[0]["id"])
    if not found:
        raise Failure(f'no processor is called {tables.clean(text)!r}: see "{PROGRAM} processors"')
    raise Failure(
        f"several processors are called {tables.clean(text)!r}: give the id of one, of"
        f" {_several(found, _processor_said)}",
        WRONG_CALL,
    )


async def find_node(
    api: Api, text: str, organization: UUID | None = None, *, exact: bool = False
) -> dict[str, Any]:
    """The one node that is meant, by its name or, unless `exact`, how that begins. Raises
    Failure."""
    page = await api.get("/nodes", {"q": text, "organization": organization, "limit": 100})
    found = page["nodes"]
    same = [row for row in found if row["name"] == text]
    found = same if exact else same or found
    if len(found) == 1:
        return dict(found[0])
    if not found:
        raise Failure(f'no node is called {tables.clean(text)!r}: see "{PROGRAM} nodes"')
    asked = ": name the organization" if same else ""
    raise Failure(
        f"several nodes are called {tables.clean(text)!r}{asked}, of {_several(found, _node_said)}",
        WRONG_CALL,
    )


def _several(found: Sequence[Mapping[str, Any]], said: Callable[[Mapping[str, Any]], str]) -> str:
    shown = ", ".join(tables.clean(said(row)) for row in found[:_CANDIDATES_MAX])
    return shown + (", ..." if len(found) > _CANDIDATES_MAX else "")


def _processor_said(row: Mapping[str, Any]) -> str:
    where = f"on {row['node_name']}" if row["node_name"] else "nowhere"
    organization = row["organization_id"] or "none"
    return f"{row['id']} ({row['name']}, {row['state']} {where}, organization {organization})"


def _node_said(row: Mapping[str, Any]) -> str:
    if row["organization_id"] is None:
        return f"{row['name']} (of no organization)"
    said = f"{row['status']}, id {row['edge_node_id']}"
    return f"{row['name']} (organization {row['organization_id']}, {said})"


# Options -----------------------------------------------------------------------------------


def target_options(command: Command) -> Command:
    """Options that say which orchestrator is asked and how it is shown; the command gets them
    as its `target`."""

    @functools.wraps(command)
    def call(*, url: str | None, data_dir: Path, output: str, **values: Any) -> Any:
        try:
            target = Target(find_url(url, data_dir), output)
        except Failure as error:
            end(error.code, str(error))
        return command(target=target, **values)

    decorated: Any = call
    for option in reversed(_TARGET_OPTIONS):
        decorated = option(decorated)
    found: Command = decorated
    return found


_TARGET_OPTIONS = (
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
        type=click.Choice(OUTPUTS),
        default="table",
        help="How it is shown.  [table]",
    ),
)


def find_url(url: str | None, data_dir: Path) -> str:
    """The orchestrator's URL, without a slash at its end: of the flag, the environment, or `dev`.

    Raises Failure.
    """
    found = url or os.environ.get("DORY_URL") or _url_of_dev(data_dir) or DEFAULT_URL
    if not found.startswith(("http://", "https://")):
        raise Failure(f"{tables.clean(found)}: is no URL such as {DEFAULT_URL}", WRONG_CALL)
    return found.rstrip("/")


def _url_of_dev(data_dir: Path) -> str | None:
    file = data_dir / "endpoints.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["http"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(
            f"{file}: cannot be read: give --url ({one_line(error)})", WRONG_CALL
        ) from error


# Running -----------------------------------------------------------------------------------


def run(target: Target, work: Callable[[Api], Awaitable[T]]) -> T:
    """What `work` returns; its Failure ends the command."""
    try:
        return asyncio.run(ask(target.url, work))
    except Failure as error:
        end(error.code, str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


async def ask(
    url: str, work: Callable[[Api], Awaitable[T]], *, timeout_seconds: float = TIMEOUT_SECONDS
) -> T:
    """What `work` returns. The timeout is that of each request. Raises Failure."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return await work(Api(url, session))


def whoami() -> str:
    """Who decides, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return tables.clean(f"{user}@{socket.gethostname()}")[:253]


def one_line(error: BaseException) -> str:
    """What an error says."""
    return tables.clean(" ".join(str(error).split()) or type(error).__name__)


def complain(*problems: str) -> None:
    """Say it on stderr."""
    click.echo(f"{PROGRAM}: {'; '.join(problems)}", err=True)


def end(code: int, *problems: str) -> NoReturn:
    """Say it on stderr, and end."""
    complain(*problems)
    sys.exit(code)
