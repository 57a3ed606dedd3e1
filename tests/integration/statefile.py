# SPDX-License-Identifier: BSD-3-Clause
"""A state file's header taken apart and put together again without its key (docs/state-format.md)."""
import hashlib
import struct

from device import FILE_SIZE, HEADER_B, read_file

VM_UUID, POLICY, KEY_SLOT = 0x8004, 0x8005, 0x8007


def read_tlvs(path):
    """The TLVs of the newest record of header copy A, [type, value], and what follows them."""
    header = read_file(path)[:HEADER_B]
    size = struct.unpack_from("<I", header, 12)[0]
    length = struct.unpack_from("<I", header, 52)[0]
    body, rest = header[56:56 + length], header[56 + length:size]
    tlvs = []
    while body:
        kind, length = struct.unpack_from("<HI", body)
        tlvs.append([kind, body[6:6 + length]])
        body = body[6 + length:]
    return tlvs, rest


def make_header(tlvs, rest, version=1, oldest=1):
    """A header copy with a good checksum; the MAC in REST is whatever it is."""
    body = b"".join(struct.pack("<HI", kind, len(value)) + value for kind, value in tlvs)
    records = struct.pack("<HHI", 1, 0, len(body)) + body + rest
    start = b"vtpm-hdr" + struct.pack("<HHI", version, oldest, 48 + len(records))
    return start + hashlib.sha256(start + records).digest() + records


def write_header(path, header):
    """Into both copies."""
    with open(path, "r+b") as file:
        for offset in (0, HEADER_B):
            file.seek(offset)
            file.write(header.ljust(16384, b"\0"))
    assert len(read_file(path)) == FILE_SIZE
