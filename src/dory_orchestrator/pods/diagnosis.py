"""What `doctor` asks where pods look for the orchestrator: what a pod would find there."""

import json
from typing import Any

import aiohttp

from dory_orchestrator.core.diagnosis import AddressFacts
from dory_orchestrator.ports import PodUnreachable

_ASK_SECONDS = 4.0
_BODY_BYTES_MAX = 64 * 1024


async def address_facts(url: str) -> AddressFacts:
    """Who answers there. Raises PodUnreachable when nobody does, or no orchestrator."""
    timeout = aiohttp.ClientTimeout(total=_ASK_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        health = await _ask(session, f"{url}/healthz")
        status = health.get("status")
        if not isinstance(status, str) or "components" not in health:
            raise PodUnreachable(f"{url} answers, but is no orchestrator")
        summary = await _ask(session, f"{url}/api/v1/fleet/summary")
    fleet_id = summary.get("fleet_id")
    return AddressFacts(url, status[:50], None if fleet_id is None else str(fleet_id)[:50])


async def _ask(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """Health and errors are told with a status that is not 200, and in JSON all the same."""
    try:
        async with session.get(url, allow_redirects=False) as answer:
            body = bytearray()
            while len(body) < _BODY_BYTES_MAX and (piece := await answer.content.readany()):
                body += piece
            found = json.loads(body)
    except TimeoutError as error:
        raise PodUnreachable(f"{url}: no answer within {_ASK_SECONDS:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise PodUnreachable(f"{url}: {error or type(error).__name__}") from error
    except (ValueError, RecursionError) as error:
        raise PodUnreachable(f"{url} answers, but is no orchestrator") from error
    return found if isinstance(found, dict) else {}
