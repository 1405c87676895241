"""Do we hear our processors? Promise S2: silence that we caused is not death."""

from dataclasses import dataclass

from dory_orchestrator.core.model import ComponentHealth, HealthStatus


@dataclass(frozen=True, slots=True)
class HearingLimits:
    """When not hearing is called a gap.

    `canary_gap_seconds`: the canary beats once a second; two lost ones may be chance.
    `refused_share` and `refused_min` judge the beats of the last `window_seconds`.
    """

    canary_gap_seconds: float = 3.0
    window_seconds: float = 60.0
    refused_share: float = 0.2
    refused_min: int = 10


@dataclass(frozen=True, slots=True)
class Hearing:
    """What the last window sounded like.

    `canary_age_seconds` is None before the first success; `refused` counts beats answered
    400, 401, 408 or 413 and those shed under load, `heard` all others that came.
    """

    canary_age_seconds: float | None
    canary_error: str | None
    refused: int
    heard: int


def refusing(hearing: Hearing, limits: HearingLimits) -> bool:
    """Do we refuse so many beats that the silence of their senders is our own doing?"""
    if hearing.refused < limits.refused_min:
        return False
    return hearing.refused >= limits.refused_share * (hearing.refused + hearing.heard)


def judge(hearing: Hearing, limits: HearingLimits) -> ComponentHealth:
    """The component `heartbeats` of /healthz; the first rule that holds decides.

    Never unhealthy: a pod that is restarted for being deaf hears less, not more.
    """
    age = hearing.canary_age_seconds
    because = f": {hearing.canary_error}" if hearing.canary_error else ""
    if age is None:
        return ComponentHealth(HealthStatus.DEGRADED, f"no canary beat was recorded yet{because}")
    if age >= limits.canary_gap_seconds:
        return ComponentHealth(
            HealthStatus.DEGRADED, f"deaf: last canary beat recorded {age:.0f} s ago{because}"
        )
    counts = f"{hearing.heard} heard and {hearing.refused} refused in {limits.window_seconds:.0f} s"
    if refusing(hearing, limits):
        return ComponentHealth(HealthStatus.DEGRADED, f"refusing heartbeats: {counts}")
    return ComponentHealth(HealthStatus.HEALTHY, f"canary beat recorded {age:.1f} s ago; {counts}")
