"""Break glass by every shell, with real pins, in a world of its own: mounts, processes, folders."""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "break-glass"
SHELLS = ("dash", "bash", "busybox sh")
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SHOWS": "0"}
WORLD = """
set -e
mount -t bpf bpf /sys/fs/bpf
for folder in /etc /run /var/lib; do mount -t tmpfs tmpfs $folder; done
mkdir -p /sys/fs/bpf/aegis/links /sys/fs/bpf/aegis/maps /sys/fs/bpf/aegis/staging-9/links
mkdir -p /var/lib/aegisbpf
bpftool map create /sys/fs/bpf/aegis/maps/config type array key 4 value 8 entries 6 name config
ln /sys/fs/bpf/aegis/maps/config /sys/fs/bpf/aegis/links/one 2> /dev/null || true
mount --bind /dev/null /proc/kallsyms
set +e
# What other programs of this host have in the kernel is none of this test's business.
printf '#!/bin/sh\\n[ "$1" = prog ] && exit $SHOWS\\nexec %s "$@"\\n' $(command -v bpftool) > /run/b
cp $(command -v bpftool) /run/real && sed -i "s#$(command -v bpftool)#/run/real#" /run/b
chmod +x /run/b && mount --bind /run/b $(command -v bpftool)
"""


def glass(shell: str, prepare: str = "", *, options: str = "", then: str = "") -> tuple[int, str]:
    script = f"{WORLD}\n{prepare}\n{shell} {SCRIPT} {options}\nstatus=$?\n{then}\nexit $status"
    done = subprocess.run(
        [*UNSHARE, "/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        cwd=REPOSITORY,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("shell", [*SHELLS, "dash -efuC", "bash -efuC"])
def test_every_shell_ends_it_marks_it_holds_it_and_records_it(shell: str) -> None:
    status, told = glass(
        shell,
        'echo \'{"mode":"enforce"}\' > /var/lib/aegisbpf/boot.json',
        then="ls /sys/fs/bpf /etc /run; cat /var/lib/aegisbpf/fallback.json"
        " /var/lib/aegisbpf/incidents/*/record.txt",
    )
    assert status == 0, told
    assert "the hooks are switched off" in told
    assert "the pins are gone" in told
    assert told.count("\naegisbpf.disable\n") == 2
    assert '"reason":"break-glass","detail":"","mode_before":"enforce"' in told
    assert told.count("ENDED, and proven") == 2
    assert "aegis\n" not in told


@pytest.mark.parametrize("shell", SHELLS)
def test_a_file_that_is_still_refused_is_said(shell: str) -> None:
    # What opens as little as a file that a rule denies: one that nobody may change.
    status, told = glass(
        shell,
        'd=$(mktemp -d) && : > "$d/x y" && chattr +i "$d/x y"',
        options='"$d/x y"',
        then='chattr -i "$d/x y"; rm -r "$d"',
    )
    assert status == 2, told
    assert "STILL REFUSED: /" in told
    assert "NOT ENDED" in told


STORED = {
    "text": ("current", "policy", "version=1\n[deny_path]\n{path}\n"),
    "YAML that waits": ("pending", "policy", 'rules:\n  - id: x\n    path: "{path}"\n'),
    "signed": ("current", "json", '{{"policy":"rules:\\n  - {{path: {path}, id: x}}\\n"}}'),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("kind", STORED)
def test_the_stored_policy_says_what_to_try(shell: str, kind: str, tmp_path: Path) -> None:
    record, suffix, text = STORED[kind]
    path, digest = tmp_path / "denied", "d" * 64
    path.touch()
    data = text.format(path=path)
    if suffix == "json":
        data = json.dumps({"payload": base64.b64encode(data.encode()).decode(), "signatures": []})
    (tmp_path / "bundle").write_text(data)
    side = {"digest": digest}
    known = {"now": side, "was": {"digest": "e"}} if record == "pending" else {"current": side}
    (tmp_path / "record").write_text(json.dumps(known, separators=(",", ":"), sort_keys=True))
    status, told = glass(
        shell,
        f"mkdir /var/lib/aegisbpf/bundles; chattr +i {path};"
        f"cp {tmp_path}/record /var/lib/aegisbpf/{record}.json;"
        f"cp {tmp_path}/bundle /var/lib/aegisbpf/bundles/{digest}.{suffix}",
        then=f"chattr -i {path}",
    )
    assert (status, f"STILL REFUSED: {path}\n" in told) == (2, True), told


def test_looking_changes_nothing() -> None:
    status, told = glass("dash", options="-n", then="ls /sys/fs/bpf /etc /run /var/lib/aegisbpf")
    assert status == 0, told
    assert "is there: /sys/fs/bpf/aegis" in told
    assert "disable" not in told


@pytest.mark.parametrize("shell", SHELLS)
def test_its_record_is_an_incident_whatever_the_files_are_called(shell: str) -> None:
    names = "/srv/\"a'\\b%s$(x)\n" + "`y`\x1b[31m"
    status, told = glass(
        shell,
        "mount -t tmpfs tmpfs /srv; chmod 755 /var/lib",
        options=f"{shlex.quote(names)} /srv",
        then=f"{sys.executable} -m aegis_tools incident show last --json",
    )
    assert status == 0, told
    found = json.loads(told.splitlines()[-1])
    assert (found["scenario"], found["result"], found["ended"] is None) == (
        "break-glass", "recovered", False,
    )  # fmt: skip
    assert found["host"] == os.uname().nodename
    assert found["kernel"] == os.uname().release
    lines = [one["message"] for one in found["actions"]]
    assert lines[0] == "broke the glass"
    assert "the hooks are switched off" in lines
    assert lines[-1].startswith("ENDED, and proven")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_hostile_name_that_is_refused_is_recorded_harmlessly(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "\"a'\\b%s$(x)`y`\x1b[31m ENDED, and proven"
    path.touch()
    status, told = glass(
        shell,
        f"chmod 755 /var/lib; chattr +i {shlex.quote(str(path))}",
        options=shlex.quote(str(path)),
        then=f"chattr -i {shlex.quote(str(path))};"
        f"{sys.executable} -m aegis_tools incident show last --json",
    )
    assert status == 2, told
    found = json.loads(told.splitlines()[-1])
    assert found["result"] == "not-recovered"
    (line,) = [one["message"] for one in found["actions"] if "STILL" in one["message"]]
    assert line == f"STILL REFUSED: {path}".replace("\x1b", "\\x1b")


@pytest.mark.parametrize("shell", SHELLS)
def test_another_hold_stays(shell: str) -> None:
    _, told = glass(
        shell,
        'echo \'{"reason":"lockout"}\' > /var/lib/aegisbpf/fallback.json',
        then="cat /var/lib/aegisbpf/fallback.json",
    )
    assert told.endswith('{"reason":"lockout"}\n')


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("option", ["-b", "--help", "-x"])
def test_an_option_that_is_none_breaks_nothing(shell: str, option: str) -> None:
    status, told = glass(shell, options=option, then="ls /sys/fs/bpf /etc /run")
    assert status == 3, told
    assert "break_glass [-n] [FILE...]" in told
    assert "aegis\n" in told
    assert "disable" not in told


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("signal", ["INT", "KILL", "TERM"])
def test_a_rule_that_kills_who_opens_is_a_refusal(shell: str, signal: str, tmp_path: Path) -> None:
    # As the kernel does it: the signal, then the error.
    killed = f"""(kill -{signal} $(exec sh -c 'echo $PPID'); echo not permitted >&2; false)"""
    script = SCRIPT.read_text().replace('(: < "$1")', killed)
    for text, told in ((script, "refused"), (SCRIPT.read_text(), "opens")):
        (tmp_path / "script").write_text(text)
        done = subprocess.run(
            ["env", "--default-signal=INT", *shell.split(), str(tmp_path / "script"), "-n",
             "/etc/hosts"],
            capture_output=True, text=True, check=True, env=ENVIRONMENT,
        )  # fmt: skip
        assert f"{told}: /etc/hosts\n" in done.stdout


def test_who_is_not_root_is_told_so() -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", SCRIPT.read_text()],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "not root: run it with sudo\n")


def test_two_within_a_second_are_both_recorded() -> None:
    clock = "printf '#!/bin/sh\\necho 20261121T170102Z\\n' > /run/d; chmod +x /run/d;"
    _, told = glass(
        "dash",
        f"{clock} mount --bind /run/d $(command -v date); dash {SCRIPT}",
        then="cat /var/lib/aegisbpf/incidents/*/record.txt",
    )
    assert told.count("ENDED, and proven") == 4


def test_without_anything_that_unlinks_the_file_system_is_unmounted() -> None:
    hide = (
        "for p in rm find perl python3 busybox bpftool; do"
        " mount --bind /bin/false $(command -v $p); done"
    )
    status, told = glass("dash", hide, then="ls /sys/fs/bpf")
    assert "the pins are gone" in told, told
    assert status == 1, "nothing proves it"


def test_pins_of_others_are_not_taken_along() -> None:
    hide = (
        "mkdir /sys/fs/bpf/theirs; for p in rm find perl python3 busybox bpftool; do"
        " mount --bind /bin/false $(command -v $p); done"
    )
    status, told = glass("dash", hide, then="ls /sys/fs/bpf")
    assert status == 2, told
    assert "takes them, and others with them: theirs" in told
    assert {"aegis", "theirs"} <= set(told.splitlines())


def test_a_process_of_ours_is_ended_and_no_other() -> None:
    started = "cp $(command -v sleep) /run/aegisbpf && /run/aegisbpf 60 & sleep 60 & sleep 0.3"
    _, told = glass("dash", started, then="for p in /proc/[0-9]*/comm; do cat $p; done")
    assert "(aegisbpf)" in told
    assert "\naegisbpf\n" not in told
    assert "\nsleep\n" in told


def test_a_full_disk_and_one_that_is_read_only_are_said_and_keep_it_from_nothing() -> None:
    full = "mount -t tmpfs -o size=4k tmpfs /var/lib/aegisbpf; echo > /var/lib/aegisbpf/x"
    _, told = glass("dash", f"mount -o remount,ro /etc; {full}")
    assert "the pins are gone" in told
    assert "/etc/aegisbpf.disable CANNOT BE MADE" in told
    assert "record: /run/" in told


@pytest.mark.parametrize("shell", SHELLS)
def test_it_can_be_pasted_into_a_console(shell: str) -> None:
    process, console = pty.fork()
    if not process:
        world = f"{WORLD}\nexec {shell} -i"
        os.execvpe("unshare", [*UNSHARE, "/bin/sh", "-c", world], {**ENVIRONMENT, "TERM": "dumb"})
    shown = read_console(console, "# ", 10)
    for line in [*SCRIPT.read_text().splitlines(), "echo PASTED=$?", "exit"]:
        os.write(console, f"{line}\n".encode())
        shown += read_console(console, "", 0.01)
    shown += read_console(console, "PASTED=0", 30)
    os.close(console)
    os.waitpid(process, 0)
    assert "PASTED=0" in shown, shown
    assert "\r\nENDED, and proven" in shown


def read_console(console: int, until: str, seconds: float) -> str:
    """Return what it shows, until it shows that, or nothing for so long."""
    shown = ""
    while select.select([console], [], [], seconds)[0]:
        try:
            data = os.read(console, 65536)
        except OSError:  # its last process has ended
            break
        shown += data.decode(errors="replace")
        if until and until in shown:
            break
    return shown
