"""`l2s serve`: a DICOM node that segments what it is sent."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path

from l2s.commands import segment
from l2s.commands.dicom_options import add_dicom_options
from l2s.errors import InputError


class Refusing(argparse.ArgumentParser):
    """A parser that raises InputError where argparse prints its usage and ends the process."""

    def error(self, message: str):
        raise InputError(f"further flags of l2s segment: {message}; l2s segment --help lists them")


def add(commands: argparse._SubParsersAction) -> None:
    serve = commands.add_parser(
        "serve", help="a DICOM node: receive studies, segment, send results on", description=run_serve.__doc__, allow_abbrev=False
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="TOML file (docs/serve.md); flags go over it")
    serve.add_argument("--spool", type=Path, metavar="DIR", help="folder for everything that is received and made")
    serve.add_argument("--ae", metavar="TITLE", help="own AE title (default L2S)")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (default 11112)")
    serve.add_argument(
        "--allow-ae", action="append", metavar="TITLE", help="calling AE title to let in; may be given several times"
    )
    serve.add_argument(
        "--allow-address", action="append", metavar="NET", help="address or network to let in; may be given several times"
    )
    serve.add_argument("--destination", metavar="AE@HOST:PORT", help="where results are sent (default: nowhere)")
    serve.add_argument("--tls-cert", type=Path, metavar="PEM", help="speak TLS with this certificate")
    serve.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    serve.add_argument("--tls-ca", type=Path, metavar="PEM", help="callers must show a certificate signed by this one")
    serve.add_argument(
        "--quiet-s", type=float, metavar="S", help="a study is complete after so long without an instance (default 60)"
    )
    serve.add_argument("--delete-received-h", type=float, metavar="H", help="delete received images so long after sending")
    serve.add_argument("--check", action="store_true", help="check configuration, spool and destination (C-ECHO), then stop")
    serve.add_argument("--status", type=Path, metavar="DIR", help="list what lies in that spool, then stop")
    serve.add_argument("--json", action="store_true", help="with --status: print JSON")
    serve.add_argument("--retry", metavar="STUDY_UID", help="put a failed study of --spool back into its queue, then stop")
    serve.add_argument("segment_flags", nargs="*", metavar="-- FLAGS", help="after --: further flags of `l2s segment`")
    serve.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace) -> None:
    """Listen for PET/CT studies (DICOM C-STORE), segment each in a process of its own and send SEG, SR and RTSTRUCT on.

    Research use only: no medical device. Listens on loopback unless told otherwise.
    """
    if arguments.status:
        from l2s.serve import status

        found = status.read(arguments.status)
        print(json.dumps(found, indent=2) if arguments.json else status.as_text(found))
        return
    if arguments.json:
        raise InputError("--json goes with --status DIR")
    os.umask(0o077)  # before anything is written: the spool holds patients' images
    from l2s.serve import config as configuration

    config = configuration.load(arguments.config, flags_of(arguments))
    check_segment_flags(config.segment.flags)
    if arguments.retry:
        from l2s.serve import spool

        job = spool.retry(config.spool, arguments.retry)
        print(f"{job.study}: generation {job.generation} is tried again")
        return
    from l2s.serve import logs, node

    if arguments.check:
        check(config)
        return
    logs.start()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if node.run(config, stop=stop):
        sys.exit(1)


def flags_of(arguments: argparse.Namespace) -> dict[str, object]:
    """'section.key' -> value of the flags that were given."""
    from l2s.serve.config import parse_destination

    where = parse_destination(arguments.destination) if arguments.destination else {}
    return {
        "spool": arguments.spool,
        "listen.ae": arguments.ae,
        "listen.host": arguments.host,
        "listen.port": arguments.port,
        "listen.allow_ae": tuple(arguments.allow_ae) if arguments.allow_ae else None,
        "listen.allow_addresses": tuple(arguments.allow_address) if arguments.allow_address else None,
        "listen.tls_cert": arguments.tls_cert,
        "listen.tls_key": arguments.tls_key,
        "listen.tls_ca": arguments.tls_ca,
        "segment.quiet_s": arguments.quiet_s,
        "segment.flags": tuple(arguments.segment_flags) or None,
        "retention.delete_received_h": arguments.delete_received_h,
    } | {f"destination.{key}": value for key, value in where.items()}


def check_segment_flags(flags: tuple[str, ...]) -> None:
    """Raises InputError for further flags that l2s segment does not know, or that would give all studies one patient's facts.

    What takes the networks or the device to tell shows with the first study: the node itself loads neither.
    """
    from l2s import api
    from l2s.measure.lesions import Settings

    if "-h" in flags or "--help" in flags:
        raise InputError("further flags of l2s segment: --help segments nothing; leave it out")
    commands = Refusing(add_help=False).add_subparsers()
    segment.add(commands)
    parser, own = commands.choices["segment"], argparse.ArgumentParser()
    parser.set_defaults(format=None)
    add_dicom_options(own)
    given = parser.parse_args(["INPUT", "OUTDIR", *flags])
    for name in (*vars(own.parse_args([])), "uid_seed", "ct", "format"):
        if getattr(given, name) is not None:
            flag = next(word for word in flags if word.startswith(f"--{name.replace('_', '-')}")).partition("=")[0]
            why = "the node sends SEG, SR and RTSTRUCT" if name == "format" else "it would hold for every patient"
            raise InputError(f"further flags of l2s segment: {flag} cannot be given ({why}); leave it out")
    api.check(given, Settings(given.connectivity, given.min_volume_ml))


def check(config) -> None:
    """Prints what would run and whether its parts are there; a dead destination is an error.

    Raises:
        InputError: a TLS file does not hold, the spool cannot be used, the destination does not answer.
    """
    from l2s.serve import node, sender, spool

    listen = config.listen
    encrypted = ("mutual TLS" if listen.tls_ca else "TLS") if listen.tls_cert else "not encrypted"
    node.check_tls(config)
    print(f"listen        {listen.ae}@{listen.host}:{listen.port}, {encrypted}")
    print(
        f"callers       {', '.join(listen.allow_ae) or 'any AE title'} from {', '.join(listen.allow_addresses) or 'any address'}"
    )
    try:
        spool.prepare(config.spool)
        node.check_links(config.spool)
    except OSError as error:
        raise InputError(
            f"the spool {config.spool} cannot be used ({error.strerror}); give a folder that can be written"
        ) from None
    free = shutil.disk_usage(config.spool).free / 2**30
    low = free < config.limits.free_disk_gib
    print(f"spool         {config.spool}, {free:.1f} GiB free (at least {config.limits.free_disk_gib:g} are kept)")
    if low:
        raise InputError(
            f"{free:.1f} GiB are free, limits.free_disk_gib is {config.limits.free_disk_gib:g}: nothing would be accepted"
        )
    print(f"port          {'free' if port_is_free(listen.host, listen.port) else 'in use: by a running node?'}")
    print(
        f"segmentation  after {config.segment.quiet_s:g} s without an instance; further flags: {' '.join(config.segment.flags) or 'none'}"
    )
    if config.destination is None:
        print("destination   none: results stay in the spool")
        return
    where = f"{config.destination.ae}@{config.destination.host}:{config.destination.port}"
    if problem := sender.echo(listen.ae, config.destination):
        raise InputError(f"destination {where}: {problem}; check its address, its AE title and whether it knows {listen.ae}")
    print(f"destination   {where} answers C-ECHO{', TLS' if config.destination.tls_ca else ', not encrypted'}")


def port_is_free(host: str, port: int) -> bool:
    """Whether it could be listened on now."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
    return True
