"""A user's preferences: changed in part, refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.types import Preferences, decode, encode

__all__ = ["changed"]

_NAMES = tuple(field.name for field in msgspec.structs.fields(Preferences))


def changed(preferences: Preferences, changes: Mapping[str, Any]) -> Preferences:
    """The preferences with these changes.

    Raises ``ModelSelectionError`` (``INVALID_REQUEST``) that names what is unknown or out of range; then nothing changed.
    """
    for name in changes:
        if name not in _NAMES:
            near = get_close_matches(name, _NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_NAMES)}"
            raise ModelSelectionError(
                f"no preference is called {name!r}: {hint}", code="INVALID_REQUEST", details={"field": name}
            )
    return decode({**encode(preferences), **changes}, Preferences, what="the preferences")
