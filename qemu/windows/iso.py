# SPDX-License-Identifier: BSD-3-Clause
"""What an installation medium is, read from its own structures before a machine is started with it.

Microsoft's images carry two file systems: ISO 9660 with little more than a README, and UDF with everything. So the
files are looked up in UDF (ECMA-167, as UDF 1.02 uses it), the editions in the XML that ends a WIM file. All integers
are little-endian.
"""
import os
import re
import struct
from xml.etree import ElementTree

from tpms import GuestError

SECTOR = 2048
FREE_MEDIUM = "VTPM_FREE_MEDIUM"  # volume id of the one that free_medium.py makes
FIRST_WINDOWS_11 = 22000
AMD64 = 9  # PROCESSOR_ARCHITECTURE_AMD64, as in a WIM's <ARCH>
# BitLocker is in these (Microsoft, "Windows edition and licensing requirements" of BitLocker), the first found is taken.
EDITIONS = ("Professional", "Enterprise", "Education", "EnterpriseEval")
WIM_MAGIC = b"MSWIM\0\0\0"
MAX_XML = 16 << 20
MAX_FOLDER = 1 << 20


class Image:
    """An ISO image that passed the checks. KIND is "windows" or "free"."""

    def __init__(self, path, kind, edition=None, index=None, build=None, language="en-US", name=None):
        self.path, self.kind = os.path.abspath(path), kind
        self.edition, self.index, self.build, self.language, self.name = edition, index, build, language, name

    def told(self):
        if self.kind == "free":
            return "the free medium"
        return f"{self.name}, build {self.build}, {self.language}"


class _Reader:
    def __init__(self, path):
        self.path = path
        try:
            self.file = open(path, "rb")
            self.size = self.file.seek(0, os.SEEK_END)
        except OSError as error:
            raise GuestError(f"{path}: {error.strerror}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def wrong(self, text):
        return GuestError(f"{self.path} {text}")

    def truncated(self, end, what):
        return self.wrong(f"is truncated: {what} ends at byte {end}, the file has {self.size}; download or copy it again")

    def bytes(self, offset, length, what):
        if offset + length > self.size:
            raise self.truncated(offset + length, what)
        self.file.seek(offset)
        return self.file.read(length)

    def sector(self, number, what):
        return self.bytes(number * SECTOR, SECTOR, what)


def _volume(reader):
    """The volume id of ISO 9660 (ECMA-119, 8.4), whose size must be there."""
    if reader.size < 18 * SECTOR:
        raise reader.wrong(f"is no ISO image: it has {reader.size} bytes")
    descriptor = reader.sector(16, "its first descriptor")
    if descriptor[1:6] != b"CD001" or descriptor[0] != 1:
        raise reader.wrong("is no ISO image: it has no ISO 9660 volume descriptor")
    blocks, = struct.unpack_from("<I", descriptor, 80)
    block, = struct.unpack_from("<H", descriptor, 128)
    if blocks * block > reader.size:
        raise reader.truncated(blocks * block, "its ISO 9660 volume")
    return descriptor[40:72].decode("ascii", "replace").strip()


def _boots_uefi(reader):
    """Whether the El Torito catalogue has an entry for UEFI, platform 0xEF (El Torito 1.0, 2.1 and 2.3; UEFI 13.3.2)."""
    record = reader.sector(17, "its boot record")
    if record[0] != 0 or not record[7:].startswith(b"EL TORITO SPECIFICATION"):
        return False
    catalogue = reader.sector(struct.unpack_from("<I", record, 0x47)[0], "its boot catalogue")
    if catalogue[0] == 1 and catalogue[1] == 0xEF:
        return True
    return any(catalogue[at] in (0x90, 0x91) and catalogue[at + 1] == 0xEF for at in range(64, SECTOR, 32))


class _Udf:
    """Looks up files by path. Follows one partition map of type 1, which is all that UDF 1.02 has."""

    def __init__(self, reader):
        self.reader = reader
        self.start = self.root = None
        anchor = reader.sector(256, "its UDF anchor")
        if struct.unpack_from("<H", anchor)[0] != 2:
            raise reader.wrong("is no Windows installation medium: it has no UDF file system")
        length, at = struct.unpack_from("<II", anchor, 16)
        for number in range(at, at + min(length // SECTOR, 64)):
            self._descriptor(reader.sector(number, "its UDF descriptors"))
        if self.start is None or self.root is None:
            raise reader.wrong("has a UDF file system that is damaged")
        tag, files = self._block(self.root, "its UDF file set")
        self.root = struct.unpack_from("<I", files, 404)[0]
        if tag != 256:
            raise reader.wrong("has a UDF file system that is damaged")

    def _descriptor(self, sector):
        tag, = struct.unpack_from("<H", sector)
        if tag == 5:
            self.start, length = struct.unpack_from("<II", sector, 188)
            if (self.start + length) * SECTOR > self.reader.size:
                raise self.reader.truncated((self.start + length) * SECTOR, "its UDF partition")
        elif tag == 6:
            self.root, = struct.unpack_from("<I", sector, 252)

    def _block(self, number, what):
        block = self.reader.sector(self.start + number, what)
        return struct.unpack_from("<H", block)[0], block

    def extents(self, number, what):
        """(size, [(offset, length)]) of the file whose entry is block NUMBER; embedded data counts as one extent."""
        tag, entry = self._block(number, what)
        at = {261: 168, 266: 208}.get(tag)
        if at is None:
            raise self.reader.wrong(f"has a UDF file system that is damaged: {what}")
        size, = struct.unpack_from("<Q", entry, 56)
        extra, length = struct.unpack_from("<II", entry, at)
        first, kind = at + 8 + extra, entry[34] & 7
        if first + length > SECTOR or kind not in (0, 1, 3):
            raise self.reader.wrong(f"has a UDF file system that is damaged: {what}")
        if kind == 3:
            return size, [((self.start + number) * SECTOR + first, min(size, length))]
        step = (8, 16)[kind]
        found = (struct.unpack_from("<II", entry, place) for place in range(first, first + length - step + 1, step))
        return size, [((self.start + block) * SECTOR, count & 0x3FFFFFFF) for count, block in found if count & 0x3FFFFFFF]

    def read(self, found, offset, length, what):
        """LENGTH bytes at OFFSET of a file."""
        parts = []
        for start, count in found[1]:
            if offset < count and length > 0:
                take = min(length, count - offset)
                parts.append(self.reader.bytes(start + offset, take, what))
                offset, length = 0, length - take
            else:
                offset -= min(offset, count)
        if length > 0:
            raise self.reader.wrong(f"has too little of {what}")
        return b"".join(parts)

    def _entries(self, number, what):
        """{name in lower case: block of its entry} of a folder (ECMA-167 4/14.4)."""
        found = self.extents(number, what)
        data = self.read(found, 0, min(found[0], MAX_FOLDER), what)
        names, at = {}, 0
        while at + 38 <= len(data):
            tag, = struct.unpack_from("<H", data, at)
            kind, name_length = data[at + 18], data[at + 19]
            block, = struct.unpack_from("<I", data, at + 24)
            own, = struct.unpack_from("<H", data, at + 36)
            if tag != 257:
                break
            name = data[at + 38 + own:at + 38 + own + name_length]
            if name and not kind & 4:
                names[name[1:].decode("utf-16-be" if name[0] == 16 else "latin-1", "replace").lower()] = block
            at += (38 + own + name_length + 3) & ~3
        return names

    def find(self, path):
        """The file at PATH, or None; all its bytes are there."""
        block = self.root
        for name in path.split("/"):
            block = self._entries(block, path).get(name)
            if block is None:
                return None
        found = self.extents(block, path)
        for start, count in found[1]:
            if start + count > self.reader.size:
                raise self.reader.truncated(start + count, path)
        return found


def _wim_xml(udf, found, path):
    """The XML of a WIM (Microsoft's "Windows Imaging File Format", header): a resource of 7 bytes' size, flags, offset."""
    header = udf.read(found, 0, 208, path)
    size = int.from_bytes(header[72:79], "little")
    offset, = struct.unpack_from("<Q", header, 80)
    if not header.startswith(WIM_MAGIC) or size > MAX_XML or offset + size > found[0]:
        raise udf.reader.wrong(f"has a {path} that is damaged")
    text = udf.read(found, offset, size, path).decode("utf-16", "replace")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError:
        raise udf.reader.wrong(f"has a {path} that is damaged") from None


def _windows(reader, path):
    udf = _Udf(reader)
    if not udf.find("sources/boot.wim"):
        raise reader.wrong("is no Windows installation medium: it has no sources/boot.wim")
    for name in ("sources/install.wim", "sources/install.esd"):
        found = udf.find(name)
        if found:
            return _choose(reader, path, _wim_xml(udf, found, name))
    raise reader.wrong("is no Windows installation medium: it has neither sources/install.wim nor install.esd")


def _choose(reader, path, xml):
    """The edition to install: the first of EDITIONS that is there."""
    images = {}
    for image in xml.iter("IMAGE"):
        def text(tag, default="", image=image):
            return (image.findtext(tag) or default).strip()
        build, arch = text("WINDOWS/VERSION/BUILD", "0"), text("WINDOWS/ARCH", "0")
        images.setdefault(text("WINDOWS/EDITIONID"), Image(
            path, "windows", text("WINDOWS/EDITIONID"), image.get("INDEX"), int(build) if build.isdigit() else 0,
            text("WINDOWS/LANGUAGES/DEFAULT", "en-US"), text("NAME")))
        if arch != str(AMD64):
            raise reader.wrong(f"is for another processor: architecture {arch} of its image {text('NAME')}, x86-64 is {AMD64}")
    chosen = next((images[edition] for edition in EDITIONS if edition in images), None)
    if not chosen:
        raise reader.wrong("has no edition with BitLocker, only " + (", ".join(image.name for image in images.values()) or "none"))
    if chosen.build < FIRST_WINDOWS_11:
        raise reader.wrong(f"is not Windows 11: {chosen.name} is build {chosen.build}, Windows 11 begins with {FIRST_WINDOWS_11}")
    if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]+)+", chosen.language):
        raise reader.wrong(f"names a language that is none: {chosen.language}")
    return chosen


def read(path):
    """An Image, or a GuestError that says what is wrong with the file."""
    with _Reader(path) as reader:
        name = _volume(reader)
        if not _boots_uefi(reader):
            raise reader.wrong("does not boot with UEFI: its boot catalogue has no such entry")
        return Image(path, "free") if name == FREE_MEDIUM else _windows(reader, path)


def check(path):
    """Any ISO image that is not truncated."""
    with _Reader(path) as reader:
        _volume(reader)
