"""What goes wrong is said once, until it is something else, or over."""

from __future__ import annotations

from aegis_tools.agent.tell import DEBUG, NOTICE, WARNING, Tell
from aegis_tools.errors import AegisError


class Saying:
    """Remembers what was said.

    Args:
        tell: Says something to a person.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._said: dict[str, str] = {}

    def note(self, text: str) -> None:
        """Say something that happened."""
        self._tell(NOTICE, f"aegisbpf: {text}")

    def trouble(self, what: str, error: AegisError | str) -> None:
        """Say what is wrong, unless it was said last of this."""
        message = error if isinstance(error, str) else error.message
        if self._said.get(what) == message:
            return
        self._said[what] = message
        self._tell(WARNING, f"warning: {message}")
        if isinstance(error, AegisError):
            if error.hint:
                self._tell(WARNING, f"  next: {error.hint}")
            self._tell(DEBUG, error.detail)

    def fine(self, what: str, text: str = "") -> None:
        """Forget a trouble; ``text`` is said where there was one."""
        if self._said.pop(what, None) is not None and text:
            self.note(text)

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong now, by what it is about."""
        return dict(self._said)

    def is_troubled(self, what: str) -> bool:
        """Return whether it was said that something is wrong, and not yet that it is over."""
        return what in self._said
