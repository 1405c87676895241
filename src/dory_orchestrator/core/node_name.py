"""What Kubernetes takes as the name of a node (RFC 1123 subdomain)."""

import re

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def why_not_kubernetes(name: str) -> str | None:
    """Why no Kubernetes node can have this name; None if one can."""
    if len(name) > 253:
        return "longer than 253 characters"
    for label in name.split("."):
        if not _LABEL.fullmatch(label):
            return f"{label!r} is not made of lower case letters, digits and inner hyphens"
    return None
