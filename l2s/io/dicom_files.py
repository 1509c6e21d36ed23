"""Which files of a folder, a zip or a DICOMDIR's tree are DICOM. Names and endings say nothing; the first bytes do."""

from __future__ import annotations

import logging
import lzma
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from l2s.errors import InputError

log = logging.getLogger(__name__)

MAX_FILES = 200_000
MAX_UNPACKED_BYTES = 32 * 2**30  # a total-body study with all its reconstructions has a quarter of it
MAX_RATIO = 200  # real PET and CT shrink by 2 to 10, a zip bomb by 1000 and more
SMALL_BYTES = 64 * 2**20  # below it no ratio is suspicious: a few empty slices shrink to nothing
BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Found:
    """DICOM files of one input.

    Attributes:
        files: sorted by path.
        others: how many files are not DICOM.
        unpacked: the temporary folder that a zip was unpacked to, for the caller to remove; None for a folder.
        links: how many links lead to folders, which are not entered, or nowhere.
    """

    files: tuple[Path, ...]
    others: int
    unpacked: Path | None = None
    links: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        return (f"{self.links} links to folders or to nowhere were not followed",) if self.links else ()


def find_dicom(path: Path) -> Found:
    """All DICOM files below a folder, beside a DICOMDIR or another DICOM file, or in a zip.

    Raises:
        InputError: there is no such path, no DICOM in it, a file or folder that cannot be read (a series without it would look whole), or
            the zip is damaged, locked, absurdly large or reaches out of its folder.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; name a folder of DICOM files or a zip of one")
    if path.is_dir():
        return _found(path, path)
    if not is_dicom(path) and zipfile.is_zipfile(path):
        folder = unpack(path)
        try:
            return _found(folder, path, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    if path.name.upper() == "DICOMDIR" or is_dicom(path):
        return _found(path.resolve().parent, path)
    raise InputError(f"{path} is neither a folder, a zip nor a DICOM file; name the folder that holds the study")


def is_dicom(path: Path) -> bool:
    """By the mark after the preamble, or, for files without one, by an element of group 2 or 8 at the start.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise _unreadable(path, error) from error
    if head[128:132] == b"DICM":
        return True
    # group 0002 or 0008, then an even small length or a type in capitals
    return (
        len(head) == 132
        and head[:2] in (b"\x02\x00", b"\x08\x00")
        and head[3] == 0
        and (head[4:6].isupper() or head[6:8] == b"\0\0")
    )


def check_apart(outdir: Path, given: Path) -> None:
    """Raises InputError where results would be written among the DICOM files that are read."""
    from l2s.io.inputs import check_outside

    source = Path(given).resolve()
    if not source.is_dir() and (source.name.upper() == "DICOMDIR" or (source.is_file() and is_dicom(source))):
        source = source.parent
    if source.is_dir():
        check_outside(outdir, source)


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror or error}); mend its rights or the disk, or leave it out")


def _walk(folder: Path, links: list[Path] | None = None):
    """Regular files below folder, in order; folders that are links are not entered, so that no loop catches us.

    Args:
        links: gets the links to folders or to nowhere.
    """

    def refuse(error: OSError):
        raise _unreadable(Path(error.filename or folder), error)

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        if links is not None:
            links += [path for name in folders if (path := Path(place, name)).is_symlink()]
        for name in sorted(names):
            file = Path(place, name)
            try:
                mode = file.stat().st_mode
            except OSError as error:
                if not file.is_symlink():
                    refuse(error)
                if links is not None:
                    links.append(file)
                continue
            if stat.S_ISREG(mode):  # a named pipe would block the reading for ever
                yield file


def _found(folder: Path, given: Path, unpacked: Path | None = None) -> Found:
    files, others, zips = [], 0, 0
    links: list[Path] = []
    for file in _walk(folder, links):
        if is_dicom(file):
            files.append(file)
        else:
            others += 1
            zips += file.name.lower().endswith(".zip")
        if len(files) + others > MAX_FILES:
            raise InputError(f"{given} holds more than {MAX_FILES} files; name the folder of one study")
    if not files:
        hint = f"; it holds {zips} zips: name one of them" if zips else "; name the folder that holds the study"
        also = f" ({len(links)} links to folders or to nowhere were not followed)" if links else ""
        raise InputError(f"{given}: none of {others} files is DICOM{also}{hint}")
    return Found(tuple(files), others, unpacked, len(links))


def unpack(path: Path) -> Path:
    """Unpacks a zip into a new temporary folder, under names of our own; the caller removes it.

    Raises:
        InputError: see find_dicom.
    """
    folder = Path(tempfile.mkdtemp(prefix="l2s-dicom-"))
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            _check_members(path, members)
            left = MAX_UNPACKED_BYTES
            for number, member in enumerate(members):
                left -= _unpack_member(archive, member, folder / f"{number:06d}", left, path)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None:  # bz2 has none: it means damage
            raise InputError(
                f"{path} cannot be unpacked to {folder.parent} ({error.strerror}); set TMPDIR to a roomier disk"
            ) from error
        raise InputError(f"{path} is damaged or packed by an unknown method ({error}); pack or copy it again") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """What the zip's directory promises, before a byte is unpacked."""
    if len(members) > MAX_FILES:
        raise InputError(f"{path} holds {len(members)} files (limit {MAX_FILES}); give the zip of one study")
    for member in members:
        name = member.filename.replace("\\", "/")
        if name.startswith("/") or ".." in PurePosixPath(name).parts or name[1:2] == ":":
            raise InputError(f"{path}: a file in it would land outside its folder ({name[:60]!r}); such a zip is not opened")
        if member.flag_bits & 1:
            raise InputError(f"{path} is locked by a password; unpack it first and name the folder")
    total, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if total > MAX_UNPACKED_BYTES or (total > SMALL_BYTES and total > MAX_RATIO * max(1, packed)):
        raise InputError(
            f"{path} would unpack from {packed / 2**20:.1f} to {total / 2**20:.0f} MiB (limits {MAX_UNPACKED_BYTES // 2**20} MiB and "
            f"{MAX_RATIO} times its size): this looks like a zip bomb; unpack it yourself if you trust it"
        )


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, left: int, path: Path) -> int:
    """Bytes written; counted as they come, as the directory may lie."""
    written = 0
    with archive.open(member) as source, target.open("wb") as file:
        while block := source.read(BLOCK_BYTES):
            written += len(block)
            if written > left:
                raise InputError(f"{path} unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB; give the zip of one study")
            file.write(block)
    return written
