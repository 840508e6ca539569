"""A user's preferences, changed in part: only what is named changes, and what is out of range is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

from msgspec import structs

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.rules import show, similar, text
from devpipe.machines.models.types import PREFERENCES, Preferences

__all__ = ["DEFAULT_USER", "change_by_name", "change_preferences", "overlay", "read_update", "read_user"]

#: Whose preferences they are where nobody is named.
DEFAULT_USER = "default"
_USER = text()


def change_preferences(current: Preferences, change: object) -> Preferences:
    """``current`` with what ``change`` names; fields that are not known here are a newer program's, and ignored.

    Raises ``ModelSelectionError`` (``INVALID_REQUEST``) that names every wrong field, its value and what is allowed, or
    says that nothing in ``change`` is known; then nothing has changed.
    """
    if not isinstance(change, dict):
        raise _refused(f"preferences = {show(change)} is no object", {})
    fields = cast("dict[str, Any]", change)
    known = {name: value for name, value in fields.items() if name in PREFERENCES}
    if fields and not known:
        strange = next(iter(fields))
        raise _refused(f"{show(strange)} is no preference{similar(strange, PREFERENCES)}", {})
    wrong = {
        name: PREFERENCES[name].refusal(name, value)
        for name, value in known.items()
        if not PREFERENCES[name].accepts(value)
    }
    if wrong:
        raise _refused("; ".join(wrong.values()), wrong)
    for name, value in known.items():
        if isinstance(value, list):
            known[name] = tuple(cast("list[str]", value))
    return structs.replace(current, **known)


def change_by_name(current: Preferences, changes: Mapping[str, object]) -> Preferences:
    """The same where a program of ours names them: a name that is not known is a mistake.

    Raises ``ModelSelectionError`` (``INVALID_REQUEST``) as above, and for a name that is none.
    """
    for name in changes:
        if name not in PREFERENCES:
            hint = similar(name, PREFERENCES) or f": give one of {', '.join(PREFERENCES)}"
            raise _refused(f"{show(name)} is no preference{hint}", {})
    return change_preferences(current, dict(changes))


def overlay(stored: Preferences, said: Preferences, *, named: Collection[str]) -> Preferences:
    """``stored`` with those of the fields of ``said`` that are ``named``: what a request says for itself alone."""
    fields = {name: getattr(said, name) for name in PREFERENCES if name in named}
    return structs.replace(stored, **fields)


def read_update(payload: object) -> tuple[str, object]:
    """Whose preferences change, and what of them: a payload without ``preferences`` is itself the change.

    Raises ``ModelSelectionError`` (``INVALID_REQUEST``) if ``user`` is no name.
    """
    fields: dict[str, object] = {}
    change = payload
    if isinstance(payload, dict):
        fields = cast("dict[str, object]", payload)
        change = fields.get("preferences", fields)
    return read_user(fields), change


def read_user(payload: object) -> str:
    """Whose preferences a payload names.

    Raises ``ModelSelectionError`` (``INVALID_REQUEST``) if ``user`` is no name.
    """
    user = cast("dict[str, object]", payload).get("user") if isinstance(payload, dict) else None
    if user is None:
        return DEFAULT_USER
    if not isinstance(user, str) or not _USER.accepts(user):
        raise ModelSelectionError(
            _USER.refusal("user", user),
            code="INVALID_REQUEST",
            details={"user": show(user)},
            suggestions=(f"user: give {_USER.allowed}",),
        )
    return user


def _refused(text: str, wrong: dict[str, str]) -> ModelSelectionError:
    allowed = tuple(
        f"{name}: give {rule.allowed}" for name, rule in PREFERENCES.items() if not wrong or name in wrong
    )
    return ModelSelectionError(
        f"nothing was changed: {text}", code="INVALID_REQUEST", details={"wrong": wrong}, suggestions=allowed
    )
