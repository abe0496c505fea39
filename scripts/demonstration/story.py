"""What the demo tells: one host, from nothing to enforcement and back, by a fleet's playbooks."""

from __future__ import annotations

from demonstration.show import Show

POLICY = "policies/example/policy.conf"
PROGRAM = "/opt/aegisbpf/current/bin/aegisbpf"
TOKEN = "/srv/demo/token.txt"
SECRET = "/srv/demo/secrets/db/password"
REFUSED = "Operation not permitted"
CONNECT = "timeout 5 bash -c 'echo hello > /dev/tcp/127.0.0.1/4444' && echo connected"
REPLACE = f"echo token-2 > /srv/demo/new && mv /srv/demo/new {TOKEN}; cat {TOKEN}"
KILL = f"""\
agent=$(systemctl show --property MainPID --value aegisbpf)
ps -o pid=,args= -p $agent
kill -9 $agent && sleep 1
ps -p $agent > /dev/null || echo the agent is gone
cat {TOKEN}
"""


class Story:
    """The steps, in order.

    Args:
        show: Where it is told.
    """

    def __init__(self, show: Show) -> None:
        self.show = show

    def play(self, playbook: str, more: str = "", *, says: str, before: str = "") -> str:
        """Run a playbook on the example inventory."""
        words = f"{before}ansible-playbook -i inventories/example playbooks/{playbook}.yml {more}"
        return self.show.run(words.strip(), says=says)

    def there(self, command: str, *, status: int = 0, says: str = "") -> str:
        """Run a command on the host, over SSH as anybody would; nothing of it is expanded here."""
        quoted = "'" + command.replace("'", "'\\''") + "'"
        return self.show.run(f"ssh -F ssh.conf example {quoted}", status=status, says=says)

    def there_as_root(self, script: str, *, status: int = 0, says: str = "") -> str:
        """Run a script on the host, as root; nothing of it is expanded here."""
        command = f"ssh -F ssh.conf example sudo bash -s <<'END'\n{script}END"
        return self.show.run(command, status=status, says=says)

    def sign(self) -> None:
        show = self.show
        show.title("On the controller: a key pair, a signed policy, our wheel with what it needs")
        show.run("aegisbpf keys generate keys/release", says="release.pub")
        show.run(f"aegisbpf policy lint {POLICY}")
        show.run(
            f"aegisbpf policy sign {POLICY} --key keys/release.key --output dist/policy.bundle"
            " --expires 30d"
        )
        show.run("scripts/build-wheelhouse dist/aegisbpf.tar --python 3.11")

    def bring_up(self) -> None:
        self.show.title("site.yml: the program, its units, whom to believe; no policy yet")
        self.there("uname -r; cat /sys/kernel/security/lsm; echo", says="bpf")
        self.play("site", "-e aegisbpf_policy=", says="failed=0")

    def audit(self) -> None:
        show = self.show
        show.title("rollout.yml: plan, apply, watch, confirm; in audit, where all is let by")
        self.play("rollout", says="report: ")
        self.there(f"cat {TOKEN} {SECRET}", says="hunter2")
        self.there("sudo journalctl --unit aegisbpf --output cat | grep AUDIT | tail -n 1",
                   says=SECRET)  # fmt: skip

    def enforce(self) -> None:
        show = self.show
        show.title(
            "Promoted to enforce, by a rollout of its own (a fleet waits for clean days first)"
        )
        # What was read above is no clean day.
        self.play(
            "rollout", "-e aegisbpf_rollout_mode=enforce -e aegisbpf_clean_for=", says="report: "
        )
        self.there(f"cat {TOKEN}", status=1, says=REFUSED)
        self.there(f"sudo cat {SECRET}", status=1, says=REFUSED)
        self.there("cat /srv/demo/README", says="nothing secret")
        show.title("The file is replaced by another under its name, as passwd does: still refused")
        self.there(REPLACE, status=1, says=REFUSED)
        show.title("So is a connection to where the secrets must not go")
        self.there(CONNECT, status=1, says=REFUSED)

    def look(self) -> None:
        self.show.title("What was refused, and why")
        self.there(f"sudo {PROGRAM} stats | head -n 5", says="Total blocks: 4")
        self.there(f"sudo {PROGRAM} block list --last-accessed", says=TOKEN)
        self.there(f"sudo {PROGRAM} why {TOKEN}", says="BLOCK")
        # What a host answers is no change.
        self.play("status", says="enforce, policy", before="ANSIBLE_DISPLAY_OK_HOSTS=true ")

    def kill_agent(self) -> None:
        self.show.title("The agent is killed: enforcement is in the kernel, not in a process")
        told = self.there_as_root(KILL, status=1, says=REFUSED)
        self.show.check("aegisbpf run" in told, "the process that was killed was not the agent")
        self.show.check("the agent is gone" in told, "the agent was not killed")

    def undo(self) -> None:
        self.show.title("Reset: everything of ours leaves the kernel, and that is proven")
        self.there(f"sudo {PROGRAM} reset", says="reset")
        self.there(f"cat {SECRET}", says="hunter2")
        self.there(CONNECT, says="connected")

    def clean_up(self) -> None:
        self.show.title("uninstall.yml: nothing of ours is left on the host")
        self.play("uninstall", "-e aegisbpf_purge=true", says="failed=0")
        self.there("sudo ls -d /opt/aegisbpf /etc/aegisbpf /var/lib/aegisbpf /sys/fs/bpf/aegis",
                   status=2, says="No such file")  # fmt: skip

    def on_the_host(self) -> None:
        """Tell everything that needs the machine."""
        self.bring_up()
        self.audit()
        self.enforce()
        self.look()
        self.kill_agent()
        self.undo()
        self.clean_up()
