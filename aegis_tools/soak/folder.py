"""Where the files of a soak are: ``/var/lib/aegisbpf/soaks/ID/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aegis_tools.paths import Paths


@dataclass(frozen=True)
class Folder:
    """The folder of one soak.

    Args:
        path: Where it is.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """What the soak is (``soak.settings.Settings``)."""
        return self.path / "soak.json"

    @property
    def samples(self) -> Path:
        """A row a turn (``soak.columns``)."""
        return self.path / "samples.csv"

    @property
    def happened(self) -> Path:
        """What happened (``soak.happened``)."""
        return self.path / "happened.ndjson"

    @property
    def hits(self) -> Path:
        """What each rule has matched (``soak.hits``)."""
        return self.path / "hits.csv"

    @property
    def state(self) -> Path:
        """What a turn must remember for the next."""
        return self.path / "state.json"

    @property
    def result(self) -> Path:
        """How it ended (``soak.settings.Result``); missing while it runs."""
        return self.path / "result.json"

    @property
    def verdict(self) -> Path:
        """The verdict (``soak.verdict``)."""
        return self.path / "verdict.json"

    @property
    def report_json(self) -> Path:
        """The report, for programs."""
        return self.path / "report.json"

    @property
    def report_markdown(self) -> Path:
        """The report, as text."""
        return self.path / "report.md"

    @property
    def report_html(self) -> Path:
        """The report, as a page."""
        return self.path / "report.html"

    @property
    def evidence(self) -> Path:
        """The folder of what was collected after a failure."""
        return self.path / "evidence"


def folder(paths: Paths, identifier: str) -> Folder:
    """Return the folder of a soak; the id has been checked."""
    return Folder(paths.soaks / identifier)
