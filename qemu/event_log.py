# SPDX-License-Identifier: BSD-3-Clause
"""Reads the firmware's event log and replays it, apart from any tool in the guest.

Format: TCG PC Client Platform Firmware Profile, "Event Logging": the crypto-agile log, which begins with an event in the
older format that names the hash algorithms.
"""
import collections
import hashlib
import struct

from tpms import GuestError

SEPARATOR, NO_ACTION = 4, 3
VARIABLE_CONFIG, VARIABLE_AUTHORITY = 0x80000001, 0x800000E0
HASHES = {4: "sha1", 0xB: "sha256", 0xC: "sha384", 0xD: "sha512"}
Event = collections.namedtuple("Event", "pcr kind digests data")


class EventLog:
    def __init__(self, data):
        pcr, kind, size = struct.unpack_from("<II20xI", data)
        body = data[32:32 + size]
        if (pcr, kind, body[:16]) != (0, NO_ACTION, b"Spec ID Event03\0"):
            raise GuestError("the event log is not the crypto-agile one")
        self.specification = "%d.%d" % (body[21], body[20])
        count = struct.unpack_from("<I", body, 24)[0]
        self.sizes = dict(struct.unpack_from("<HH", body, 28 + 4 * number) for number in range(count))
        self.banks = [HASHES[algorithm] for algorithm in self.sizes]
        self.events = []
        offset = 32 + size
        while offset < len(data):
            offset = self._read(data, offset)

    def _read(self, data, offset):
        pcr, kind, count = struct.unpack_from("<III", data, offset)
        offset += 12
        digests = {}
        for _ in range(count):
            algorithm = struct.unpack_from("<H", data, offset)[0]
            size = self.sizes[algorithm]
            digests[HASHES[algorithm]] = data[offset + 2:offset + 2 + size]
            offset += 2 + size
        size = struct.unpack_from("<I", data, offset)[0]
        self.events.append(Event(pcr, kind, digests, data[offset + 4:offset + 4 + size]))
        return offset + 4 + size

    def replay(self):
        """{(bank, index): value in hex} of each PCR that it has an event for."""
        values = {}
        for event in self.events:
            if event.kind != NO_ACTION:
                for bank, digest in event.digests.items():
                    before = values.get((bank, event.pcr), bytes(len(digest)))
                    values[bank, event.pcr] = hashlib.new(bank, before + digest).digest()
        return {place: value.hex() for place, value in values.items()}

    def of(self, pcr):
        return [event for event in self.events if event.pcr == pcr and event.kind != NO_ACTION]


def variable(event):
    """(name, data) of an event of a UEFI variable: UEFI_VARIABLE_DATA."""
    name, size = struct.unpack_from("<QQ", event.data, 16)
    return event.data[32:32 + 2 * name].decode("utf-16-le"), event.data[32 + 2 * name:32 + 2 * name + size]
