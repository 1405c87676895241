"""Which namespaces have to be looked at: those that processors name, or were seen in."""

from contextlib import suppress

from dory_orchestrator.core.model import Desired
from dory_orchestrator.core.specify import NotDefined, checked_namespace


def namespaces(desired: Desired, default: str) -> frozenset[str]:
    """Also where only a pod is left that nobody desires. What cannot be a namespace is none."""
    named = {config.namespace or default for config in desired.configs.values()}
    named |= {own.namespace for own in desired.ownership.values() if own.namespace is not None}
    found = {default}
    for name in named:
        with suppress(NotDefined):
            found.add(checked_namespace(name))
    return frozenset(found)
