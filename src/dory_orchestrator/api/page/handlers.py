"""The paths of the page. Reading is open, as in the fleet API; deciding needs a session where the
operators have a token."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from dory_orchestrator.api import explained
from dory_orchestrator.api.asgi import read_body
from dory_orchestrator.api.bodies import BodyError
from dory_orchestrator.api.health import Health
from dory_orchestrator.api.page import details
from dory_orchestrator.api.page.decisions import DECISIONS, Decision
from dory_orchestrator.api.page.live import LOOK_SECONDS, Pictures, Stream
from dory_orchestrator.api.page.rendering import Renderer
from dory_orchestrator.api.page.sessions import (
    COOKIE,
    SESSION_SECONDS,
    Attempts,
    Sessions,
    TooManyFailures,
)
from dory_orchestrator.api.page.static_files import StaticFiles
from dory_orchestrator.core.answering import QuestionKind
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    FleetViews,
    MoveQuery,
    NobodyAnswers,
    NotKnown,
    OperatorRefused,
    PictureQuery,
    Position,
    ProcessorQuery,
    StoreDataError,
    StoreError,
)

_log = get_logger(__name__)
Handler = Callable[[Request], Awaitable[Response]]
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "vary": "HX-Request, Cookie",
}
_ANSWER_SECONDS = 5.0
_FORM_BYTES_MAX = 64 * 1024
_FORM_FIELDS_MAX = 20
_READS_MAX = 8
_MOVES = PictureQuery().moves
_NODES = PictureQuery().nodes
_PROCESSORS = 100
_OFFSET_MAX = 1_000_000
_TEXT_MAX = 253
KINDS = ("failover", "failback", "departure")
OUTCOMES = ("open", "done", "cancelled", "superseded", "dropped")


class Refused(Exception):
    """What is answered with `status` and these words."""

    def __init__(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.headers = headers or {}


class Page:
    """The page. `operator_token` is None when everyone may decide."""

    def __init__(
        self,
        views: FleetViews,
        *,
        health: Health,
        operator_token: str | None,
        cluster: str,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._views = views
        self._static = StaticFiles()
        self._renderer = Renderer(self._static.urls, cluster)
        self._sessions = Sessions(operator_token)
        self._attempts = Attempts()
        self.pictures = Pictures(views, health, self._renderer, look_seconds)
        self._reading = 0

    def close(self) -> None:
        """End the streams, for the end of the service."""
        self.pictures.close()

    def routes(self) -> Sequence[BaseRoute]:
        """Every path of the page."""
        read = [
            ("/", self._index),
            ("/page/map", self._map),
            ("/page/moves", self._moves),
            ("/page/move", self._move),
            ("/page/node", self._node),
            ("/page/processor", self._processor),
            ("/page/processors", self._processors),
            ("/page/brake", self._brake),
            ("/page/guard", self._guard),
            ("/page/pause", self._pause),
            ("/page/plan", self._plan),
            ("/page/what-if", self._what_if),
            ("/page/directive", self._directive),
            ("/page/decide/{name}", self._ask),
            ("/session", self._log_in_form),
        ]
        write = [
            ("/page/decide/{name}", self._decide),
            ("/session", self._log_in),
            ("/session/end", self._log_out),
        ]
        return [
            *(self._path(path, get=get, post=dict(write).get(path)) for path, get in read),
            self._path("/session/end", get=None, post=self._log_out),
            Route("/live", _Bare(Stream(self.pictures)), methods=["GET"]),
            Route("/static/{name}", self._static.get, methods=["GET"]),
        ]

    def _path(self, path: str, *, get: Handler | None, post: Handler | None) -> Route:
        by_method = {"GET": get, "HEAD": get, "POST": post}

        async def handler(request: Request) -> Response:
            found = by_method[request.method]
            assert found is not None  # noqa: S101 - the router lets no other method through
            return await self._guarded(found, request)

        methods = [method for method, found in by_method.items() if found is not None]
        return Route(path, handler, methods=methods)

    async def _guarded(self, handler: Handler, request: Request) -> Response:
        """`handler`, with what it raises told as a page."""
        try:
            if request.method == "POST":
                # Who sends a body slowly takes no place from those who look.
                return await handler(request)
            if self._reading >= _READS_MAX:
                raise Refused(503, "Too many look at once. Try again.", {"retry-after": "2"})
            self._reading += 1
            try:
                return await handler(request)
            finally:
                self._reading -= 1
        except Refused as error:
            return self._words(request, error.status, str(error), error.headers)
        except (BodyError, StoreDataError) as error:
            return self._words(request, 400, str(error))
        except OperatorRefused as error:
            return self._words(request, 409, str(error))
        except NotKnown as error:
            return self._words(request, 404, str(error))
        except StoreError as error:
            _log.warning("a request of the page failed", path=request.url.path, error=str(error))
            return self._words(request, 503, "The database does not answer.", {"retry-after": "5"})

    # What is seen

    async def _index(self, request: Request) -> Response:
        """The whole page. Where the database does not answer it says so, as 503."""
        frame = await self.pictures.latest()
        query = _Query(request)
        sections = dict(frame.sections)
        if query.offset and not frame.is_broken:
            sections["map"] = await self._drawn_map(query)
        if query.filters and not frame.is_broken:
            sections["moves"] = await self._drawn_moves(query)
        body = self._renderer.render(
            "index.html",
            sections=sections,
            sentence=frame.sentence,
            filters=query.filters,
            map_query=query.map_query,
            moves_query=query.moves_query,
            kinds=KINDS,
            outcomes=OUTCOMES,
            **self._viewer(request),
        )
        return _page(body, 503 if frame.is_broken else 200)

    async def _map(self, request: Request) -> Response:
        """The nodes behind `nodes`."""
        return _page(await self._drawn_map(_Query(request)))

    async def _drawn_map(self, query: "_Query") -> str:
        picture = await self._views.picture(PictureQuery(offset=query.offset, moves=1))
        return await self._renderer.map(picture, query.offset, _NODES)

    async def _moves(self, request: Request) -> Response:
        """The moves that the filters leave."""
        return _page(await self._drawn_moves(_Query(request)))

    async def _drawn_moves(self, query: "_Query") -> str:
        filters, outcome = query.filters, query.filters.get("outcome")
        found = await self._views.list_moves(
            MoveQuery(
                limit=_MOVES,
                before_id=query.before,
                kind=filters.get("kind"),
                node=filters.get("node"),
                processor_id=await self._processor_id(filters.get("processor")),
                under_way=True if outcome == "open" else None,
                outcome=None if outcome == "open" else outcome,
            )
        )
        now = (await self._views.summary()).at
        return self._renderer.moves(found.moves, now, more=found.more, filters=filters)

    async def _processor_id(self, text: str | None) -> UUID | None:
        """Of the processor with this id, or this name; a name that nobody has finds nothing."""
        if text is None:
            return None
        if (key := _uuid(text)) is not None:
            return key
        page = await self._views.list_processors(ProcessorQuery(prefix=text, limit=100))
        named = [one.id for one in page.processors if one.name == text]
        return next(iter(named), UUID(int=0))

    async def _processor(self, request: Request) -> Response:
        key = _uuid(request.query_params.get("id", ""))
        values = None if key is None else await details.processor(self._views, key)
        return self._details(request, "processor.html", values, "processor")

    async def _node(self, request: Request) -> Response:
        name, key = _text(request, "name"), _uuid(request.query_params.get("id", ""))
        values = await details.node(self._views, name, key)
        return self._details(request, "node.html", values, "node")

    async def _move(self, request: Request) -> Response:
        values = await details.move(self._views, _whole(request, "id"))
        return self._details(request, "move.html", values, "move")

    def _details(
        self, request: Request, template: str, values: dict[str, Any] | None, noun: str
    ) -> Response:
        if values is None:
            raise Refused(404, f"There is no such {noun}, or not any more.")
        return self._fragment(request, template, values)

    async def _processors(self, request: Request) -> Response:
        """All processors, or those of a node, by pages."""
        query, node = request.query_params, _text(request, "node") or None
        after = None
        if "after_id" in query:
            parts = (_text(request, name) for name in ("after_key", "after_name", "after_id"))
            after = Position(*parts)
        sort = "node" if node is None else "state"
        page = await self._views.list_processors(
            ProcessorQuery(limit=_PROCESSORS, node=node, sort=sort, after=after)
        )
        return self._fragment(request, "processors.html", {"node": node, "page": page})

    async def _brake(self, request: Request) -> Response:
        status, summary = await self._views.brake_status(), await self._views.summary()
        return self._fragment(request, "brake.html", {"brake": status, "now": summary.at})

    async def _guard(self, request: Request) -> Response:
        status, summary = await self._views.guard_status(), await self._views.summary()
        return self._fragment(request, "guard.html", {"guard": status, "now": summary.at})

    async def _pause(self, request: Request) -> Response:
        status, summary = await self._views.pause_status(), await self._views.summary()
        return self._fragment(request, "pause.html", {"pause": status, "now": summary.at})

    async def _plan(self, request: Request) -> Response:
        return self._fragment(request, "plan.html", {"plan": await self._answer_to("plan", {})})

    async def _what_if(self, request: Request) -> Response:
        node = _text(request, "node")
        asked = {"down": [node], "without_cloud": False}
        found = await self._answer_to("what_if", asked)
        return self._fragment(request, "what_if.html", {"found": found, "down": node})

    async def _directive(self, request: Request) -> Response:
        key = _uuid(request.query_params.get("id", ""))
        if key is None:
            raise Refused(404, "There is no such processor.")
        explanation = await explained.of_directive(self._views, key, None)
        now = (await self._views.summary()).at
        return self._fragment(request, "directive.html", {"explanation": explanation, "now": now})

    async def _answer_to(self, kind: str, asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """None: nobody answers."""
        try:
            return await self._views.ask(QuestionKind(kind), asked, timeout_seconds=_ANSWER_SECONDS)
        except NobodyAnswers:
            return None

    # What is decided

    async def _ask(self, request: Request) -> Response:
        """The form of a decision: what it does, who and why. Nothing is done yet."""
        self._check_may_decide(request)
        decision = _decision(request)
        given = {field.name: _text(request, field.name) for field in decision.fields}
        if decision.fill_in is not None:
            given |= await decision.fill_in(self._views)
        return self._form(request, decision, given)

    async def _decide(self, request: Request) -> Response:
        self._check_origin(request)
        self._check_may_decide(request)
        form = await _form_of(request)
        session = request.cookies.get(COOKIE)
        if not self._sessions.open and not self._sessions.made_form(session, form.get("csrf", "")):
            raise Refused(403, "This form is not of your session. Open it again.")
        decision = _decision(request)
        try:
            body = decision.request_of(form)
            message = await decision.decide(self._views, body)
        except (BodyError, StoreDataError) as error:
            return self._form(request, decision, form, problem=str(error), status=400)
        except (OperatorRefused, NotKnown, NobodyAnswers) as error:
            return self._form(request, decision, form, problem=str(error), status=409)
        _log.warning("decided on the page", decision=decision.name, by=body.by)
        return self._fragment(request, "decided.html", {"decision": decision, "message": message})

    def _form(
        self,
        request: Request,
        decision: Decision,
        given: Mapping[str, str],
        *,
        problem: str | None = None,
        status: int = 200,
    ) -> Response:
        session = request.cookies.get(COOKIE)
        names = [field.name for field in decision.fields]
        values = {
            "decision": decision,
            "given": {name: given.get(name, "") for name in ("by", *names)},
            "counts": _counts(given.get("groups", "")),
            "problem": problem,
            "csrf": "" if self._sessions.open else self._sessions.form_token(session),
        }
        return self._fragment(request, "decide.html", values, status=status)

    # Who looks

    async def _log_in_form(self, request: Request) -> Response:
        return self._fragment(request, "log_in.html", {"problem": None})

    async def _log_in(self, request: Request) -> Response:
        """303 to the page with a session; 401, 429."""
        self._check_origin(request)
        form = await _form_of(request)
        address = request.client.host if request.client is not None else ""
        try:
            async with self._attempts.one(address) as fail:
                is_known = self._sessions.open or self._sessions.knows(form.get("token", ""))
                if not is_known:
                    fail()
        except TooManyFailures as error:
            _log.warning("a log-in was not listened to", address=address)
            headers = {"retry-after": f"{error.retry_seconds:.0f}"}
            raise Refused(429, f"{error}.", headers) from error
        if not is_known:
            _log.warning("a log-in with a wrong token", address=address)
            problem = {"problem": "This is not the operators' token."}
            return self._fragment(request, "log_in.html", problem, status=401)
        answer = RedirectResponse("/", 303, _HEADERS)
        if not self._sessions.open:
            _log.info("an operator logged in", address=address)
            _set_cookie(request, answer, self._sessions.begin(), SESSION_SECONDS)
        return answer

    async def _log_out(self, request: Request) -> Response:
        """303 to the page. The session is forgotten by who has it; we have none to forget."""
        self._check_origin(request)
        answer = RedirectResponse("/", 303, _HEADERS)
        _set_cookie(request, answer, "", 0)
        return answer

    def _viewer(self, request: Request) -> dict[str, object]:
        is_open = self._sessions.open
        return {
            "is_open": is_open,
            "may_decide": is_open or self._sessions.is_good(request.cookies.get(COOKIE)),
        }

    def _check_may_decide(self, request: Request) -> None:
        if not self._viewer(request)["may_decide"]:
            raise Refused(401, "Log in to decide: your session is over, or there was none.")

    def _check_origin(self, request: Request) -> None:
        """As in the fleet API: a page that an operator's browser shows must not decide."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        is_ours = origin is None or origin.partition("://")[2] == request.headers.get("host")
        # Our own forms name no origin either: the page lets no address out (referrer-policy).
        if origin == "null":
            is_ours = site == "same-origin"
        if not is_ours or site not in (None, "none", "same-origin"):
            raise Refused(403, "Pages of other sites may not change the fleet.")

    # Answers

    def _fragment(
        self, request: Request, template: str, values: Mapping[str, Any], *, status: int = 200
    ) -> Response:
        """What the page shows beside the map; for who asks without the page, a page of its own."""
        values = {**values, **self._viewer(request)}
        layout = "fragment.html" if "hx-request" in request.headers else "alone.html"
        return _page(self._renderer.render(template, layout=layout, **values), status)

    def _words(
        self, request: Request, status: int, words: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        answer = self._fragment(request, "words.html", {"words": words}, status=status)
        answer.headers.update(headers or {})
        return answer


class _Bare:
    """Tells the router that this takes the bare ASGI values."""

    def __init__(self, app: Stream) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


class _Query:
    """Which part of the map, and which moves. What it does not know counts as not given."""

    def __init__(self, request: Request) -> None:
        self.offset = min(_whole(request, "nodes"), _OFFSET_MAX)
        before = _whole(request, "before")
        self.before = before or None
        self.filters: dict[str, str] = {}
        for name, choices in (("kind", KINDS), ("outcome", OUTCOMES)):
            if (text := request.query_params.get(name)) in choices and text is not None:
                self.filters[name] = text
        for name in ("node", "processor"):
            if text := _text(request, name):
                self.filters[name] = text
        if before:
            self.filters["before"] = str(before)

    @property
    def map_query(self) -> str:
        """For the same part of the map again; empty for the first."""
        return urlencode({"nodes": self.offset}) if self.offset else ""

    @property
    def moves_query(self) -> str:
        """For the same moves again; empty for the latest of all."""
        return urlencode(self.filters)


def _page(body: str, status: int = 200) -> Response:
    content = body.encode(errors="replace")
    return Response(content, status, _HEADERS, media_type="text/html")


def _decision(request: Request) -> Decision:
    found = DECISIONS.get(request.path_params["name"])
    if found is None:
        raise Refused(404, "There is no such decision.")
    return found


async def _form_of(request: Request) -> Mapping[str, str]:
    """The fields of a form. Raises BodyError, BodyTooLarge."""
    body = await read_body(request.scope, request.receive, _FORM_BYTES_MAX)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FORM_FIELDS_MAX)
    except ValueError as error:
        raise BodyError("body: is no form") from error
    return dict(pairs)


def _set_cookie(request: Request, answer: Response, value: str, seconds: int) -> None:
    # Behind a proxy that ends TLS, only its header tells.
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    answer.set_cookie(
        COOKIE, value, max_age=seconds, httponly=True, samesite="strict", path="/", secure=secure
    )


def _text(request: Request, name: str) -> str:
    text = request.query_params.get(name, "")[: _TEXT_MAX * 4]
    if "\0" in text:
        raise BodyError(f"{name}: a NUL character is not allowed")
    return text


def _whole(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _counts(text: str) -> Mapping[str, object]:
    """To show them; whether they are counts is found out once they are sent."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
