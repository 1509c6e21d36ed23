"""The storage SCP: who is let in, what is accepted, and the status that each instance is answered with.

C-STORE of PET and CT images and C-ECHO. Success is answered only after Intake.take has put the instance on disk.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
import threading
import time
from io import BytesIO

import pydicom
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import CTImageStorage, PositronEmissionTomographyImageStorage, Verification
from pynetdicom.transport import ThreadedAssociationServer

from l2s.serve import config as configuration
from l2s.serve.config import Config
from l2s.serve.intake import Intake, Refusal, is_uid
from l2s.serve.logs import say, warn

MIB = 2**20
# The first one that a caller offers for a context is taken. Deflated is left out: a small instance could inflate to any size.
TRANSFER_SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    JPEG2000,
    HTJ2K,
]
STORED = (PositronEmissionTomographyImageStorage, CTImageStorage)

# PS3.4 B.2.3 and PS3.7 9.1.1.1.9
SUCCESS = 0x0000
INVALID_INSTANCE = 0x0117
OUT_OF_RESOURCES = 0xA700
NOT_ITS_CLASS = 0xA900
NOT_UNDERSTOOD = 0xC000

MAX_PDU_BYTES = 2 * MIB  # also of those whose length is not negotiated, such as a long A-ASSOCIATE-RQ
WAITING_CONNECTIONS = 32  # beyond limits.associations: those that have not said who they are, or are rejected in words
REQUEST_S = (
    10.0  # a connection that does not ask for an association is closed, and before that one whose TLS handshake is not done
)
CLOSE_S = 3.0
SHOWN = 4
DIGEST_DIGITS = 24
HEAD = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"]


class Server(ThreadedAssociationServer):
    """pynetdicom's server with the address checked before a word is spoken, and no client that could hold it up by silence."""

    among: tuple = ()
    connections: int = 1
    silence_s: float = 60.0
    handshake_s: float = REQUEST_S
    tls: ssl.SSLContext | None = None
    opening: int = 0  # connections that were let in and are no association yet, which pynetdicom does not count
    counting = threading.Lock()

    def verify_request(self, request, client_address) -> bool:
        """Whether the connection is kept (see socketserver.BaseServer)."""
        reason = ""
        if not configuration.allowed(client_address[0], self.among):
            reason = "listen.allow_addresses"
        else:
            with self.counting:
                if self.opening + len(self.active_associations) >= self.connections:
                    reason = "too many connections"
                else:
                    self.opening += 1
        if reason:
            warn("rejected", {"address": client_address[0], "reason": reason})
        return not reason

    def get_request(self) -> tuple[socket.socket, tuple]:
        connection, address = super().get_request()
        connection.settimeout(self.silence_s)
        return connection, address

    def process_request(self, request, client_address) -> None:
        """Starts the connection's thread."""
        try:
            super().process_request(request, client_address)
        except Exception:  # there is no thread: whatever stopped it, the connection must not count for ever
            self._opened()
            raise

    def process_request_thread(self, request, client_address) -> None:
        """Runs in the connection's own thread, so that a slow TLS handshake holds up nobody else."""
        try:
            if self.tls:
                request.settimeout(self.handshake_s)  # of the whole handshake, however many pieces it comes in
                try:
                    request = self.tls.wrap_socket(request, server_side=True)
                except OSError as error:  # ssl.SSLError is one
                    warn("rejected", {"address": client_address[0], "reason": f"TLS: {getattr(error, 'reason', None) or error}"})
                    self.shutdown_request(request)
                    return
                request.settimeout(self.silence_s)
            super().process_request_thread(request, client_address)
        finally:
            self._opened()

    def _opened(self) -> None:
        """A connection became an association, or has gone."""
        with self.counting:
            self.opening -= 1


def server_tls(config: Config) -> ssl.SSLContext | None:
    """The listener's TLS, or None where it speaks none.

    Raises:
        OSError: a file cannot be read or is no PEM (ssl.SSLError).
    """
    listen = config.listen
    if not listen.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(listen.tls_cert, listen.tls_key)
    if listen.tls_ca:
        context.load_verify_locations(listen.tls_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def start(config: Config, intake: Intake) -> Server:
    """Listens from now on, in threads. stop() ends it.

    Raises:
        OSError: the address cannot be listened on, or a TLS file not be read.
    """
    _config.LOG_HANDLER_LEVEL = "none"  # its own handlers print what the messages hold
    limits = config.limits
    ae = AE(config.listen.ae)
    ae.maximum_pdu_size = limits.pdu_bytes
    ae.maximum_associations = limits.associations + WAITING_CONNECTIONS  # pynetdicom counts silent connections: see on_requested
    ae.network_timeout = ae.dimse_timeout = limits.network_s
    ae.acse_timeout = min(REQUEST_S, limits.network_s)
    ae.require_called_aet = True
    ae.require_calling_aet = list(config.listen.allow_ae)
    for abstract in STORED:
        ae.add_supported_context(abstract, TRANSFER_SYNTAXES)
    ae.add_supported_context(Verification)
    handlers = [
        (evt.EVT_CONN_OPEN, on_open, [limits.instance_mib]),
        (evt.EVT_REQUESTED, on_requested, [limits.associations]),
        (evt.EVT_REJECTED, on_rejected),
        (evt.EVT_ESTABLISHED, on_established),
        (evt.EVT_CONN_CLOSE, on_close),
        (evt.EVT_C_ECHO, on_echo),
        (evt.EVT_C_STORE, on_store, [intake, limits.instance_mib]),
    ]
    tls = server_tls(config)
    family = socket.getaddrinfo(config.listen.host, config.listen.port, type=socket.SOCK_STREAM)[0]
    server = ae.make_server(family[4], evt_handlers=handlers, server_class=Server)
    server.among = configuration.networks(config.listen.allow_addresses)
    server.connections = limits.associations + WAITING_CONNECTIONS
    server.silence_s = limits.network_s
    server.handshake_s = min(REQUEST_S, limits.network_s)
    server.tls = tls
    ae._servers.append(server)  # as AE.start_server does: Server.shutdown takes it out again
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="listener", daemon=True).start()
    return server


def stop(server: Server) -> None:
    """Lets nobody in any more, gives open associations a moment to end, then aborts them: their senders will send again."""
    server.shutdown()
    deadline = time.monotonic() + CLOSE_S
    while any(assoc.is_established for assoc in server.active_associations) and time.monotonic() < deadline:
        time.sleep(0.05)
    server.ae.shutdown()


def on_open(event: evt.Event, instance_mib: float) -> None:
    """Bounds what a connection may have in memory: the unit being read, the instance being put together, the messages waiting.

    pynetdicom reads whatever length a caller announces. Closing the connection is the only answer in the middle of an instance.
    """
    assoc = event.assoc
    connection = assoc.dul.socket
    read = connection.recv
    state = {"bytes": 0}
    assoc.counts = {"stored": 0, "again": 0, "refused": 0}

    def limited(size: int) -> bytearray:
        state["bytes"] += size
        reason = ""
        if size > MAX_PDU_BYTES:
            reason = f"a unit of {size} bytes (at most {MAX_PDU_BYTES})"
        elif state["bytes"] > instance_mib * MIB + MAX_PDU_BYTES:
            reason = f"limits.instance_mib {instance_mib:g}"
        elif assoc.dimse.msg_queue.qsize() > 2:
            reason = "messages sent ahead of their answers"
        if reason:
            warn("closed", {"address": address_of(assoc), "reason": reason})
            raise OSError(reason)
        return read(size)

    connection.recv = limited
    assoc.bind(evt.EVT_DIMSE_RECV, lambda _: state.update(bytes=0))


def address_of(assoc) -> str:
    return assoc.requestor.address


def title_of(assoc) -> str:
    return str(assoc.requestor.ae_title).strip()


def on_requested(event: evt.Event, associations: int) -> None:
    """Rejects an association beyond the limit: transient, local limit exceeded (PS3.8 9.3.4)."""
    assoc = event.assoc
    if sum(other.is_established for other in assoc._server.active_associations) >= associations:
        assoc.acse.send_reject(0x02, 0x03, 0x02)
        assoc.requestor.ae_title = assoc.requestor.primitive.calling_ae_title
        on_rejected(event)
        assoc.kill()


def on_rejected(event: evt.Event) -> None:
    asked = str(event.assoc.requestor.primitive.called_ae_title).strip()
    warn(
        "rejected",
        {"address": address_of(event.assoc), "ae": title_of(event.assoc), "called": asked, "reason": "AE title or limit"},
    )


def on_established(event: evt.Event) -> None:
    refused = sorted({str(context.abstract_syntax) for context in event.assoc.rejected_contexts})
    if refused:  # some callers offer all classes that there are
        named = ",".join(refused[:SHOWN]) + (",..." if len(refused) > SHOWN else "")
        say("contexts_refused", {"ae": title_of(event.assoc), "count": len(refused), "sop_classes": named})


def on_close(event: evt.Event) -> None:
    counts = getattr(event.assoc, "counts", {})
    if any(counts.values()):
        say("association", {"address": address_of(event.assoc), "ae": title_of(event.assoc), **counts})


def on_echo(event: evt.Event) -> int:
    return SUCCESS


def on_store(event: evt.Event, intake: Intake, instance_mib: float) -> int:
    """The status of one C-STORE request."""
    status, reason = store(event, intake, instance_mib)
    if status:
        event.assoc.counts["refused"] += 1
        fields = {"address": address_of(event.assoc), "ae": title_of(event.assoc), "status": f"{status:04X}", "reason": reason}
        warn("refused", fields)
    return status


def store(event: evt.Event, intake: Intake, instance_mib: float) -> tuple[int, str]:
    """Reads the head of the instance, stores it; (status, reason where it is refused)."""
    request = event.request
    raw = request.DataSet.getvalue() if request.DataSet else b""
    if len(raw) > instance_mib * MIB:
        return OUT_OF_RESOURCES, f"limits.instance_mib {instance_mib:g}"
    data = event.encoded_dataset()
    try:
        head = pydicom.dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=HEAD)
        sop_class, sop, study = (str(head.get(key, "")) for key in HEAD)
    except Exception as error:  # pydicom raises a dozen kinds on broken data; whichever it is, the sender gets a status
        return NOT_UNDERSTOOD, f"no readable dataset ({type(error).__name__})"
    if not is_uid(study):
        return NOT_UNDERSTOOD, "no valid Study Instance UID"
    if not is_uid(sop) or sop != request.AffectedSOPInstanceUID:
        return INVALID_INSTANCE, "SOP Instance UID is not the one announced"
    if sop_class != request.AffectedSOPClassUID or sop_class != event.context.abstract_syntax:
        return NOT_ITS_CLASS, "SOP Class UID is not the one announced"
    digest = hashlib.sha256(str(event.context.transfer_syntax).encode() + b"\0" + raw).hexdigest()[:DIGEST_DIGITS]
    try:
        new = intake.take(study, sop, digest, data, event.assoc)
    except Refusal as refusal:
        return OUT_OF_RESOURCES, str(refusal)
    except OSError as error:
        logging.getLogger("l2s.serve").error("disk error=%s", type(error).__name__)
        return OUT_OF_RESOURCES, error.strerror or "disk"
    event.assoc.counts["stored" if new else "again"] += 1
    return SUCCESS, ""
