"""The configuration: what a file and flags make, and what is refused in one line."""

from dataclasses import fields
from pathlib import Path

import pytest

from l2s.errors import InputError
from l2s.serve import config
from l2s.serve.config import Config, Destination, Limits, Listen

WHOLE = """
spool = "spool"
[listen]
ae = "NODE"
host = "0.0.0.0"
port = 104
allow_ae = ["CT1", "PET1"]
allow_addresses = ["10.1.2.0/24", "10.9.9.9"]
tls_cert = "node.crt"
tls_key = "/keys/node.key"
[limits]
instance_mib = 32
associations = 2
[segment]
quiet_s = 5
flags = ["--device", "cpu"]
[destination]
ae = "PACS"
host = "pacs.example"
port = 11113
retry_s = 1.5
[retention]
delete_received_h = 48
"""


def load(tmp_path: Path, text: str = "", **flags) -> Config:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return config.load(file, {key.replace("__", "."): value for key, value in flags.items()})


def test_a_whole_file(tmp_path):
    c = load(tmp_path, WHOLE)
    assert c.spool == tmp_path / "spool"
    assert c.listen == Listen(
        "NODE", "0.0.0.0", 104, ("CT1", "PET1"), ("10.1.2.0/24", "10.9.9.9"), tmp_path / "node.crt", Path("/keys/node.key")
    )
    assert c.limits == Limits(instance_mib=32, associations=2)
    assert (c.segment.quiet_s, c.segment.flags) == (5, ("--device", "cpu"))
    assert c.destination == Destination("PACS", "pacs.example", 11113, retry_s=1.5)
    assert c.retention.delete_received_h == 48


def test_flags_go_over_the_file(tmp_path):
    c = load(tmp_path, WHOLE, spool=Path("elsewhere"), listen__port=105, listen__ae=None)
    assert (c.spool, c.listen.port, c.listen.ae) == (Path("elsewhere"), 105, "NODE")


def test_flags_alone():
    c = config.load(None, {"spool": Path("s")})
    assert (c.listen.host, c.listen.port, c.destination, c.retention.delete_received_h) == ("127.0.0.1", 11112, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--spool"),
        ("spool = 3", "--spool"),
        ("spool = 's'\nport = 3", "unknown key 'port'"),
        ("spool = 's'\nlisten = 3", "a section"),
        ("spool = 's'\n[listen]\nprot = 3", "no key 'prot'"),
        ("spool = 's'\n[listen]\nport = '3'", "a whole number"),
        ("spool = 's'\n[listen]\nport = true", "a whole number"),
        ("spool = 's'\n[listen]\nport = 0", "1 to 65535"),
        ("spool = 's'\n[listen]\nallow_ae = 'CT1'", "a list of texts"),
        ("spool = 's'\n[listen]\nallow_ae = [1]", "a list of texts"),
        ("spool = 's'\n[listen]\nae = 'SEVENTEEN_LETTERS'", "1 to 16"),
        ("spool = 's'\n[listen]\nae = ' '", "1 to 16"),
        ("spool = 's'\n[listen]\nae = 'a\\\\b'", "backslash"),
        ("spool = 's'\n[listen]\nallow_addresses = ['10.1.2.3/24']", "10.1.2.3/24"),
        ("spool = 's'\n[listen]\nallow_addresses = ['scanner']", "'scanner'"),
        ("spool = 's'\n[listen]\nhost = '0.0.0.0'", "not loopback"),
        ("spool = 's'\n[listen]\nhost = '::'\nallow_ae = ['CT1']", "not loopback"),
        ("spool = 's'\n[listen]\nhost = '0.0.0.0'\nallow_addresses = ['10.0.0.0/8']", "not loopback"),
        ("spool = 's'\n[listen]\nhost = 'no.such.host.invalid'", "no.such.host.invalid"),
        ("spool = 's'\n[listen]\ntls_cert = 'c'", "go together"),
        ("spool = 's'\n[listen]\ntls_ca = 'c'", "speaks no TLS"),
        ("spool = 's'\n[destination]\nae = 'PACS'", "lacks host"),
        ("spool = 's'\n[destination]\nae = 'P'\nhost = 'h'\nport = 1\nretry_s = 0", "above 0"),
        ("spool = 's'\n[destination]\nae = 'P'\nhost = 'h'\nport = 1\ntls_cert = 'c'\ntls_key = 'k'", "without tls_ca"),
        ("spool = 's'\n[limits]\nassociations = 0", "associations 0: above 0"),
        ("spool = 's'\n[limits]\npdu_bytes = 100", "4096 to"),
        ("spool = 's'\n[limits]\ninstance_mib = nan", "above 0"),
        ("spool = 's'\n[segment]\nquiet_s = -1", "0 or more"),
        ("spool = 's'\n[retention]\ndelete_received_h = 1", "without a destination"),
        ("spool = 's'\n[listen", "no TOML"),
    ],
)
def test_what_is_refused(tmp_path, text, said):
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("PACS@10.1.2.3:104", ("PACS", "10.1.2.3", 104)), ("P@[::1]:11112", ("P", "::1", 11112)), ("A@b.c:1", ("A", "b.c", 1))],
)
def test_a_destination(text, parts):
    assert config.parse_destination(text) == dict(zip(("ae", "host", "port"), parts))


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "@host:1", "PACS@:1", "PACS@host:x", "host:104"])
def test_what_is_no_destination(text):
    with pytest.raises(InputError, match="AE@HOST:PORT"):
        config.parse_destination(text)


@pytest.mark.parametrize(
    ("address", "let_in"),
    [
        ("10.1.2.3", True),
        ("10.1.3.3", False),
        ("::ffff:10.1.2.3", True),  # IPv4 on a socket that speaks both
        ("::ffff:10.1.3.3", False),
        ("fe80::1%eth0", True),
        ("fe81::1", False),
    ],
)
def test_the_allow_list(address, let_in):
    among = config.networks(("10.1.2.0/24", "fe80::1"))
    assert config.allowed(address, among) is let_in
    assert config.allowed(address, ())


def test_the_page_names_every_key():
    page = (Path(__file__).resolve().parents[2] / "docs" / "serve.md").read_text()
    for name, section in config.SECTIONS.items():
        assert f"[{name}]" in page
        for field in fields(section):
            assert f"`{field.name}`" in page, f"docs/serve.md lacks {name}.{field.name}"
