"""The node's configuration: a TOML file, flags over it, checked before anything starts.

Each section of the file is one dataclass here, each key one field; a key that is none of them is refused.
"""

from __future__ import annotations

import ipaddress
import socket
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

from l2s.errors import InputError

AE_LENGTH = 16  # PS3.5 6.2: an AE title has 1 to 16 printable ASCII characters, no backslash
PDU_BYTES = (4096, 2**20)


@dataclass(frozen=True)
class Listen:
    """Who may send what to where.

    Attributes:
        ae: this node's AE title; a caller that asks for another is refused.
        host: address to listen on.
        port: TCP port.
        allow_ae: calling AE titles that are let in; empty: all (on loopback only).
        allow_addresses: addresses or networks ('10.1.2.0/24') that are let in; empty: all (on loopback only).
        tls_cert, tls_key: PEM files; with both, only TLS (1.2 or newer) is spoken.
        tls_ca: PEM file; callers must show a certificate that it signed (mutual TLS).
    """

    ae: str = "L2S"
    host: str = "127.0.0.1"
    port: int = 11112
    allow_ae: tuple[str, ...] = ()
    allow_addresses: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None


@dataclass(frozen=True)
class Limits:
    """What a caller may use up.

    Attributes:
        pdu_bytes: the longest P-DATA unit that is announced to callers.
        instance_mib: the largest instance; a longer one ends its association while it comes in.
        study_gib, study_instances: the largest study; what exceeds it is answered with A700.
        associations: at the same time; a further one is rejected (temporary congestion).
        free_disk_gib: below it instances are answered with A700 and no segmentation is begun.
        network_s: a connection silent for so long is closed.
    """

    pdu_bytes: int = 131072
    instance_mib: float = 64.0
    study_gib: float = 8.0
    study_instances: int = 20000
    associations: int = 8
    free_disk_gib: float = 5.0
    network_s: float = 60.0


@dataclass(frozen=True)
class Segment:
    """When and how a study is segmented.

    Attributes:
        quiet_s: a study is complete when no instance of it came for so long and no association that sent one is open.
        timeout_s: a segmentation that runs longer is killed and counts as failed.
        attempts: runs of a study whose process is killed or crashes; bad input (exit 2) is not tried again.
        interruptions: a study that was running at so many deaths of the node goes to failed/.
        flags: further flags of `l2s segment`.
    """

    quiet_s: float = 60.0
    timeout_s: float = 3600.0
    attempts: int = 2
    interruptions: int = 10
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Destination:
    """Where results go.

    Attributes:
        ae, host, port: of the receiving node.
        retry_s: wait after the first failure; it doubles with each further one...
        retry_max_s: ...up to this.
        refusals: a result that the destination itself refused so often sends the study to failed/. Silence is no refusal.
        tls_ca: PEM file; with it TLS is spoken, and the destination's certificate must be signed by it.
        tls_cert, tls_key: PEM files of our own certificate (mutual TLS).
        tls_name: name in the destination's certificate; empty: host.
    """

    ae: str
    host: str
    port: int
    retry_s: float = 5.0
    retry_max_s: float = 600.0
    refusals: int = 20
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_name: str = ""


@dataclass(frozen=True)
class Retention:
    """Attributes:
    delete_received_h: hours after its results were sent at which a study's received images are deleted; None: never.
    """

    delete_received_h: float | None = None


@dataclass(frozen=True)
class Config:
    """All of it. spool: the folder in which everything lies; destination None: results stay in the spool."""

    spool: Path
    listen: Listen = field(default_factory=Listen)
    limits: Limits = field(default_factory=Limits)
    segment: Segment = field(default_factory=Segment)
    destination: Destination | None = None
    retention: Retention = field(default_factory=Retention)


SECTIONS = {"listen": Listen, "limits": Limits, "segment": Segment, "destination": Destination, "retention": Retention}
KINDS = {
    "str": (str, "a text"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float), "a number"),
    "Path | None": (str, "a path"),
    "tuple[str, ...]": (list, "a list of texts"),
}


def load(file: Path | None, flags: dict[str, object]) -> Config:
    """The configuration of a TOML file with flags over it.

    Args:
        file: None: flags alone. Relative paths in it are relative to its folder.
        flags: 'spool' or 'section.key' -> value; None is a flag not given.

    Raises:
        InputError: the file cannot be read, a key is unknown, a value has the wrong kind or does not hold (see check).
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8")) if file else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML: {error}") from None
    base = file.resolve().parent if file else Path.cwd()
    unknown = sorted(set(content) - set(SECTIONS) - {"spool"})
    if unknown:
        raise InputError(f"{file}: unknown key {unknown[0]!r}; known are spool and the sections {', '.join(SECTIONS)}")
    given: dict[str, dict[str, object]] = {}
    for name, section in SECTIONS.items():
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise InputError(f"{file}: {name} is {table!r}; a section [{name}] is expected")
        given[name] = {key: _value(section, name, key, value, base, file) for key, value in table.items()}
    for key, value in flags.items():
        if value is not None and "." in key:
            given[key.split(".")[0]][key.split(".")[1]] = value
    spool = flags.get("spool") or content.get("spool")
    if not spool or not isinstance(spool, str | Path):
        raise InputError('no spool folder: name one with --spool DIR or `spool = "DIR"` in the file')
    destination = None
    if given["destination"]:
        lacking = [key for key in ("ae", "host", "port") if key not in given["destination"]]
        if lacking:
            raise InputError(f"[destination] lacks {lacking[0]}; it needs ae, host and port (--destination AE@HOST:PORT)")
        destination = Destination(**given["destination"])
    config = Config(
        Path(spool) if flags.get("spool") else base / spool,
        Listen(**given["listen"]),
        Limits(**given["limits"]),
        Segment(**given["segment"]),
        destination,
        Retention(**given["retention"]),
    )
    check(config)
    return config


def _value(section, name: str, key: str, value: object, base: Path, file: Path | None) -> object:
    """A value of the file as its field's type."""
    kinds = {f.name: f.type for f in fields(section)}
    if key not in kinds:
        raise InputError(f"{file}: [{name}] has no key {key!r}; known are {', '.join(kinds)}")
    types, said = KINDS[kinds[key]]
    if not isinstance(value, types) or isinstance(value, bool) or (types is list and not all(isinstance(v, str) for v in value)):
        raise InputError(f"{file}: {name}.{key} is {value!r}; {said} is expected")
    if kinds[key] == "Path | None":
        return base / str(value)
    return tuple(value) if isinstance(value, list) else value


def parse_destination(text: str) -> dict[str, object]:
    """'AE@HOST:PORT' as ae, host, port; an IPv6 address stands in brackets.

    Raises:
        InputError: it has another form.
    """
    ae, at, place = text.partition("@")
    host, colon, port = place.rpartition(":")
    if not (at and colon and ae and host and port.isdigit()):
        raise InputError(f"--destination {text!r}: AE@HOST:PORT is expected, such as PACS@10.1.2.3:104")
    return {"ae": ae, "host": host.removeprefix("[").removesuffix("]"), "port": int(port)}


def check(config: Config) -> None:
    """Raises InputError for a value out of its range, or a listener that would be open to everybody."""
    listen, destination = config.listen, config.destination
    titles = [("listen.ae", listen.ae), *(("listen.allow_ae", title) for title in listen.allow_ae)]
    ports = [("listen.port", listen.port)]
    pairs = [("listen", listen.tls_cert, listen.tls_key)]
    if destination:
        titles.append(("destination.ae", destination.ae))
        ports.append(("destination.port", destination.port))
        pairs.append(("destination", destination.tls_cert, destination.tls_key))
    for name, title in titles:
        if not (title.strip() and len(title) <= AE_LENGTH and title.isascii() and title.isprintable() and "\\" not in title):
            raise InputError(f"{name} {title!r}: an AE title has 1 to {AE_LENGTH} printable ASCII characters and no backslash")
    for name, port in ports:
        if not 1 <= port <= 65535:
            raise InputError(f"{name} {port}: 1 to 65535")
    for name, cert, key in pairs:
        if bool(cert) != bool(key):
            raise InputError(f"{name}: tls_cert and tls_key go together; give both or none")
    if listen.tls_ca and not listen.tls_cert:
        raise InputError("listen.tls_ca without tls_cert and tls_key: the listener speaks no TLS; give them, too")
    if destination and destination.tls_cert and not destination.tls_ca:
        raise InputError("destination.tls_cert without tls_ca: TLS to the destination is not verified; give its CA")
    if config.retention.delete_received_h is not None and not destination:
        raise InputError("retention.delete_received_h without a destination: nothing is ever sent; give one or leave it out")
    networks(listen.allow_addresses)
    if not is_loopback(listen.host) and not (listen.allow_ae and listen.allow_addresses):
        raise InputError(
            f"listen.host {listen.host} is not loopback: name who may send, by --allow-ae and --allow-address, or listen on 127.0.0.1"
        )
    _check_numbers(config)


def _check_numbers(config: Config) -> None:
    low, high = PDU_BYTES
    if not low <= config.limits.pdu_bytes <= high:
        raise InputError(f"limits.pdu_bytes {config.limits.pdu_bytes}: {low} to {high}")
    above_zero = [("limits", f.name, getattr(config.limits, f.name)) for f in fields(Limits) if f.name != "free_disk_gib"]
    above_zero += [("segment", key, getattr(config.segment, key)) for key in ("timeout_s", "attempts", "interruptions")]
    zero_or_more = [
        ("limits", "free_disk_gib", config.limits.free_disk_gib),
        ("segment", "quiet_s", config.segment.quiet_s),
        ("retention", "delete_received_h", config.retention.delete_received_h or 0),
    ]
    if config.destination:
        above_zero += [("destination", key, getattr(config.destination, key)) for key in ("retry_s", "retry_max_s", "refusals")]
    for section, key, value in above_zero:
        if not 0 < value < float("inf"):
            raise InputError(f"{section}.{key} {value}: above 0")
    for section, key, value in zero_or_more:
        if not 0 <= value < float("inf"):
            raise InputError(f"{section}.{key} {value}: 0 or more")


def networks(addresses: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The allow-list as networks.

    Raises:
        InputError: an entry is no address and no network.
    """
    found = []
    for text in addresses:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise InputError(
                f"listen.allow_addresses {text!r}: an address or a network such as 10.1.2.0/24 is expected ({error})"
            ) from None
    return tuple(found)


def allowed(address: str, among: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> bool:
    """Whether a caller's address is let in; an empty list lets all in. IPv4 in IPv6's clothes counts as IPv4."""
    caller = ipaddress.ip_address(address.partition("%")[0])
    caller = getattr(caller, "ipv4_mapped", None) or caller
    return not among or any(caller in network for network in among)


def is_loopback(host: str) -> bool:
    """Whether every address that host stands for is a loopback one.

    Raises:
        InputError: it stands for none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"listen.host {host!r}: {error.strerror}; give an address of this machine") from None
    return all(ipaddress.ip_address(entry[4][0].partition("%")[0]).is_loopback for entry in found)
