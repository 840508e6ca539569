"""A user's preferences, here and on the server: what is changed here reaches it, what it has kept comes here.

Only what this program has named is ever told, so that nothing is lost of what others have stored for the same user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
from msgspec import structs

from devpipe.adapters.listeners import Listeners
from devpipe.adapters.models.asking import Asking, read_answer
from devpipe.machines.errors import ConfigurationError, ModelSelectionError
from devpipe.machines.models.events import PreferencesUpdated
from devpipe.machines.models.preferring import DEFAULT_USER, change_by_name, read_user
from devpipe.machines.models.types import ModelSelectionRequest, Preferences, PreferencesAnswer, encode
from devpipe.machines.models.verdicts import is_answer, is_unknown

__all__ = ["Wishes"]


class Wishes:
    """``given``: these instead of those that the server has kept. ``forget`` is called when they have changed.

    Raises ``ConfigurationError`` if the server would refuse either, each time that a model is asked for.
    """

    def __init__(
        self, *, user: str, given: Preferences | None, listeners: Listeners, forget: Callable[[], None]
    ) -> None:
        try:
            read_user({"user": user})
            if given is not None:  # a struct that was made by hand may hold anything
                given = change_by_name(Preferences(), encode(given))
        except ModelSelectionError as error:
            raise ConfigurationError(f"user or preferences are not allowed: {error}") from error
        self.value = given or Preferences()  #: what selections go by now
        self._user = user
        self._listeners = listeners
        self._forget = forget
        self._changed = given is not None
        self._fetched = given is not None  #: what the server has kept is known, or given up
        self._unsaid: dict[str, Any] = (
            {} if given is None else encode(given)
        )  #: the server has yet to hear it

    def start(self, asking: Asking) -> None:
        """The server can be asked from now on."""
        self._asking = asking
        self._turn = anyio.Lock()  # what is refused must not travel with what is not

    def on_the_wire(self, request: ModelSelectionRequest, said: Mapping[str, Any] | None) -> dict[str, Any]:
        """A request with whose it is, and with those preferences that the server may not have.

        ``said``: what of the request's preferences it says for itself, where the rest of them are ``value``.
        """
        plain = encode(request)
        if self._user != DEFAULT_USER:
            plain["user"] = self._user
        if request.user_preferences is not None and said is None:
            return plain
        if not self._fetched:  # our defaults would hide what the server has kept
            wishes = dict(self._unsaid)
        elif self._user == DEFAULT_USER and self.value == Preferences():
            wishes = {}
        else:
            wishes = encode(self.value)
        wishes.update(said or {})
        plain.pop("user_preferences", None)
        if wishes:
            plain["user_preferences"] = wishes
        return plain

    async def update(self, changes: Mapping[str, Any], *, connected: bool) -> Preferences:
        """Change some; a server that is not reached gets them when it is. Raises ``ModelSelectionError`` if they are refused."""
        before, self.value = self.value, change_by_name(self.value, changes)
        self._unsaid |= {name: value for name, value in encode(self.value).items() if name in changes}
        self._changed = True
        self._forget()
        if connected:
            try:
                await self.sync()
            except ModelSelectionError as error:
                if is_answer(error):
                    self._take_back(before, changes)
                    raise
        if self._unsaid:
            self._listeners.tell(PreferencesUpdated(preferences=self.value, synced=False))
        return self.value

    def _take_back(self, before: Preferences, changes: Mapping[str, Any]) -> None:
        """What else has changed meanwhile stays."""
        self._unsaid = {name: value for name, value in self._unsaid.items() if name not in changes}
        self.value = structs.replace(self.value, **{name: getattr(before, name) for name in changes})
        self._forget()

    async def sync(self, *, anew: bool = False) -> None:
        """Bring the server's preferences and ours together. ``anew``: another server process answers now."""
        async with self._turn:
            await self._sync(anew)

    async def _sync(self, anew: bool) -> None:
        if anew and self._changed and self._fetched:
            self._unsaid = encode(self.value)
        sent = dict(self._unsaid)
        if sent:
            # deployed servers know one user, and the preferences bare
            payload = sent if self._user == DEFAULT_USER else {"user": self._user, "preferences": sent}
            reply = await self._asking.ask("preferences-update", payload)
        elif not self._fetched:
            try:
                reply = await self._asking.ask("preferences-request", {"user": self._user})
            except ModelSelectionError as error:
                self._fetched = self._fetched or is_unknown(error)  # it keeps none
                raise
        else:
            return
        try:
            kept = read_answer(reply, PreferencesAnswer).preferences
        except ModelSelectionError:
            if not sent:
                raise
            kept = self.value  # a deployed server has other words for having taken them
        # what has changed again while it was on its way is still unsaid
        self._unsaid = {n: value for n, value in self._unsaid.items() if n not in sent or value != sent[n]}
        self._fetched = True
        # what this program has named is what it wants, whatever the server makes of it
        ours = {name: getattr(self.value, name) for name in (*sent, *self._unsaid)}
        kept = structs.replace(kept, **ours)
        changed = kept != self.value
        if changed:
            self.value = kept
            self._forget()
        if (sent or changed) and not self._unsaid:
            self._listeners.tell(PreferencesUpdated(preferences=kept, synced=True))
