"""What operators see of webhooks, and what they may have sent again."""

from datetime import UTC, datetime

import pytest
from tests.api.conftest import Service
from tests.webhooks_double import Hook

from dory_orchestrator.ports import DeadLetterView

WEBHOOKS = "/api/v1/fleet/webhooks"
LETTERS = f"{WEBHOOKS}/dead-letters"
RETRY = f"{WEBHOOKS}/retry"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def add_hook(service: Service, name: str, position: int = 0) -> Hook:
    hook = Hook(name, f"https://{name}.example/in", ["*"], position)
    service.views.hooks[name] = hook
    return hook


def bury(service: Service, name: str, number: int) -> None:
    event = service.views.events[number - 1]
    service.views.letters[name, number] = DeadLetterView(
        webhook=name, event=event, died_at=MOMENT, tries=8, error="answered 500", retrying=False
    )


async def test_webhooks(service: Service):
    assert (await service.http.get(WEBHOOKS)).json() == {"webhooks": []}
    add_hook(service, "b")
    hook = add_hook(service, "a")
    hook.failures, hook.last_error, hook.next_try_at = 3, "answered 500", MOMENT
    service.views.tell("create", "x")
    bury(service, "a", 1)
    answer = (await service.http.get(WEBHOOKS)).json()
    a, b = answer["webhooks"]
    assert 0 <= a.pop("lag_seconds") < 5
    assert a == {
        "name": "a",
        "url": "https://a.example/in",
        "kinds": ["*"],
        "lag_events": 1,
        "delivered_at": None,
        "failures": 3,
        "last_error": "answered 500",
        "last_error_at": None,
        "next_try_at": "2026-01-01T00:00:00Z",
        "dead_letters": 1,
        "dropped": 0,
    }
    assert b["name"] == "b"


async def test_dead_letters_in_pages(service: Service):
    for name in "ab":
        add_hook(service, name)
    for number in (1, 2):
        service.views.tell("create", "x", at=MOMENT)
        for name in "ab":
            bury(service, name, number)
    first = (await service.http.get(LETTERS, params={"limit": 3})).json()
    found = [(row["webhook"], row["event"]["id"]) for row in first["dead_letters"]]
    assert found == [("a", 2), ("b", 2), ("a", 1)]
    second = await service.http.get(LETTERS, params={"cursor": first["next_cursor"]})
    (row,) = second.json()["dead_letters"]
    assert second.json()["next_cursor"] is None
    assert (row["webhook"], row["event"]["id"], row["event"]["kind"]) == ("b", 1, "create")
    assert (row["died_at"], row["tries"]) == ("2026-01-01T00:00:00Z", 8)
    assert (row["error"], row["retrying"]) == ("answered 500", False)
    of_b = (await service.http.get(LETTERS, params={"webhook": "b"})).json()
    assert [row["event"]["id"] for row in of_b["dead_letters"]] == [2, 1]


async def test_sending_again(service: Service):
    add_hook(service, "a")
    for number in (1, 2, 3):
        service.views.tell("create", "x")
        bury(service, "a", number)
    answer = await service.http.post(RETRY, json={"webhook": "a", "ids": [1, 3], "by": "ann"})
    assert (answer.status_code, answer.json()) == (200, {"webhook": "a", "count": 2})
    retrying = [letter.retrying for _, letter in sorted(service.views.letters.items())]
    assert retrying == [True, False, True]
    told = service.views.events[-1]
    assert (told.kind, told.reason) == ("webhook", "retry")
    assert told.detail == "ann has 2 events sent to a once more"
    answer = await service.http.post(RETRY, json={"webhook": "a", "ids": "all"})
    assert answer.json() == {"webhook": "a", "count": 3}


async def test_what_there_is_not_is_409(service: Service):
    add_hook(service, "a")
    for body, error in (
        ({"webhook": "b", "ids": "all"}, "webhook: there is no webhook b"),
        ({"webhook": "a", "ids": "all"}, "webhook: a has no dead letters"),
        ({"webhook": "a", "ids": [7]}, "ids: no dead letters of a: 7"),
    ):
        answer = await service.http.post(RETRY, json=body)
        assert (answer.status_code, answer.json()) == (409, {"error": error})


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"webhook": "a"},
        {"ids": "all"},
        {"webhook": "", "ids": "all"},
        {"webhook": "a", "ids": "some"},
        {"webhook": "a", "ids": []},
        {"webhook": "a", "ids": [0]},
        {"webhook": "a", "ids": [2**63]},
        {"webhook": "a", "ids": "all", "by": "a\nb"},
    ],
)
async def test_bad_bodies_are_400(service: Service, body: dict[str, object]):
    answer = await service.http.post(RETRY, json=body)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}


class TestWithAToken:
    @pytest.fixture
    def operator_tokens(self) -> tuple[str, ...]:
        return ("boss",)

    async def test_only_operators_send_again(self, service: Service):
        add_hook(service, "a")
        service.views.tell("create", "x")
        bury(service, "a", 1)
        body = {"webhook": "a", "ids": "all"}
        assert (await service.http.post(RETRY, json=body)).status_code == 401
        headers = {"authorization": "Bearer boss"}
        assert (await service.http.post(RETRY, json=body, headers=headers)).status_code == 200
        assert (await service.http.get(LETTERS)).status_code == 200
