"""Each target has one canonical text, and every other text is refused with a reason."""

from __future__ import annotations

import policy_strategies as given_
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_tools.policy import targets
from aegis_tools.policy.model import Kind, Op

LONG_NAME = "n" * 255
FULL_PATH = "/" + "/".join(["n" * 240] * 17)[:4093]

CANONICAL = [
    (Kind.PATH, "/etc/shadow", "/etc/shadow"),
    (Kind.PATH, "//etc/./shadow", "/etc/shadow"),
    (Kind.PATH, "/etc/shadow/.", "/etc/shadow"),
    (Kind.PATH, "/a b/#c/.hidden/...", "/a b/#c/.hidden/..."),
    (Kind.PATH, f"/{LONG_NAME}", f"/{LONG_NAME}"),
    (Kind.PATH, FULL_PATH, FULL_PATH),
    (Kind.DIRECTORY, "/srv/secrets", "/srv/secrets/"),
    (Kind.DIRECTORY, "/srv//secrets//", "/srv/secrets/"),
    (Kind.DIRECTORY, "/", "/"),
    (Kind.DIRECTORY, "//./", "/"),
    (Kind.INODE, "271:12345", "271:12345"),
    (Kind.INODE, "4294967295:18446744073709551615", "4294967295:18446744073709551615"),
    (Kind.IP, "10.0.0.1", "10.0.0.1"),
    (Kind.IP, "::ffff:10.0.0.1", "10.0.0.1"),
    (Kind.IP, "2001:DB8:0:0::1", "2001:db8::1"),
    (Kind.CIDR, "10.0.0.0/8", "10.0.0.0/8"),
    (Kind.CIDR, "0.0.0.0/0", "0.0.0.0/0"),
    (Kind.CIDR, "::ffff:10.0.0.0/104", "10.0.0.0/8"),
    (Kind.CIDR, "::ffff:0:0/96", "0.0.0.0/0"),
    (Kind.CIDR, "2001:DB8::/32", "2001:db8::/32"),
    (Kind.CIDR, "::/0", "::/0"),
    (Kind.PORT, "22", "22:any"),
    (Kind.PORT, "65535:udp", "65535:udp"),
    (Kind.IP_PORT, "10.0.0.1:443", "10.0.0.1:443:any"),
    (Kind.IP_PORT, "[2001:db8::1]:443:tcp", "[2001:db8::1]:443:tcp"),
    (Kind.IP_PORT, "[::ffff:10.0.0.1]:53:udp", "10.0.0.1:53:udp"),
]

REFUSED = [
    (Kind.PATH, "", "absolute"),
    (Kind.PATH, "etc/shadow", "absolute"),
    (Kind.PATH, "/etc/", "directory"),
    (Kind.PATH, "/", "directory"),
    (Kind.PATH, "/.", "directory"),
    (Kind.PATH, "/etc/../shadow", r"'\.\.'"),
    (Kind.PATH, "/a\0", "NUL"),
    (Kind.PATH, "/a\nb", "newline"),
    (Kind.PATH, "/a\rb", "carriage return"),
    (Kind.PATH, "/\udcff", "not UTF-8"),
    (Kind.PATH, f"/{LONG_NAME}n", "255 bytes"),
    (Kind.PATH, "/" + "ü" * 128, "255 bytes"),
    (Kind.PATH, FULL_PATH + "n", "4094 bytes"),
    (Kind.DIRECTORY, "srv/", "absolute"),
    (Kind.DIRECTORY, "/srv/../", r"'\.\.'"),
    (Kind.INODE, "12345", "dev:ino"),
    (Kind.INODE, "8:1:12345", "dev:ino"),
    (Kind.INODE, "0x8:1", "dev:ino"),
    (Kind.INODE, "+8:1", "dev:ino"),
    (Kind.INODE, "8:\u0661", "dev:ino"),
    (Kind.INODE, "08:1", "leading zeros"),
    (Kind.INODE, "4294967296:1", "32 bits"),
    (Kind.INODE, "8:0", "from 1"),
    (Kind.INODE, "8:18446744073709551616", "2\\^64"),
    (Kind.IP, "10.0.0", "no IPv4 or IPv6"),
    (Kind.IP, "10.0.0.256", "no IPv4 or IPv6"),
    (Kind.IP, "010.0.0.1", "leading zero"),
    (Kind.IP, "10.0.0.01", "leading zero"),
    (Kind.IP, "::ffff:10.00.0.1", "leading zero"),
    (Kind.IP, "10.0.0.1/32", "CIDR"),
    (Kind.IP, "fe80::1%eth0", "zone"),
    (Kind.IP, "example.com", "no IPv4 or IPv6"),
    (Kind.CIDR, "10.0.0.1", "prefix length"),
    (Kind.CIDR, "10.0.0.1/8", r"the network is 10\.0\.0\.0/8"),
    (Kind.CIDR, "::ffff:10.0.0.1/104", r"the network is 10\.0\.0\.0/8"),
    (Kind.CIDR, "2001:db8::1/32", "the network is 2001:db8::/32"),
    (Kind.CIDR, "10.0.0.0/33", "up to 32"),
    (Kind.CIDR, "::/129", "up to 128"),
    (Kind.CIDR, "10.0.0.0/255.0.0.0", "decimal number"),
    (Kind.CIDR, "10.0.0.0/", "decimal number"),
    (Kind.CIDR, "010.0.0.0/8", "leading zero"),
    (Kind.CIDR, "fe80::%eth0/64", "zone"),
    (Kind.PORT, "", "1 to 65535"),
    (Kind.PORT, "0", "1 to 65535"),
    (Kind.PORT, "65536", "1 to 65535"),
    (Kind.PORT, "022", "leading zeros"),
    (Kind.PORT, "ssh", "1 to 65535"),
    (Kind.PORT, "22:sctp", "tcp, udp or any"),
    (Kind.PORT, "tcp:22", "port comes first"),
    (Kind.PORT, "22:tcp:bind", "direction"),
    (Kind.IP_PORT, "10.0.0.1", "1 to 65535"),
    (Kind.IP_PORT, "2001:db8::1:443", "brackets"),
    (Kind.IP_PORT, "[2001:db8::1]", r"\[2001:db8::1\]:443"),
    (Kind.IP_PORT, "[2001:db8::1:443", r"\[2001:db8::1\]:443"),
    (Kind.IP_PORT, "[10.0.0.1]:443", "brackets"),
    (Kind.IP_PORT, "10.0.0.1:443:tcp:bind", "brackets"),
    (Kind.IP_PORT, "[::1]:443:tcp:bind", "ip:port"),
]


@pytest.mark.parametrize(("kind", "text", "expected"), CANONICAL)
def test_a_target_is_folded_to_its_canonical_text(kind: Kind, text: str, expected: str) -> None:
    assert targets.canonical(kind, text) == expected
    assert targets.canonical(kind, expected) == expected


@pytest.mark.parametrize(("kind", "text", "why"), REFUSED)
def test_what_is_no_target_is_refused_with_a_reason(kind: Kind, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        targets.canonical(kind, text)


@pytest.mark.parametrize(
    ("text", "operations"),
    [
        ("22", Op.EGRESS | Op.BIND),
        ("22:tcp", Op.EGRESS | Op.BIND),
        ("22:tcp:both", Op.EGRESS | Op.BIND),
        ("22:tcp:egress", Op.EGRESS),
        ("22:tcp:connect", Op.EGRESS),
        ("22:tcp:bind", Op.BIND),
    ],
)
def test_the_direction_of_a_port_says_what_is_denied(text: str, operations: Op) -> None:
    assert targets.port_rule(text)[1] == operations


@pytest.mark.parametrize("text", ["22:tcp:out", "22:tcp:", "22:tcp:bind:x", "tcp:22:egress"])
def test_a_port_rule_with_a_wrong_tail_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"direction|port"):
        targets.port_rule(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/system.slice/", "/system.slice"),
        ("system.slice", "/system.slice"),
        ("/", "/"),
        ("cgid:42", "cgid:42"),
        ("cgid: 42", "cgid:42"),
    ],
)
def test_a_cgroup_is_a_path_from_the_cgroup_root_or_a_number(text: str, expected: str) -> None:
    assert targets.cgroup(text) == expected


@pytest.mark.parametrize("text", ["", "cgid:", "cgid:x", "cgid:0", "/a/../b", "cgid:" + "9" * 20])
def test_what_is_no_cgroup_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cgroup|cgid|path"):
        targets.cgroup(text)


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("22:tcp", ("", 22, "tcp")),
        ("10.0.0.1:443:any", ("10.0.0.1", 443, "any")),
        ("[2001:db8::1]:53:udp", ("2001:db8::1", 53, "udp")),
    ],
)
def test_ports_come_apart(target: str, parts: tuple[str, int, str]) -> None:
    assert targets.split_ports(target) == parts


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.sampled_from(list(Kind)), st.data())
def test_canonical_text_is_left_as_it_is(kind: Kind, data: st.DataObject) -> None:
    target = data.draw(given_.TARGETS[kind])
    assert targets.canonical(kind, target) == target


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    st.sampled_from(list(Kind)), st.text(max_size=30) | st.text("0123456789.:/[]a%tcp", max_size=20)
)
def test_any_text_is_a_target_or_refused(kind: Kind, text: str) -> None:
    try:
        target = targets.canonical(kind, text)
    except ValueError:
        return
    assert targets.canonical(kind, target) == target
