"""Take secrets out of what is kept of an incident: it is read by people the host does not know.

What cannot be told from other text, a password typed as a bare word for one, cannot be found here:
so command lines and environments of processes are never collected in the first place.
"""

from __future__ import annotations

import re

GONE = "[redacted]"

_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"client[_-]?key|credentials?|session[_-]?id|cookie"
)
_NAMED = rf"(?<![/\w.-])[\w.-]*(?:{_NAMES})[\w-]*"
_VALUE = r"(?:\"(?:[^\"\\]|\\.){1,4096}\"?|'[^']{1,4096}'?|[^\s\"',;&\\]{1,4096})"
_PATTERNS = (
    # A key that was cut off at the end is a key all the same.
    (r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY( BLOCK)?-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)",
     f"{GONE} private key"),
    (r"aegis-ed25519-private[^\n\\]{0,200}(?:\\n|\r?\n)?\s*[A-Za-z0-9+/=]{0,64}",
     f"{GONE} signing key"),
    (r"\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:basic|bearer|digest)\s+)?[^\s\"',;]+",
     rf"\1{GONE}"),
    (r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", rf"\1 {GONE}"),
    (r"([a-z][a-z0-9+.-]{1,20}://[^/\s:@]{0,256}):[^/\s]{1,1024}@", rf"\1:{GONE}@"),
    # As curl takes it; a number is a group's.
    (r"((?<!\S)(?:-[uU]|--(?:proxy-)?user)(?:\s+|=)[\"']?[^\s:\"'/]{1,256}):(?!\d+(?:\s|$))[^\s\"']{1,1024}",
     rf"\1:{GONE}"),
    (rf"({_NAMED}\\?[\"']?\s{{0,4}}[=:]\s{{0,4}}(?:\\\")?){_VALUE}", rf"\1{GONE}"),
    (rf"((?<!\S)--?[\w-]*(?:{_NAMES})[\w-]*\s+)(?!-){_VALUE}", rf"\1{GONE}"),
    (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[a-z]-[A-Za-z0-9-]{10,}"
     r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*", GONE),
)  # fmt: skip
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), instead) for pattern, instead in _PATTERNS
)
_SECRET_NAME = re.compile(rf"[\w.-]*(?:{_NAMES})[\w-]*", re.IGNORECASE)
_NEVER = frozenset({"env", "environ", "environment", "argv", "cmdline_of_process"})


def redact(text: str) -> str:
    """Return a text without what looks like a secret."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text


def names_secret(key: str) -> bool:
    """Return whether a text under this name is a secret: ``password``, ``DB_TOKEN``, ``env``."""
    return key.lower() in _NEVER or bool(_SECRET_NAME.fullmatch(key))
