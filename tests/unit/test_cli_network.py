"""What the options of ``network deny`` mean."""

from __future__ import annotations

import argparse

import pytest

from aegis_tools.cli.main import parser_of
from aegis_tools.cli.network import make_rules, targets
from aegis_tools.errors import UsageError
from aegis_tools.policy.model import NET_OPS, Kind, Mode, Op, Signal


def parse(*options: str) -> argparse.Namespace:
    return parser_of("network").parse_args(["deny", "add", *options])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("--ip 10.0.0.1", (Kind.IP, "10.0.0.1")),
        ("--ip ::ffff:10.0.0.1", (Kind.IP, "10.0.0.1")),
        ("--cidr 2001:DB8::/32", (Kind.CIDR, "2001:db8::/32")),
        ("--port 22", (Kind.PORT, "22:any")),
        ("--port 22 --protocol tcp", (Kind.PORT, "22:tcp")),
        ("--port 22:udp", (Kind.PORT, "22:udp")),
        ("--ip-port 10.0.0.1:443", (Kind.IP_PORT, "10.0.0.1:443:any")),
        ("--ip-port 10.0.0.1:443 --protocol tcp", (Kind.IP_PORT, "10.0.0.1:443:tcp")),
        ("--ip-port [::1]:443 --protocol udp", (Kind.IP_PORT, "[::1]:443:udp")),
        ("--ip-port [::1]:443:udp", (Kind.IP_PORT, "[::1]:443:udp")),
    ],
)
def test_an_option_names_a_target(options: str, wanted: tuple[Kind, str]) -> None:
    assert targets(parse(*options.split())) == [wanted]


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--protocol tcp",
        "--ip 10.0.0.256",
        "--cidr 10.0.0.1/8",
        "--port 0",
        "--port 22:tcp --protocol tcp",
        "--ip-port 10.0.0.1:443:tcp --protocol tcp",
        "--ip-port ::1:443",
        "--direction sideways --port 1",
    ],
)
def test_a_target_that_is_none_is_refused(options: str) -> None:
    with pytest.raises(UsageError):
        make_rules(parse(*options.split()))


def test_a_port_is_denied_both_ways_and_an_address_outwards_unless_said() -> None:
    port, address = make_rules(parse("--port", "22", "--ip", "::1"))[::-1]
    assert (port.operations, address.operations) == (NET_OPS, Op.EGRESS)
    rule = make_rules(parse("--port", "22", "--direction", "bind", "--signal", "kill",
                            "--mode", "audit"))[0]  # fmt: skip
    assert (rule.operations, rule.signal, rule.mode) == (Op.BIND, Signal.KILL, Mode.AUDIT)
    assert rule.id == "manual:port:22:any"
