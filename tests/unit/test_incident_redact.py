"""Secrets do not get into what is kept of an incident."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.incident.content import bounded
from aegis_tools.incident.redact import redact

SECRET = "hunter2-s3cr3t"


@pytest.mark.parametrize(
    "line",
    [
        f"password={SECRET}",
        f"DB_PASSWORD: {SECRET}",
        f'{{"password": "{SECRET}", "user": "ann"}}',
        f'{{\\"password\\": \\"{SECRET}\\"}}',
        f"passwd = '{SECRET}'",
        f"mysqld --password {SECRET} --port 1",
        f"curl --api-key={SECRET}",
        f"X-Api-Key: {SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization=Basic {SECRET}",
        f"https://ann:{SECRET}@example.net/x",
        f"postgres://ann:p@x:{SECRET}@db/x",
        f"curl -u ann:{SECRET} http://127.0.0.1/health",
        f"curl --user 'ann:{SECRET}' http://127.0.0.1/health",
        f"curl --proxy-user=ann:{SECRET} http://127.0.0.1/health",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"client_secret={SECRET}",
        f"token={SECRET};",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\\n{SECRET}\\n-----END RSA PRIVATE KEY-----",
        "aegis-ed25519-private ann\naHVudGVyMi1zM2NyM3QAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "AKIAABCDEFGHIJKLMNOP",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
        f"Cookie: {SECRET}",
        f"PGPASSWORD={SECRET} pg_dump",
    ],
)
def test_a_secret_goes(line: str) -> None:
    found = redact(f"before\n{line}\n")
    for secret in (SECRET, "aHVudGVy", "AKIAABCD", "abcdefghijklm", "eyJzdWIi"):
        assert secret not in found
    assert found.startswith("before\n")
    assert "[redacted]" in found


@pytest.mark.parametrize(
    "line",
    [
        "refused: cat (app.service) read /srv/app/secret, 14 times",
        "/srv/app/secret: permission denied",
        "rule deny-password-files matched 12 times",
        "journalctl -u nginx.service: permission denied",
        "docker run -u 1000:1000 image",
        "http://127.0.0.1:8080/health mails to ann@example.net",
        "signed by 0123456789abcdef, keyid 42",
        "deny_inode_map: 65536/65536 entries (100% full)",
        "lsm=lockdown,yama,bpf root=UUID=1 aegisbpf.disable=1",
        "-----BEGIN PUBLIC KEY-----",
        "aegis-ed25519 c29tZXRoaW5n ann",
    ],
)
def test_evidence_stays(line: str) -> None:
    assert redact(line) == line


def test_a_text_of_a_secret_name_goes_and_a_number_stays() -> None:
    found = bounded({"api_token": SECRET, "environ": {"A": SECRET}, "tokens": 3, "/srv/secret": 4})
    assert SECRET not in str(found)
    assert found["tokens"] == 3
    assert found["/srv/secret"] == 4


@given(st.text())
def test_redacting_anything_ends_and_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
