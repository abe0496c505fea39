"""All that recovery needs, from the host as it is."""

from __future__ import annotations

from aegis_tools.control.lockout import login, system
from aegis_tools.control.lockout.collect import Collector
from aegis_tools.control.lockout.model import Need
from aegis_tools.control.lockout.tree import Tree
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths


def find_needs(tree: Tree, paths: Paths, runner: Runner = run) -> list[Need]:
    """Return the files that recovery needs, worst to lose first.

    Args:
        tree: The host's files.
        paths: Our own.
        runner: Starts the dynamic loader.

    Raises:
        CommandError: The loader does not answer.
    """
    collector = Collector(tree)
    login.sshd(collector)
    login.pam(collector)
    login.names(collector)
    login.shells(collector)
    login.sudo(collector)
    system.init(collector)
    system.python(collector)
    system.ourselves(collector, paths)
    system.places(collector)
    collector.link(runner)
    return collector.finish()
