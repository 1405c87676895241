"""Templates become text. Every value comes from somewhere else and is hostile: it is escaped, and
what would not be seen, or would turn text around, is made visible."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dory_orchestrator import __version__
from dory_orchestrator.api.page.timeline import WIDTH, bars
from dory_orchestrator.api.page.words import (
    NODE_SHAPES,
    SHAPES,
    UNKNOWN_SHAPE,
    clock,
    cost,
    node_state,
    rest,
    seconds,
)
from dory_orchestrator.ports import (
    FleetPicture,
    MoveView,
    NodePicture,
    ProcessorPicture,
    Trouble,
)

_AT_A_TIME_SECONDS = 0.008
"""So long at most may the rendering go on before heartbeats get their turn."""

_VISIBLE = {
    **{code: 0x2400 + code for code in range(0x20)},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), 0x61C, 0xFEFF, *range(0x2028, 0x202F)], 0xFFFD),
    **dict.fromkeys([0x200B, 0x200E, 0x200F, *range(0x2060, 0x206A)], 0xFFFD),
}


@dataclass(frozen=True, slots=True)
class Card:
    """A node, or the place of those that have none (`node` is None), and what is on it."""

    key: str
    node: NodePicture | None
    state: str
    processors: Sequence[ProcessorPicture]
    more: int
    shadows: Sequence[ProcessorPicture]
    more_shadows: int


class Renderer:
    """The templates of the page, with what stands on every page."""

    def __init__(self, urls: Mapping[str, str], cluster: str) -> None:
        self._environment = Environment(
            loader=PackageLoader("dory_orchestrator.api.page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            finalize=_visible,
        )
        self._environment.globals.update(
            urls=urls,
            cluster=cluster,
            version=__version__,
            shape=lambda state: SHAPES.get(state, UNKNOWN_SHAPE),
            node_shape=lambda state: NODE_SHAPES.get(state, UNKNOWN_SHAPE),
            Trouble=Trouble,
        )
        self._environment.filters.update(
            seconds=seconds, age=_age, iso=_iso, cost=cost, query=_query, key=key_of, clock=clock
        )

        # Compiled at start: the first reader would hold up heartbeats.
        for name in self._environment.list_templates(extensions=["html"]):
            self._environment.get_template(name)

    def render(self, template: str, **values: Any) -> str:
        """A template with these values."""
        return self._environment.get_template(template).render(**values)

    async def map(self, picture: FleetPicture, offset: int, step: int) -> str:
        """Nodes with what is on them, in groups; pauses for whoever else wants to work."""
        node = self._environment.get_template("card.html")
        groups: dict[str, list[Markup]] = {"edge": [], "application": [], "other": []}
        loop, nowhere = asyncio.get_running_loop(), []
        began_at = loop.time()
        for card in _cards(picture):
            text = Markup(node.render(card=card, now=picture.summary.at))  # noqa: S704 - escaped
            if card.node is None:
                nowhere.append(text)
            else:
                groups.get(card.node.kind, groups["other"]).append(text)
            if loop.time() - began_at > _AT_A_TIME_SECONDS:
                await asyncio.sleep(0)
                began_at = loop.time()
        return self.render(
            "map.html",
            nowhere=nowhere,
            groups=groups,
            picture=picture,
            now=picture.summary.at,
            offset=offset,
            step=step,
            behind=rest(picture.behind),
        )

    def moves(
        self, moves: Sequence[MoveView], now: datetime, *, more: bool, filters: Mapping[str, str]
    ) -> str:
        """The timeline."""
        drawn, scale = bars(moves, now)
        return self.render(
            "moves.html", bars=drawn, scale=scale, width=WIDTH, now=now, more=more, filters=filters
        )


def key_of(*parts: object) -> str:
    """An id for an element that stays the same; names would not do."""
    text = "\0".join(str(part) for part in parts)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def _cards(picture: FleetPicture) -> Sequence[Card]:
    """Of two nodes with one name the first has all of that name."""
    placed: defaultdict[tuple[str | None, bool], list[ProcessorPicture]] = defaultdict(list)
    for processor in picture.processors:
        placed[processor.place, processor.is_shadow].append(processor)

    def card(node: NodePicture | None) -> Card:
        name = None if node is None else node.name
        here, away = placed.pop((name, False), []), placed.pop((name, True), [])
        return Card(
            key="nowhere" if node is None else key_of(node.name, node.edge_node_id),
            node=node,
            state="" if node is None else node_state(node),
            processors=here,
            more=picture.placed.get(name, 0) - len(here) if here else 0,
            shadows=away,
            more_shadows=picture.shadows.get(name, 0) - len(away) if away else 0,
        )

    nowhere = [card(None)] if (None, False) in placed else []
    return [*nowhere, *(card(node) for node in picture.nodes)]


def _visible(value: object) -> object:
    if type(value) is str:
        return value if value.isascii() and value.isprintable() else value.translate(_VISIBLE)
    return value


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _age(moment: datetime | None, now: datetime) -> Markup:
    """How long ago; the page lets it grow by itself."""
    if moment is None:
        return Markup("&ndash;")
    at = moment.timestamp()
    text = seconds(now.timestamp() - at)
    return Markup(f'<span class="age" data-at="{at:.1f}">{text}</span>')  # noqa: S704 - numbers


def _query(values: Mapping[str, object]) -> str:
    """A query, without what is not given."""
    return urlencode({key: str(value) for key, value in values.items() if value not in (None, "")})
