# SPDX-License-Identifier: BSD-3-Clause
"""Reads and changes the variable store of OVMF's flash while the VM is off.

Layout: the firmware volume's header (UEFI Platform Initialization, volume 3, 3.2.1), then EDK2's store of authenticated
variables (MdeModulePkg/Include/Guid/VariableFormat.h). All integers are little-endian.
"""
import struct
import uuid

from tpms import GuestError

AUTHENTICATED_STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")
IMAGE_SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SECURE_BOOT_ENABLE = uuid.UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
CERT_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
CERT_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")

STORE_HEADER = struct.Struct("<16sIBB6x")  # signature, size, format, state
HEADER = struct.Struct("<HBxIQ16sIII16s")  # start, state, attributes, count, time, key, sizes of name and data, vendor
START, ADDED, DELETED = 0x55AA, 0x3F, 0xFD
SIGNATURE_LIST = struct.Struct("<16sIII")  # type, sizes of the list, of its header, of one signature


class VariableStore:
    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
        if self.data[40:44] != b"_FVH":
            raise GuestError(f"{path} is no firmware volume")
        store = struct.unpack_from("<H", self.data, 48)[0]
        signature, size, _, _ = STORE_HEADER.unpack_from(self.data, store)
        if uuid.UUID(bytes_le=signature) != AUTHENTICATED_STORE:
            raise GuestError(f"{path} holds no authenticated variables")
        self.first, self.end = store + STORE_HEADER.size, store + size

    def _records(self):
        """(offset, header, name) of each; ends with (offset, None, None) of the free space."""
        offset = self.first
        while offset + HEADER.size <= self.end:
            header = HEADER.unpack_from(self.data, offset)
            if header[0] != START:
                break
            name = self.data[offset + HEADER.size:offset + HEADER.size + header[6]].decode("utf-16-le").rstrip("\0")
            yield offset, header, name
            offset = (offset + HEADER.size + header[6] + header[7] + 3) & ~3
        yield offset, None, None

    def _find(self, wanted, vendor):
        for offset, header, name in self._records():
            if header and name == wanted and header[1] == ADDED and uuid.UUID(bytes_le=header[8]) == vendor:
                return offset, header
        raise GuestError(f"{self.path} has no variable {wanted}")

    def get(self, name, vendor):
        offset, header = self._find(name, vendor)
        start = offset + HEADER.size + header[6]
        return bytes(self.data[start:start + header[7]])

    def set(self, name, vendor, value):
        """As the firmware does it: a new record behind the last one, the former one deleted."""
        offset, header = self._find(name, vendor)
        free = max(position for position, found, _ in self._records() if found is None)
        encoded = bytes(self.data[offset + HEADER.size:offset + HEADER.size + header[6]])
        record = HEADER.pack(*header[:7], len(value), header[8]) + encoded + value
        if free + len(record) > self.end:
            raise GuestError(f"{self.path} has no room for {name}")
        self.data[free:free + len(record)] = record
        self.data[offset + 2] &= DELETED

    def save(self):
        with open(self.path, "r+b") as file:
            file.write(self.data)

    def switch_secure_boot_off(self):
        """What the switch in the firmware's set-up does. The keys stay."""
        self.set("SecureBootEnable", SECURE_BOOT_ENABLE, b"\0")

    def allow(self, digest):
        """Adds the SHA-256 of an image to db."""
        entry = bytes(16) + digest
        size = SIGNATURE_LIST.size + len(entry)
        added = SIGNATURE_LIST.pack(CERT_SHA256.bytes_le, size, 0, len(entry)) + entry
        self.set("db", IMAGE_SECURITY_DATABASE, self.get("db", IMAGE_SECURITY_DATABASE) + added)


def signatures(value):
    """[(type, owner and signature)] of a signature database (UEFI 32.4.1): of db or dbx."""
    found = []
    while value:
        kind, size, header, one = SIGNATURE_LIST.unpack_from(value)
        body = value[SIGNATURE_LIST.size + header:size]
        found += [(uuid.UUID(bytes_le=kind), body[start:start + one]) for start in range(0, len(body), one)]
        value = value[size:]
    return found
