"""How single findings make one answer (reference: GET /healthz, GET /readyz)."""

from collections.abc import Iterable

from dory_orchestrator.core.model import ComponentHealth, HealthStatus


def overall(components: Iterable[ComponentHealth]) -> HealthStatus:
    """Unhealthy if any is unhealthy, degraded if any is degraded, otherwise healthy."""
    statuses = {component.status for component in components}
    for status in (HealthStatus.UNHEALTHY, HealthStatus.DEGRADED):
        if status in statuses:
            return status
    return HealthStatus.HEALTHY


def ready(components: Iterable[ComponentHealth]) -> bool:
    """Ready only if all are healthy: degraded is not ready."""
    return all(component.status is HealthStatus.HEALTHY for component in components)


INTERVALS_UNTIL_UNHEALTHY = 3


def watcher(
    age_seconds: float | None, poll_interval_seconds: float, error: str | None
) -> ComponentHealth:
    """The component `watcher`: healthy while its last success is younger than three intervals."""
    return by_age(
        age_seconds,
        INTERVALS_UNTIL_UNHEALTHY * poll_interval_seconds,
        never="the configurations were not read yet",
        error=error,
    )


def by_age(
    age_seconds: float | None, limit_seconds: float, *, never: str, error: str | None = None
) -> ComponentHealth:
    """The health of something that must succeed again and again.

    Healthy while its last success is younger than `limit_seconds`; `age_seconds` is None
    and `never` the message when there was no success yet.
    """
    because = f": {error}" if error else ""
    if age_seconds is None:
        return ComponentHealth(HealthStatus.UNHEALTHY, f"{never}{because}")
    if age_seconds < limit_seconds:
        return ComponentHealth(HealthStatus.HEALTHY, f"last success {age_seconds:.1f} s ago")
    return ComponentHealth(
        HealthStatus.UNHEALTHY,
        f"last success {age_seconds:.0f} s ago, expected within {limit_seconds:.0f} s{because}",
    )
