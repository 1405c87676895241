"""How the fleet is, in one sentence."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dory_orchestrator.api.page.words import clock
from dory_orchestrator.commands.asking import PROGRAM
from dory_orchestrator.commands.tables import clean

_TROUBLE = ("error", "held", "waiting", "pending", "starting", "unknown")


def sentence(summary: Mapping[str, Any]) -> str:
    """Of the summary that the fleet API gives: the worst first."""
    if not summary["current"]:
        return "Nobody looks at the fleet now: what is shown is as the last leader left it."
    if summary["pause_until"] is not None:
        until = clock(*(datetime.fromisoformat(summary[name]) for name in ("pause_until", "at")))
        by = clean(str(summary["pause_by"]))
        return f"Paused until {until} by {by}: nothing is created or moved."
    if summary["brake_engaged"]:
        return "The brake holds: many nodes look dead at once, and none is moved away from."
    if summary["guard_held"]:
        held, desired = summary["states"].get("held", 0), summary["desired"]
        pods = "1 pod runs on" if held == 1 else f"{held} pods run on"
        return (
            f"The deletion guard holds: {pods}, {desired} desired. Not meant: put the rows back,"
            f' and it lets go by itself. Meant: "{PROGRAM} guard confirm".'
        )
    return _of_processors(summary) + _of_nodes(summary) + _of_drill(summary) + _of_away(summary)


def is_well(summary: Mapping[str, Any]) -> bool:
    """Whether nobody need look closer."""
    held = summary["brake_engaged"] or summary["guard_held"] or not summary["current"]
    held = held or summary["pause_until"] is not None
    missing = summary["desired"] - summary["ready"] or summary["nodes"] - summary["nodes_ready"]
    return not (held or missing or summary["moves_open"])


def _of_processors(summary: Mapping[str, Any]) -> str:
    desired, missing = summary["desired"], summary["desired"] - summary["ready"]
    if not desired:
        return "No processor is desired."
    if not missing:
        return f"All {desired} processors run." if desired > 1 else "The one processor runs."
    moving = f", {summary['moves_open']} on their way" if summary["moves_open"] else ""
    states = summary["states"]
    trouble = ", ".join(f"{states[name]} {name}" for name in _TROUBLE if states.get(name))
    return f"{missing} of {desired} processors do not run{moving}{trouble and f': {trouble}'}."


def _of_away(summary: Mapping[str, Any]) -> str:
    away = summary["away"]
    return f" {away} {'lives' if away == 1 else 'live'} away from home." if away else ""


def _of_drill(summary: Mapping[str, Any]) -> str:
    node = summary["drill_node"]
    if node is None:
        return ""
    node = clean(str(node))
    if summary["drill_phase"] == "running":
        return f" A fire drill treats {node} as dead."
    return f" After a fire drill processors go home to {node}."


def _of_nodes(summary: Mapping[str, Any]) -> str:
    missing = summary["nodes"] - summary["nodes_ready"]
    if not missing:
        return ""
    return f" {missing} of {summary['nodes']} nodes {'is' if missing == 1 else 'are'} not ready."
