# SPDX-License-Identifier: Apache-2.0
"""Say which wave this is and how it is watched; refuse what cannot end in time."""

from __future__ import annotations

from operator import itemgetter

from ansible.plugins.action import ActionBase

ARGUMENTS = {
    "waves": {"type": "list", "elements": "str", "required": True},
    "pause_after": {"type": "list", "elements": "str", "default": []},
    "confirm_within": {"type": "str", "required": True},
    "soak": {"type": "float", "required": True},
    "interval": {"type": "float", "required": True},
    "look_seconds": {"type": "float", "required": True},
}


class ActionModule(ActionBase):
    """Runs on the controller, once a wave; asks no host."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Return the number of the wave, and its watch."""
        from aegis_tools.cli.duration import parse_duration
        from aegis_tools.errors import AegisError
        from aegis_tools.rollout.waves import pauses, plan_watch, wave_number, wave_sizes

        result = super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(ARGUMENTS)
        everyone, batch = task_vars["ansible_play_hosts_all"], task_vars["ansible_play_batch"]
        try:
            window = parse_duration(given["confirm_within"])
            done = everyone.index(batch[0])
            number, of = wave_number(done, len(everyone), given["waves"])
            rest = wave_sizes(len(everyone), given["waves"])[number - 1 :]
        except (AegisError, ValueError) as error:
            return {**result, "failed": True, "msg": str(error)}
        forks = int(task_vars.get("ansible_forks") or 5)
        times = {name: given[name] for name in ("soak", "interval", "look_seconds")}
        watch = plan_watch(len(batch), forks=forks, **times)
        # The longest of those to come, too: better not begun than stopped half way.
        needed, last, hosts = max(
            (
                (plan_watch(size, forks=forks, **times).needed, number + later, size)
                for later, size in enumerate(rest)
            ),
            key=itemgetter(0),
        )
        found = {**result, "changed": False, "number": number, "of": of, "looks": watch.looks,
                 "interval": watch.interval, "round_seconds": watch.round_seconds,
                 "needed": watch.needed, "hosts": batch, "earlier": everyone[:done],
                 "pause": pauses(number, of, given["pause_after"])}  # fmt: skip
        if window <= needed:
            message = (
                f"aegisbpf_confirm_within is {window} s, but watching and confirming wave {last} "
                f"({hosts} hosts, {forks} at once) takes {needed:.0f} s: make it "
                "longer, the soak shorter, the waves smaller, or the forks more"
            )
            return {**found, "failed": True, "msg": message}
        return found
