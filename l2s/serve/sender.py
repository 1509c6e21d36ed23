"""The storage SCU: fixed results to the destination, until it has confirmed each. A resend carries the same UIDs.

A result counts as delivered when the destination answers its C-STORE with success or a warning. Storage commitment is not asked for.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from l2s.serve.config import Destination
from l2s.serve.spool import Result

TIMEOUT_S = 60.0
UNCOMPRESSED = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
OUT_OF_RESOURCES = 0xA7
JITTER = 0.2


@dataclass(frozen=True)
class Sending:
    """How a sending ended.

    Attributes:
        problem: one line; empty: all confirmed.
        refused: results that the destination understood and did not want.
    """

    problem: str = ""
    refused: int = 0


def client_tls(destination: Destination) -> tuple[ssl.SSLContext, str] | None:
    """pynetdicom's tls_args, or None where no TLS is spoken.

    Raises:
        OSError: a file cannot be read or is no PEM (ssl.SSLError).
    """
    if not destination.tls_ca:
        return None
    context = ssl.create_default_context(cafile=destination.tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if destination.tls_cert:
        context.load_cert_chain(destination.tls_cert, destination.tls_key)
    return context, destination.tls_name or destination.host


def associate(ae_title: str, destination: Destination, contexts: list):
    """An association, established or not."""
    ae = AE(ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = TIMEOUT_S
    return ae.associate(
        destination.host, destination.port, contexts=contexts, ae_title=destination.ae, tls_args=client_tls(destination)
    )


def why_not(association) -> str:
    """Why an association was not established, in words."""
    if association.is_rejected:
        answer = association.acceptor.primitive
        return f"the destination rejected the association: {answer.reason_str}"
    return "no association: the destination is not there, or ended it"


def echo(ae_title: str, destination: Destination) -> str:
    """Asks the destination whether it is there (C-ECHO); the problem, or an empty text."""
    association = associate(ae_title, destination, [build_context(Verification)])
    if not association.is_established:
        return why_not(association)
    status = association.send_c_echo()
    association.release()
    answer = status.get("Status")
    return "" if answer == 0 else f"C-ECHO was answered with {'nothing' if answer is None else f'{answer:04X}'}"


def send(
    ae_title: str, destination: Destination, folder: Path, results: list[Result], confirmed: Callable[[Result], None]
) -> Sending:
    """Sends folder/SOP.dcm of each result over one association; what is refused does not hold up the rest.

    Args:
        confirmed: called after each answer of success; it returns when that is on disk.
    """
    association = associate(ae_title, destination, contexts_of(results))
    if not association.is_established:
        return Sending(why_not(association))
    problem, refused = "", 0
    try:
        for result in results:
            try:
                dataset = pydicom.dcmread(folder / f"{result.sop_instance}.dcm")
                status = association.send_c_store(dataset).get("Status")
            except (ValueError, AttributeError, InvalidDicomError) as error:  # no context for it, or not to be encoded for it
                problem, refused = f"{result.sop_class} cannot be sent to it ({type(error).__name__})", refused + 1
                continue
            except RuntimeError:  # the association ended between two results
                return Sending("the destination ended the association", refused)
            if status is None:
                return Sending("the destination ended the association", refused)
            if status == 0 or status >> 12 == 0xB:
                confirmed(result)
                continue
            problem = f"the destination answered {result.sop_class} with {status:04X}"
            refused += status >> 8 != OUT_OF_RESOURCES
    finally:
        if association.is_established:
            association.release()
    return Sending(problem, refused)


def contexts_of(results: list[Result]) -> list:
    """Presentation contexts: each class as it is encoded on disk, and uncompressed, which pynetdicom can turn it into."""
    contexts = []
    for sop_class in dict.fromkeys(result.sop_class for result in results):
        syntaxes = dict.fromkeys(r.transfer_syntax for r in results if r.sop_class == sop_class)
        contexts += [build_context(sop_class, syntax) for syntax in dict.fromkeys([*syntaxes, *UNCOMPRESSED])]
    return contexts


def wait_s(destination: Destination, failures: int) -> float:
    """Seconds to wait after so many failures in a row (1 or more): doubling up to the limit, spread by a fifth."""
    wait = min(destination.retry_s * 2.0 ** min(failures - 1, 60), destination.retry_max_s)
    return wait * random.uniform(1 - JITTER, 1 + JITTER)
