"""Where things are on a host: one seam, so that a test can put them in a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Every path the program uses, below ``root``.

    Args:
        root: ``/`` on a host; a temporary folder in a test.
    """

    root: Path = Path("/")

    @property
    def bpffs(self) -> Path:
        """The mount point of the BPF file system."""
        return self.root / "sys/fs/bpf"

    @property
    def pins(self) -> Path:
        """The folder that holds our pinned maps and links; removing it ends enforcement."""
        return self.bpffs / "aegis"

    @property
    def monitor_pins(self) -> Path:
        """The folder that holds a folder of pins for each monitor that is loaded."""
        return self.bpffs / "aegis-monitors"

    @property
    def limit_pins(self) -> Path:
        """The folder that holds a folder of pins for each profile whose bandwidth is counted."""
        return self.bpffs / "aegis-limits"

    @property
    def monitor_store(self) -> Path:
        """What the monitors saw, in SQLite, where it is not kept elsewhere."""
        return self.state / "monitors.db"

    @property
    def monitor_store_url(self) -> Path:
        """Where it is kept instead: an address, maybe with a password."""
        return self.etc / "monitor-store.url"

    @property
    def monitor_store_lock(self) -> Path:
        """Held by whoever stores what the monitors see, for as long as it lives."""
        return self.run / "monitor-store.lock"

    @property
    def etc(self) -> Path:
        """Configuration, written by people and by Ansible."""
        return self.root / "etc/aegisbpf"

    @property
    def keys(self) -> Path:
        """The public keys that are trusted to sign policies, one ``*.pub`` each."""
        return self.etc / "keys"

    @property
    def trust_config(self) -> Path:
        """Threshold and group of this host (``policy.trust.TrustConfig``)."""
        return self.etc / "trust.json"

    @property
    def profiles(self) -> Path:
        """Who is watched, and within which limits; one JSON file each."""
        return self.etc / "profiles"

    @property
    def notify_config(self) -> Path:
        """Who is told of limits (``monitors.notify.settings``)."""
        return self.etc / "notify.json"

    @property
    def monitor_settings(self) -> Path:
        """What the monitors' agent loads and stores (``monitors.agent.settings``)."""
        return self.etc / "monitors.json"

    @property
    def state(self) -> Path:
        """What must survive a reboot."""
        return self.root / "var/lib/aegisbpf"

    @property
    def bundles(self) -> Path:
        """Applied policies, each under the digest of its content."""
        return self.state / "bundles"

    @property
    def current(self) -> Path:
        """Which stored policy the next boot applies, and which one it replaced."""
        return self.state / "current.json"

    @property
    def serials(self) -> Path:
        """The highest serial accepted for each group (``policy.trust.TrustState``)."""
        return self.state / "serials.json"

    @property
    def history(self) -> Path:
        """What was changed, when, by whom; one JSON object a line."""
        return self.state / "history.jsonl"

    @property
    def pending(self) -> Path:
        """The change that waits for its confirmation (``control.pending``)."""
        return self.state / "pending.json"

    @property
    def boot(self) -> Path:
        """Mode and map sizes of the next boot (``control.bootstate``)."""
        return self.state / "boot.json"

    @property
    def lsm_record(self) -> Path:
        """What the boot configuration was before ``lsm enable`` (``control.bootconfig.record``)."""
        return self.state / "lsm.json"

    @property
    def grub_candidate(self) -> Path:
        """A menu of GRUB's that is not in place yet."""
        return self.state / "grub.cfg"

    @property
    def grub_menu(self) -> Path:
        """The menu that GRUB reads, made by grub-mkconfig."""
        return self.root / "boot/grub/grub.cfg"

    @property
    def grub_settings(self) -> Path:
        """What grub-mkconfig reads first; then come the drop-ins."""
        return self.root / "etc/default/grub"

    @property
    def grub_drop_ins(self) -> Path:
        """The folder of what grub-mkconfig reads next, in the order of the names."""
        return self.root / "etc/default/grub.d"

    @property
    def grub_drop_in(self) -> Path:
        """Our own among them, and the only one that we write."""
        return self.grub_drop_ins / "99-aegisbpf.cfg"

    @property
    def grub_kernel(self) -> Path:
        """Our own as well: which entry boots by default, while a kernel cannot be used."""
        return self.grub_drop_ins / "99-aegisbpf-kernel.cfg"

    @property
    def grub_disable(self) -> Path:
        """Made by playbooks/break_glass.yml: ``aegisbpf.disable=1`` for every entry."""
        return self.grub_drop_ins / "98-aegisbpf-disable.cfg"

    @property
    def boot_entries(self) -> Path:
        """Entries of the Boot Loader Specification, one file each."""
        return self.root / "boot/loader/entries"

    @property
    def later_cmdline(self) -> Path:
        """The command line of kernels that are installed later, where entries are such files."""
        return self.root / "etc/kernel/cmdline"

    @property
    def fallback(self) -> Path:
        """Why the host is held in audit (``control.fallback``)."""
        return self.state / "fallback.json"

    @property
    def incidents(self) -> Path:
        """What was done in emergencies, one folder each (``incident.shelf``)."""
        return self.state / "incidents"

    @property
    def soaks(self) -> Path:
        """Long runs with their verdicts, one folder each (``soak.folder``)."""
        return self.state / "soaks"

    @property
    def soak_running(self) -> Path:
        """The id of the soak that runs; missing while none does."""
        return self.soaks / "running"

    @property
    def soak_lock(self) -> Path:
        """Held by whoever changes a soak: begins it, takes a turn, ends it."""
        return self.run / "soak.lock"

    @property
    def units(self) -> Path:
        """Where an administrator's systemd units are."""
        return self.root / "etc/systemd/system"

    @property
    def runtime_units(self) -> Path:
        """Where units and drop-ins are that a reboot forgets."""
        return self.root / "run/systemd/system"

    @property
    def programs(self) -> tuple[Path, ...]:
        """The names by which runbooks start the program."""
        return self.root / "usr/local/bin/aegisbpf", self.root / "usr/bin/aegisbpf"

    @property
    def capacity_log(self) -> Path:
        """How full the maps were after each change; one JSON object a line."""
        return self.state / "capacity.jsonl"

    @property
    def run(self) -> Path:
        """What a reboot may forget."""
        return self.root / "run/aegisbpf"

    @property
    def agent_status(self) -> Path:
        """The agent's sign of life (``control.heartbeat``)."""
        return self.run / "agent.json"

    @property
    def events_lock(self) -> Path:
        """Held by the agent, or whoever else reads the events, for as long as it lives."""
        return self.run / "events.lock"

    @property
    def monitor_heartbeat(self) -> Path:
        """The sign of life of the monitors' agent (``monitors.agent.heartbeat``)."""
        return self.run / "monitors.json"

    @property
    def monitor_agent_lock(self) -> Path:
        """Held by the monitors' agent for as long as it lives."""
        return self.run / "monitor-agent.lock"

    @property
    def monitor_loads(self) -> Path:
        """Which monitors the monitors' agent has loaded itself (``monitors.agent.loads``)."""
        return self.run / "monitor-loads.json"

    @property
    def limits(self) -> Path:
        """What limits have changed, and what was there before (``monitors.profiles.ledger``)."""
        return self.run / "limits.json"

    @property
    def starts(self) -> Path:
        """Starts of the agent that did not end well (``control.starts``)."""
        return self.run / "starts.json"

    @property
    def sampling(self) -> Path:
        """The sample rate of before it was lowered (``incident.sampling``)."""
        return self.run / "sampling.json"

    @property
    def lock(self) -> Path:
        """The file that commands which change something lock."""
        return self.run / "lock"
