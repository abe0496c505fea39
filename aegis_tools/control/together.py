"""Doing things at once that wait in the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def together(tasks: Iterable[Callable[[], object]]) -> None:
    """Run every task in a thread of its own and return when all have ended.

    Filling a map leaves Python alone while the kernel works, and putting a map into another
    waits for an RCU grace period: side by side they share processors and periods.

    Raises:
        BaseException: What the first of the tasks that failed raised; the others have ended.
    """
    import threading

    failed: dict[int, BaseException] = {}

    def run(number: int, task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:
            failed[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:  # an interrupt ends the waiting, not the tasks: nothing may run on behind the caller
        for thread in threads:
            thread.join()
    if failed:
        raise failed[min(failed)]
