"""Parsers of the configuration a login depends on: what they find, and that nothing upsets them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.lockout import config
from aegis_tools.control.lockout.linked import parse_listing

WORDS = st.text(
    st.sampled_from(list("ab/=:#\\[]\"'@-%.,* \t\n\r\0\x0b\u2028é")) | st.characters(), max_size=200
)


@given(WORDS)
def test_no_text_upsets_a_parser(text: str) -> None:
    config.pam(text)
    config.nss(text)
    config.ssh_ports(config.sshd(text))
    config.users(text)
    config.groups(text)
    config.sudoers(text)
    config.nameservers(text)
    config.shebang(text)
    parse_listing(text)


@given(st.lists(st.sampled_from(["Port", "ListenAddress"]), max_size=5), WORDS)
def test_a_port_is_always_one_that_can_be(keywords: list[str], value: str) -> None:
    found = config.ssh_ports(config.sshd("\n".join(f"{k} {value}" for k in keywords)))
    assert found
    assert all(0 < port < 65536 for port in found)


@given(st.text(st.sampled_from(list("0123456789abcdef.:% \n")), max_size=60))
def test_a_name_server_is_always_an_address(text: str) -> None:
    for address in config.nameservers(f"nameserver {text}"):
        assert set(address) <= set("0123456789abcdef.:")


def test_pam_modules_includes_and_the_files_they_are_told_of() -> None:
    text = (
        "# comment\n"
        "auth  required  pam_env.so envfile=/etc/default/locale # why\n"
        "-session optional pam_systemd.so\n"
        "auth [success=1 default=ignore] pam_unix.so nullok\n"
        "account required \\\n   /opt/pam/own.so [file=/etc/own.conf]\n"
        "@include common-auth\n"
        "auth substack password-auth\n"
        "session include other-session\n"
        "nonsense\n"
    )
    assert config.pam(text) == [
        ("pam_env.so", "", ("/etc/default/locale",)),
        ("pam_systemd.so", "", ()),
        ("pam_unix.so", "", ()),
        ("/opt/pam/own.so", "", ("/etc/own.conf",)),
        ("", "common-auth", ()),
        ("", "password-auth", ()),
        ("", "other-session", ()),
    ]


def test_name_services_without_their_actions() -> None:
    text = "passwd: files systemd\nhosts: files [NOTFOUND=return] dns [!UNAVAIL=x] mdns4_minimal\n"
    assert config.nss(text) == {
        "passwd": ["files", "systemd"],
        "hosts": ["files", "dns", "mdns4_minimal"],
    }


def test_the_ports_of_sshd() -> None:
    assert config.ssh_ports(config.sshd("")) == [22]
    text = "#Port 1\nport 2222\nPort=2200\nListenAddress [::]:2022\nListenAddress 10.0.0.1:2023\n"
    assert config.ssh_ports(config.sshd(text)) == [2222, 2200, 2022, 2023]
    assert config.ssh_ports(config.sshd("ListenAddress ::1\nListenAddress host\n")) == [22]


def test_who_may_become_root() -> None:
    text = (
        "Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n%ops\tALL=(ALL) NOPASSWD: ALL\n"
        "User_Alias ADMINS = alice, bob\nCmnd_Alias X = /bin/true\n"
        "@includedir /etc/sudoers.d\n#include /etc/more\n# carol ALL=ALL\n"
    )
    names, groups, includes = config.sudoers(text)
    assert {"root", "alice", "bob"} <= names
    assert "carol" not in names
    assert groups == {"ops"}
    assert includes == ["/etc/sudoers.d", "/etc/more"]


def test_accounts_and_groups_skip_what_is_none() -> None:
    text = "root:x:0:0:root:/root:/bin/bash\n+::::::\nbad\nx:x:-1:0::/:/bin/sh\n"
    assert [u.name for u in config.users(text)] == ["root"]
    assert config.groups("sudo:x:27:alice,bob\nbad:x:n:\n") == {"sudo": (27, ["alice", "bob"])}


def test_interpreters() -> None:
    assert config.shebang("#!/usr/bin/env python3\n") == "/usr/bin/env"
    assert config.shebang("#! /bin/sh -e\nx") == "/bin/sh"
    assert config.shebang("\x7fELF") == config.shebang("#!relative") == config.shebang("#!") == ""


def test_what_the_loader_lists() -> None:
    text = (
        "= /usr/sbin/sshd\n\tlinux-vdso.so.1 (0x00007ffc)\n"
        "\tlibpam.so.0 => /lib/x/libpam.so.0 (0x00007f)\n\tlibgone.so => not found\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n= /bin/static\n"
    )
    assert parse_listing(text) == {
        "/usr/sbin/sshd": ["/lib/x/libpam.so.0", "/lib64/ld-linux-x86-64.so.2"]
    }
