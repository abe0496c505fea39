"""What letting a person in needs: sshd, PAM, the name services, accounts, shells, sudo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from aegis_tools.control.lockout import config
from aegis_tools.control.lockout.collect import Collector
from aegis_tools.control.lockout.model import RUN
from aegis_tools.control.lockout.tree import Tree

SSHD_FILES = ("/usr/lib/openssh/sshd-session", "/usr/lib/openssh/sshd-auth",
              "/usr/libexec/openssh/sshd-session", "/usr/libexec/openssh/sshd-auth",
              "/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")  # fmt: skip
PAM_SERVICES = ("sshd", "sudo", "sudo-i", "login", "su", "su-l", "systemd-user", "other")
PAM_FILES = ("/etc/pam.conf", "/etc/security/access.conf", "/etc/security/limits.conf",
             "/etc/security/pam_env.conf", "/etc/security/namespace.conf",
             "/etc/security/faillock.conf", "/etc/login.defs", "/etc/environment")  # fmt: skip
DATABASES = ("passwd", "group", "shadow", "initgroups", "hosts", "gshadow", "sudoers")
ACCOUNTS = {
    "/etc/passwd": "every login looks the account up in it",
    "/etc/group": "every login looks the groups up in it",
    "/etc/shadow": "PAM looks in it whether the account may log in",
    "/etc/nsswitch.conf": "it says where accounts and host names are looked up",
    "/etc/hosts": "names of hosts are looked up in it",
    "/etc/host.conf": "names of hosts are looked up by it",
    "/etc/resolv.conf": "names of hosts are looked up by it",
    "/etc/gai.conf": "names of hosts are looked up by it",
}
SUDO_GROUPS = ("sudo", "wheel", "admin")
LOGIN = "{} needs it to let you in"


def sshd(collector: Collector) -> None:
    """Add sshd, its configuration and its keys."""
    tree = collector.tree
    programs = list(tree.which(["sshd"]))
    for path in (*programs, *filter(tree.is_file, SSHD_FILES)):
        collector.program(path, LOGIN.format("sshd"), 0)
    if not programs:
        return
    why = LOGIN.format("sshd")
    options = list(ssh_options(tree, lambda path: collector.read(path, why, 5, ("sshd",))))
    keys = [value for keyword, value in options if keyword in ("hostkey", "hostcertificate")]
    for path in keys or tree.glob("/etc/ssh/ssh_host_*_key"):
        collector.read(path, "sshd shows it to everybody who logs in", 5, ("sshd",))
    for path in tree.glob("/etc/ssh/ssh_host_*_key.pub"):
        collector.read(path, "sshd reads it when it starts", 6, ("sshd",))
    for keyword, value in options:
        if keyword == "authorizedkeyscommand" and tree.is_file(value.split()[0]):
            collector.program(value.split()[0], "sshd asks it for the keys", 3, ("sshd",))
        if keyword in ("trustedusercakeys", "revokedkeys", "authorizedprincipalsfile"):
            collector.read(value, LOGIN.format("sshd"), 5, ("sshd",))
    for folder in ("/run/sshd", "/var/empty/sshd"):
        collector.read(folder, "sshd works in it before a login", 5, ("sshd",))
    collector.read("/etc/ssh/moduli", "sshd needs it for some clients", 7, ("sshd",))
    patterns = [v for k, v in options if k == "authorizedkeysfile"] or [
        ".ssh/authorized_keys .ssh/authorized_keys2"
    ]
    for user in people(tree):
        _keys(collector, user, patterns)


def ssh_options(
    tree: Tree, read: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[str, str]]:
    """Yield the options of sshd_config and of what it includes.

    Args:
        tree: The host's files.
        read: Called with the path of every file that is read.
    """
    pending, seen = ["/etc/ssh/sshd_config"], set[str]()
    while pending and len(seen) < 100:
        path = pending.pop(0)
        if path in seen:
            continue
        seen.add(path)
        read(path)
        for keyword, value in config.sshd(tree.text(path)):
            if keyword == "include":
                for word in value.split():
                    pattern = word if word.startswith("/") else f"/etc/ssh/{word}"
                    tree.names(pattern.rpartition("/")[0])
                    pending += tree.glob(pattern)
            yield keyword, value


def _keys(collector: Collector, user: config.User, patterns: Iterable[str]) -> None:
    for word in (word for pattern in patterns for word in pattern.split() if word != "none"):
        path = word.replace("%h", user.home).replace("%u", user.name).replace("%U", str(user.uid))
        path = path.replace("%%", "%")
        path = path if path.startswith("/") else f"{user.home}/{path}"
        collector.read(path, f"sshd looks for the keys of {user.name} in it", 4, ("sshd",))


def pam(collector: Collector) -> None:
    """Add the PAM services of a login, with their modules."""
    tree, pending, seen = collector.tree, list(PAM_SERVICES), set[str]()
    tree.names("/etc/pam.d")
    while pending:
        service = pending.pop(0)
        if service in seen or "/" in service:
            continue
        seen.add(service)
        for folder in ("/etc/pam.d", "/usr/lib/pam.d"):
            path = f"{folder}/{service}"
            collector.read(path, LOGIN.format("PAM"), 8, ("PAM",))
            for line in config.pam(tree.text(path)):
                if line.include:
                    pending.append(line.include)
                else:
                    _pam_module(collector, service, line)
    for path in PAM_FILES:
        collector.read(path, "PAM reads it at a login", 9, ("PAM",))
    for path in tree.which(["unix_chkpwd"]):
        collector.program(path, "pam_unix.so checks accounts with it", 7, ("pam_unix.so",))


def _pam_module(collector: Collector, service: str, line: config.PamLine) -> None:
    tree, chain = collector.tree, ("PAM", f"pam.d/{service}")
    if line.module.startswith("/"):
        found = [line.module] if tree.is_file(line.module) else []
    else:
        found = tree.libraries(f"security/{line.module}")
    name = line.module.rpartition("/")[2]
    for path in found:
        why = f"logging in by the service {service} needs it"
        collector.add(path, RUN, why, (*chain, name), 7, code=True)
    for path in line.files:
        if tree.is_file(path):
            collector.read(path, f"{name} is told to use it", 9, (*chain, name))


def names(collector: Collector) -> None:
    """Add how accounts and host names are looked up."""
    tree = collector.tree
    for path, why in ACCOUNTS.items():
        collector.read(path, why, 6, ("NSS",))
    services = config.nss(tree.text("/etc/nsswitch.conf"))
    wanted = {name for base in DATABASES for name in services.get(base, ())} | {"files", "dns"}
    for service in sorted(wanted):
        for path in tree.libraries(f"libnss_{service}.so.2"):
            chain = ("NSS", "nsswitch.conf", path.rpartition("/")[2])
            why = "accounts and names are looked up through it"
            collector.add(path, RUN, why, chain, 7, code=True)
    if "sss" in wanted:
        for path in (*tree.which(["sssd"]), *tree.glob("/usr/libexec/sssd/sssd_*")):
            collector.program(path, "accounts are looked up through it", 7, ("NSS",))
        collector.read("/etc/sssd/sssd.conf", "accounts are looked up by it", 7, ("NSS",))


def people(tree: Tree) -> list[config.User]:
    """Return root and whoever may use sudo: those who can repair the host."""
    members = set(SUDO_GROUPS)
    wanted = {"root"}
    pending, seen = ["/etc/sudoers"], set[str]()
    while pending and len(seen) < 100:
        path = pending.pop(0)
        if path in seen:
            continue
        seen.add(path)
        children = [f"{path.rstrip('/')}/{name}" for name in tree.names(path)]
        pending += children
        found, more, includes = config.sudoers("" if children else tree.text(path))
        wanted |= found
        members |= more
        pending += includes
    known = config.groups(tree.text("/etc/group"))
    numbers = {known[name][0] for name in members if name in known}
    wanted |= {user for name in members if name in known for user in known[name][1]}
    everybody = config.users(tree.text("/etc/passwd"))
    return [u for u in everybody if u.uid == 0 or u.name in wanted or u.gid in numbers]


def shells(collector: Collector) -> None:
    """Add the shells of those who can repair the host, and the one that scripts ask for."""
    tree = collector.tree
    for user in people(tree):
        if user.shell and tree.is_file(user.shell):
            collector.program(user.shell, f"it is the shell of {user.name}", 2)
    for path in tree.which(["sh", "bash", "dash"]):
        collector.program(path, "scripts and Ansible run in it", 3)
    for path in ("/etc/shells", "/etc/profile", "/etc/bash.bashrc"):
        collector.read(path, "a login shell reads it", 30, ("shell",))


def sudo(collector: Collector) -> None:
    """Add sudo, su and what sudo is told by."""
    tree = collector.tree
    for path in tree.which(["sudo", "su", "doas"]):
        collector.program(path, "it makes you root", 3)
    for pattern in ("/usr/libexec/sudo/*.so*", "/usr/lib/sudo/*.so*"):
        for path in tree.glob(pattern):
            chain = ("sudo", path.rpartition("/")[2])
            collector.add(path, RUN, "sudo loads it", chain, 4, code=True)
    for line in config.lines(tree.text("/etc/sudo.conf")):
        words = line.split()
        if len(words) > 2 and words[0] == "Plugin" and tree.is_file(words[2]):
            collector.add(words[2], RUN, "sudo loads it", ("sudo", words[2]), 4, code=True)
    for path in ("/etc/sudo.conf", "/etc/sudoers", "/etc/sudoers.d"):
        collector.read(path, "sudo reads it each time", 4, ("sudo",))
    for name in tree.names("/etc/sudoers.d"):
        collector.read(f"/etc/sudoers.d/{name}", "sudo reads it each time", 5, ("sudo",))
