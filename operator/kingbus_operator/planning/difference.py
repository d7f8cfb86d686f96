"""Whether an object is as the manifest wants it.

The API server fills in defaults and others own further fields, so the manifest must be found *in* the object, not equal
to it. Lists are compared item by item, quantities as numbers. A field that a former manifest had and this one does not
have is not seen this way; so every manifest carries a digest of itself as an annotation.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from kingbus_operator.api.quantity import same_quantity
from kingbus_operator.api.types import Json
from kingbus_operator.build.common import digest

APPLIED_ANNOTATION = "kingbus.io/applied"


def stamped(manifest: Json) -> Json:
    """The manifest with its own digest as an annotation."""
    result = copy.deepcopy(manifest)
    metadata = result["metadata"]
    assert isinstance(metadata, dict)
    metadata["annotations"] = {**metadata.get("annotations", {}), APPLIED_ANNOTATION: digest(manifest)}
    return result


def differs(manifest: Json, live: Json | None) -> bool:
    """Whether applying a (stamped) manifest would change the object."""
    return live is None or not _within(manifest, live)


def _within(wanted: object, found: object) -> bool:
    if wanted in (None, {}, [], ""):
        return not found or found == wanted
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_within(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_within(one, other) for one, other in zip(wanted, found, strict=True))
        )
    if wanted is False or wanted == 0:
        return not found  # left out by the server where it is the type's zero value
    return wanted == found or same_quantity(wanted, found)
