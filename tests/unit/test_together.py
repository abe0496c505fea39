"""Tasks side by side: all run, all end, and the first error is the caller's."""

from __future__ import annotations

import threading

import pytest

from aegis_tools.control.together import together


def test_tasks_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    together([both.wait, both.wait])
    assert not both.broken


def test_nothing_to_do_is_done() -> None:
    together([])


def test_the_first_error_is_raised_after_every_task_has_ended() -> None:
    failed, ended = threading.Event(), threading.Event()

    def late() -> None:
        assert failed.wait(10)
        ended.set()
        raise ValueError("the second task")

    def early() -> None:
        failed.set()
        raise KeyError("the third task")

    with pytest.raises(ValueError, match="second"):
        together([ended.is_set, late, early])
    assert ended.is_set()
