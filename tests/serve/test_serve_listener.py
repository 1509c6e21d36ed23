"""Listener and sender over loopback: who is let in, what each instance is answered with, TLS, hostile callers."""

import logging
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, build_context, evt
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedPETImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from l2s.serve import listener, sender, spool
from l2s.serve.config import Config, Destination, Limits, Listen
from l2s.serve.intake import Intake
from l2s.serve.spool import Result
from tests.serve import peers
from tests.serve.fake_segment import CLASSES, make_result

PET = PositronEmissionTomographyImageStorage


NO_RESERVE = Limits(free_disk_gib=0)
ALL_RESULTS = tuple(CLASSES.values())


@contextmanager
def listening(root: Path, limits: Limits = NO_RESERVE, **listen):
    """(port, Intake) of a running listener."""
    spool.prepare(root)
    port = peers.free_port()
    config = Config(root, Listen(port=port, **listen), limits)
    intake = Intake(root, limits, 0.0)
    server = listener.start(config, intake)
    try:
        yield port, intake
    finally:
        listener.stop(server)


def call(port: int, contexts=None, ae="SCANNER", called="L2S", tls=None, max_pdu=16382):
    contexts = contexts or [build_context(PET, ExplicitVRLittleEndian), build_context(CTImageStorage, ExplicitVRLittleEndian)]
    return AE(ae).associate("127.0.0.1", port, contexts=contexts, ae_title=called, tls_args=tls, max_pdu=max_pdu)


def stored(root: Path) -> list[Path]:
    return sorted((root / "incoming").glob("*/*.dcm"))


def store(port: int, image, context=None) -> int | None:
    assoc = call(port, context and [context])
    assert assoc.is_established
    status = assoc.send_c_store(image).get("Status")
    assoc.release()
    return status


def test_an_image_is_stored_as_it_came(tmp_path, caplog):
    caplog.set_level(logging.INFO, "l2s.serve")
    image = peers.make_image("1.2.3")
    with listening(tmp_path) as (port, _):
        assert store(port, image) == 0
        assert store(port, image) == 0
    (file,) = stored(tmp_path)
    read = pydicom.dcmread(file)
    assert read == image
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert "stored=1 again=0" in caplog.text
    assert "stored=0 again=1" in caplog.text
    assert "Secret" not in caplog.text


def test_a_corrected_image_replaces_the_first(tmp_path):
    image = peers.make_image("1.2.3")
    with listening(tmp_path) as (port, intake):
        store(port, image)
        image.PatientWeight = "81"
        store(port, image)
        (file,) = stored(tmp_path)
        assert pydicom.dcmread(file).PatientWeight == 81
        assert Intake(tmp_path, Limits(), 0.0)._study("1.2.3").stored.keys() == {image.SOPInstanceUID}


def test_echo(tmp_path):
    with listening(tmp_path) as (port, _):
        assert sender.echo("SCANNER", Destination("L2S", "127.0.0.1", port)) == ""
        assert "rejected" in sender.echo("SCANNER", Destination("OTHER", "127.0.0.1", port))
    assert "no association" in sender.echo("SCANNER", Destination("L2S", "127.0.0.1", port))


@pytest.mark.parametrize(
    ("ae", "called", "code"), [("SCANNER", "L2S", None), ("STRANGER", "L2S", (1, 1, 3)), ("SCANNER", "PACS", (1, 1, 7))]
)
def test_ae_titles(tmp_path, caplog, ae, called, code):
    with listening(tmp_path, allow_ae=("SCANNER", "OTHER")) as (port, _):
        assoc = call(port, ae=ae, called=called)
        assert assoc.is_established is (code is None)
        if code is None:
            assoc.release()
            return
        answer = assoc.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == code
    assert f"ae={ae} called={called}" in caplog.text


def test_a_stranger_s_address_gets_no_answer(tmp_path, caplog):
    with listening(tmp_path, allow_addresses=("10.0.0.0/8",)) as (port, _), socket.create_connection(("127.0.0.1", port)) as s:
        s.settimeout(10)
        assert s.recv(1) == b""
    assert "reason=listen.allow_addresses" in caplog.text


def test_contexts(tmp_path):
    """PET and CT in every image encoding but deflated; other classes are refused at the negotiation (result 3), syntaxes (4)."""
    offered = [
        build_context(PET, JPEG2000Lossless),
        build_context(CTImageStorage, RLELossless),
        build_context(CTImageStorage, JPEGLosslessSV1),
        build_context(CTImageStorage, ImplicitVRLittleEndian),
        build_context(CTImageStorage, DeflatedExplicitVRLittleEndian),
        build_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian),
        build_context(EnhancedPETImageStorage, ExplicitVRLittleEndian),
        build_context(Verification, ImplicitVRLittleEndian),
    ]
    with listening(tmp_path) as (port, _):
        assoc = call(port, offered)
        assert len(assoc.accepted_contexts) == 5
        refused = {
            (c.abstract_syntax, c.transfer_syntax[0] if c.transfer_syntax else None): c.result for c in assoc.rejected_contexts
        }
        assoc.release()
    assert {key[0]: value for key, value in refused.items()} == {
        CTImageStorage: 4,
        SecondaryCaptureImageStorage: 3,
        EnhancedPETImageStorage: 3,
    }


def test_a_compressed_image_is_kept_as_it_is(tmp_path):
    image = peers.make_image("1.2.3", "CT")
    image.compress(RLELossless, generate_instance_uid=False)
    with listening(tmp_path) as (port, _):
        assert store(port, image, build_context(CTImageStorage, RLELossless)) == 0
    (file,) = stored(tmp_path)
    read = pydicom.dcmread(file)
    assert read.file_meta.TransferSyntaxUID == RLELossless
    assert read.PixelData == image.PixelData


def send_raw(port: int, data: bytes, sop: str, sop_class=PET) -> int | None:
    """C-STORE of arbitrary bytes under an announced UID."""
    from pynetdicom.dimse_primitives import C_STORE

    assoc = call(port)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop
    request.DataSet = BytesIO(data)
    context = next(c for c in assoc.accepted_contexts if c.abstract_syntax == sop_class)
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(request, context.context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assoc.release()
    return answer.Status if answer else None


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"StudyInstanceUID": ""}, 0xC000),
        ({"StudyInstanceUID": "../../etc"}, 0xC000),
        ({"StudyInstanceUID": "1." + "2" * 63}, 0xC000),
        ({"SOPInstanceUID": "1.2.9"}, 0x0117),
        ({"SOPClassUID": CTImageStorage}, 0xA900),
        ({"SOPClassUID": ""}, 0xA900),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_does_not_fit_its_announcement(tmp_path, change, status):
    image = peers.make_image("1.2.3")
    sop = image.SOPInstanceUID
    for key, value in change.items():
        setattr(image, key, value)
    with listening(tmp_path) as (port, _):
        assert send_raw(port, encode(image, False, True), sop) == status
    assert stored(tmp_path) == []


@pytest.mark.parametrize("sop", ["../../../tmp/x", "1.2.3/4", "1..2", "", "."])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_uid_that_is_a_path_is_refused(tmp_path, sop):
    image = peers.make_image("1.2.3", SOPInstanceUID=sop)
    before = sorted(tmp_path.rglob("*"))
    with listening(tmp_path / "spool") as (port, _):
        assert send_raw(port, encode(image, False, True), sop or "1.2") == 0x0117
    assert stored(tmp_path / "spool") == []
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == len(before)


@pytest.mark.parametrize("data", [b"\x00", b"\x00" * 7, b"garbage" * 100, b"\x08\x00\x16\x00UI\xff\xff1.2"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_garbage_gets_a_status(tmp_path, data):
    with listening(tmp_path) as (port, _):
        assert send_raw(port, data, "1.2.3.4") in (0xC000, 0x0117, 0xA900)
    assert stored(tmp_path) == []


def test_limits_are_answered_with_out_of_resources(tmp_path):
    with listening(tmp_path, Limits(free_disk_gib=0, study_instances=1)) as (port, intake):
        assert store(port, peers.make_image("1.2.3")) == 0
        assert store(port, peers.make_image("1.2.3")) == 0xA700
        assert store(port, peers.make_image("1.2.4")) == 0
        intake.limits = Limits(free_disk_gib=10**9)
        assert store(port, peers.make_image("1.2.5")) == 0xA700
    assert len(stored(tmp_path)) == 2


def test_a_disk_error_is_not_acknowledged(tmp_path, monkeypatch):
    with listening(tmp_path) as (port, intake):

        def fail(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(intake, "take", fail)
        assert store(port, peers.make_image("1.2.3")) == 0xA700


def test_an_instance_above_the_limit_ends_its_association_before_it_is_in_memory(tmp_path, caplog):
    image = peers.make_image("1.2.3")
    image.PixelData = b"\0" * 2**23
    with listening(tmp_path, Limits(free_disk_gib=0, instance_mib=1)) as (port, _):
        assert store(port, image) is None
        image.PixelData = b"\0" * 2**17
        assoc = call(port)
        for _ in range(30):  # 4 MB: the limit is one instance's, not an association's
            image.SOPInstanceUID = generate_uid()
            assert assoc.send_c_store(image).Status == 0
        assoc.release()
    assert "limits.instance_mib 1" in caplog.text
    assert len(stored(tmp_path)) == 30


def test_a_unit_of_four_gigabytes_is_not_read(tmp_path, caplog):
    with listening(tmp_path) as (port, _), socket.create_connection(("127.0.0.1", port)) as s:
        s.settimeout(10)
        s.sendall(struct.pack(">BBL", 1, 0, 2**32 - 1) + b"x" * 1000)
        with pytest.raises(ConnectionResetError):
            if s.recv(1) == b"":
                raise ConnectionResetError
    assert "a unit of 4294967295 bytes" in caplog.text


def test_associations_beyond_the_limit(tmp_path, caplog):
    """Silent connections take no association's place."""
    with listening(tmp_path, Limits(free_disk_gib=0, associations=2)) as (port, _):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        open_ones = [call(port), call(port)]
        assert all(a.is_established for a in open_ones)
        third = call(port)
        assert third.is_rejected
        answer = third.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        for assoc in open_ones:
            assoc.release()
        peers.wait_for(lambda: call(port).is_established)
        for connection in silent:
            connection.close()


def test_half_a_unit_and_silence_is_closed(tmp_path):
    with (
        listening(tmp_path, Limits(free_disk_gib=0, network_s=0.5)) as (port, _),
        socket.create_connection(("127.0.0.1", port)) as s,
    ):
        s.settimeout(10)
        s.sendall(struct.pack(">BBL", 1, 0, 500) + b"x" * 10)
        assert s.recv(1) == b""


def test_an_association_cut_in_the_middle_leaves_nothing_that_counts(tmp_path):
    image = peers.make_image("1.2.3")
    image.PixelData = b"\0" * 2**22
    with listening(tmp_path) as (port, intake):
        assoc = call(port)
        sent = []

        def cut(event):
            sent.append(event)
            if len(sent) > 20:
                assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)

        assoc.bind(evt.EVT_PDU_SENT, cut)
        assert assoc.send_c_store(image).get("Status") is None
        peers.wait_for(lambda: not intake._studies or not any(s.senders for s in intake._studies.values()))
        assert intake.queue_complete() == []
    assert stored(tmp_path) == []


# --- TLS


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """A CA, and certificates for node and client that it signed; strange.* is signed by itself."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*argv):
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=folder)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    for name in ("ca", "strange"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt")
    for name in ("node", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:node.example\n")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"),
            *("-extfile", "ext", "-out", f"{name}.crt"),
        )
    return folder


def destination(port: int, keys: Path, name: str | None = "client", **more) -> Destination:
    plain = Destination("L2S", "127.0.0.1", port, tls_ca=keys / "ca.crt", **more)
    return replace(plain, tls_cert=keys / f"{name}.crt", tls_key=keys / f"{name}.key") if name else plain


def test_tls(tmp_path, keys):
    with listening(tmp_path, tls_cert=keys / "node.crt", tls_key=keys / "node.key") as (port, _):
        silent = socket.create_connection(("127.0.0.1", port))  # says nothing, and holds up nobody
        assert sender.echo("SCANNER", destination(port, keys, None)) == ""
        assert sender.echo("SCANNER", destination(port, keys, None, tls_name="node.example")) == ""
        assert sender.echo("SCANNER", destination(port, keys, None, tls_name="other.example")) != ""
        assert sender.echo("SCANNER", replace(destination(port, keys, None), tls_ca=keys / "strange.crt")) != ""
        assert sender.echo("SCANNER", Destination("L2S", "127.0.0.1", port)) != ""
        image = peers.make_image("1.2.3")
        assert_sent(destination(port, keys, None), image, tmp_path / "image")
        silent.close()
    assert len(stored(tmp_path)) == 1


def test_handshakes_count_as_connections(tmp_path, keys, caplog, monkeypatch):
    """Silent callers of a TLS port: no more of them get a thread than connections are allowed, and their places come back."""
    monkeypatch.setattr(listener, "WAITING_CONNECTIONS", 2)
    limits = Limits(free_disk_gib=0, associations=1)
    with listening(tmp_path, limits, tls_cert=keys / "node.crt", tls_key=keys / "node.key") as (port, _):
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        peers.wait_for(lambda: caplog.text.count("too many connections") == 9)
        assert threading.active_count() <= before + 3
        for connection in silent:
            connection.close()
        peers.wait_for(lambda: sender.echo("SCANNER", destination(port, keys, None)) == "")


def test_a_handshake_in_drips_ends(tmp_path, keys, monkeypatch):
    monkeypatch.setattr(listener, "REQUEST_S", 0.3)
    with (
        listening(tmp_path, tls_cert=keys / "node.crt", tls_key=keys / "node.key") as (port, _),
        socket.create_connection(("127.0.0.1", port)) as s,
    ):
        s.sendall(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03")  # the head of a hello of 16 kB
        s.settimeout(0.05)
        for _ in range(400):  # 20 s: a deadline for each read would let all of them pass
            try:
                s.sendall(b"\0")
                if s.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
        pytest.fail("the connection is still open")


def assert_sent(where: Destination, image, folder: Path) -> None:
    folder.mkdir()
    image.save_as(folder / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
    confirmed = []
    result = Result(image.SOPClassUID, image.SOPInstanceUID, image.file_meta.TransferSyntaxUID)
    assert sender.send("SCANNER", where, folder, [result], confirmed.append).problem == ""
    assert confirmed == [result]


def test_mutual_tls(tmp_path, keys, caplog):
    with listening(tmp_path, tls_cert=keys / "node.crt", tls_key=keys / "node.key", tls_ca=keys / "ca.crt") as (port, _):
        assert sender.echo("SCANNER", destination(port, keys)) == ""
        assert sender.echo("SCANNER", destination(port, keys, None)) != ""
        assert sender.echo("SCANNER", destination(port, keys, "strange")) != ""
    assert "TLS" in caplog.text


@pytest.mark.skipif(not peers.has_dcmtk(), reason="dcmtk is not installed (apt-get install dcmtk)")
def test_tls_with_dcmtk(tmp_path, keys):
    def echoscu(*flags) -> int:
        return subprocess.run(["echoscu", *flags, "-aec", "L2S", "127.0.0.1", str(port)], capture_output=True).returncode

    ours = ("+tls", str(keys / "client.key"), str(keys / "client.crt"), "+cf", str(keys / "ca.crt"))
    with listening(tmp_path, tls_cert=keys / "node.crt", tls_key=keys / "node.key", tls_ca=keys / "ca.crt") as (port, _):
        assert echoscu(*ours) == 0
        assert echoscu("+tla", "+cf", str(keys / "ca.crt")) != 0
        assert echoscu() != 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(tmp_path, keys):
    with listening(tmp_path, tls_cert=keys / "node.crt", tls_key=keys / "node.key") as (port, _):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection(("127.0.0.1", port)) as s, pytest.raises(ssl.SSLError):
            context.wrap_socket(s)


# --- sender


@contextmanager
def pacs(answers=(), classes=ALL_RESULTS, syntax=ExplicitVRLittleEndian):
    """(port, what arrived): a destination that gives these statuses one after another, then success."""
    arrived, left = [], list(answers)
    ae = AE("PACS")
    for sop_class in classes:
        ae.add_supported_context(sop_class, syntax)

    def handle(event):
        status = left.pop(0) if left else 0
        if status == "abort":
            event.assoc.abort()
            return 0xC001
        arrived.append((event.request.AffectedSOPInstanceUID, status))
        return status

    port = peers.free_port()
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    try:
        yield port, arrived
    finally:
        server.shutdown()
        ae.shutdown()


def made_results(folder: Path) -> list[Result]:
    found = []
    for modality in CLASSES:
        made = make_result(modality, peers.make_image("1.2.3"), 1)
        made.save_as(folder / f"{made.SOPInstanceUID}.dcm", enforce_file_format=True)
        found.append(Result(made.SOPClassUID, made.SOPInstanceUID, ExplicitVRLittleEndian))
    return found


@pytest.mark.parametrize(
    ("answers", "confirmed", "problem", "refused"),
    [
        ((), 3, "", 0),
        ((0xB000, 0xB006, 0xB007), 3, "", 0),  # warnings: it has them
        ((0, 0xA700, 0), 2, "with A700", 0),  # full for the moment: no refusal
        ((0, 0xC000, 0), 2, "with C000", 1),
        ((0xA900, 0x0122, 0), 1, "with 0122", 2),
        ((0, "abort"), 1, "ended the association", 0),
    ],
)
def test_what_the_destination_answers(tmp_path, answers, confirmed, problem, refused):
    results, noted = made_results(tmp_path), []
    with pacs(answers) as (port, _):
        answer = sender.send("L2S", Destination("PACS", "127.0.0.1", port), tmp_path, results, noted.append)
    assert len(noted) == confirmed
    assert problem in answer.problem
    assert bool(answer.problem) is bool(problem)
    assert answer.refused == refused


def test_a_destination_that_takes_no_seg_gets_the_rest(tmp_path):
    results, noted = made_results(tmp_path), []
    with pacs(classes=(CLASSES["SR"], CLASSES["RTSTRUCT"])) as (port, _):
        answer = sender.send("L2S", Destination("PACS", "127.0.0.1", port), tmp_path, results, noted.append)
    assert [r.sop_class for r in noted] == [CLASSES["SR"], CLASSES["RTSTRUCT"]]
    assert answer.refused == 1
    assert CLASSES["SEG"] in answer.problem


def test_a_destination_that_speaks_implicit_only(tmp_path):
    results, noted = made_results(tmp_path), []
    with pacs(syntax=ImplicitVRLittleEndian) as (port, _):
        assert sender.send("L2S", Destination("PACS", "127.0.0.1", port), tmp_path, results, noted.append).problem == ""
    assert len(noted) == 3


def test_waiting_doubles_up_to_its_limit():
    where = Destination("PACS", "h", 1, retry_s=2, retry_max_s=10)
    for failures, wait in ((1, 2), (2, 4), (3, 8), (4, 10), (5000, 10)):
        waits = [sender.wait_s(where, failures) for _ in range(50)]
        assert wait * 0.8 <= min(waits) < max(waits) <= wait * 1.2


def test_a_dead_destination_is_said(tmp_path):
    answer = sender.send("L2S", Destination("PACS", "127.0.0.1", peers.free_port()), tmp_path, made_results(tmp_path), print)
    assert "no association" in answer.problem
