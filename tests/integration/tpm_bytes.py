# SPDX-License-Identifier: BSD-3-Clause
"""TPM commands as bytes (TCG TPM 2.0 Library, part 3), and what the tests read of the responses."""
import struct

RC_INITIALIZE, RC_FAILURE, RC_COMMAND_SIZE, RC_LOCALITY, RC_CANCELED, RC_RETRY = 0x100, 0x101, 0x142, 0x907, 0x909, 0x922


def words(*values):
    return struct.pack(">%dI" % len(values), *values)


EMPTY_AUTH = words(9, 0x40000009) + b"\0\0\0\0\0"
OWNER, LOCKOUT, PLATFORM = 0x40000001, 0x4000000A, 0x4000000C
NV_ATTRIBUTES = 0x02060006  # owner and index authorisation read and write, no dictionary attack protection
NV_COUNTER = 0x02060016


def tpm_command(code, body=b"", sessions=False):
    return struct.pack(">HII", 0x8002 if sessions else 0x8001, 10 + len(body), code) + body


def sized(data):
    return struct.pack(">H", len(data)) + data


def startup(kind=0):
    return tpm_command(0x144, struct.pack(">H", kind))


def shutdown(kind=0):
    return tpm_command(0x145, struct.pack(">H", kind))


def get_random(count=16):
    return tpm_command(0x17B, struct.pack(">H", count))


def read_clock():
    return tpm_command(0x181)


def pcr_extend(index, digest):
    return tpm_command(0x182, words(index) + EMPTY_AUTH + words(1) + b"\0\x0b" + digest, True)


def pcr_reset(index):
    return tpm_command(0x13D, words(index) + EMPTY_AUTH, True)


def pcr_read(index):
    selection = bytearray(3)
    selection[index // 8] = 1 << index % 8
    return tpm_command(0x17E, words(1) + b"\0\x0b\3" + bytes(selection))


def pcr_value(response):
    return response[-32:]


def nv_define(index, size, attributes=NV_ATTRIBUTES, auth=b""):
    public = struct.pack(">IHIHH", index, 0x0B, attributes, 0, size)
    return tpm_command(0x12A, words(OWNER) + EMPTY_AUTH + sized(auth) + sized(public), True)


def nv_write(index, data, offset=0):
    return tpm_command(0x137, words(index, index) + EMPTY_AUTH + sized(data) + struct.pack(">H", offset), True)


def nv_increment(index):
    return tpm_command(0x134, words(index, index) + EMPTY_AUTH, True)


def nv_read(index, size, offset=0):
    return tpm_command(0x14E, words(index, index) + EMPTY_AUTH + struct.pack(">HH", size, offset), True)


def nv_data(response):
    if rc_of(response) != 0:
        raise AssertionError("TPM2_NV_Read: 0x%x" % rc_of(response))
    length = struct.unpack(">H", response[14:16])[0]
    return response[16:16 + length]


def create_primary(public):
    """The owner's, of this template."""
    return tpm_command(0x131, words(OWNER) + EMPTY_AUTH + b"\0\4\0\0\0\0" + sized(public) + b"\0\0" + words(0), True)


def evict(handle, persistent):
    """By the owner: it is made persistent, or what is persistent is removed."""
    return tpm_command(0x120, words(OWNER, handle) + EMPTY_AUTH + words(persistent), True)


def create_primary_rsa(unique):
    """An RSA-2048 storage key; each UNIQUE is a search for primes of its own."""
    public = (struct.pack(">HHIH", 1, 0x0B, 0x00030472, 0) + struct.pack(">HHH", 6, 128, 0x43)
              + struct.pack(">HHI", 0x10, 2048, 0) + sized(unique))
    return create_primary(public)


def create_primary_signing():
    """A restricted ECDSA P-256 key, as quotes want one."""
    public = (struct.pack(">HHIH", 0x23, 0x0B, 0x00050072, 0) + struct.pack(">HHHHH", 0x10, 0x18, 0x0B, 3, 0x10)
              + sized(b"") + sized(b""))
    return create_primary(public)


def quote(handle, nonce):
    """Of the SHA-256 PCRs 0 to 7; HANDLE as bytes."""
    return tpm_command(0x158, handle + EMPTY_AUTH + sized(nonce) + b"\0\x10" + words(1) + b"\0\x0b\3\xff\0\0", True)


def flush(handle):
    return tpm_command(0x165, handle)


def rc_of(response):
    return struct.unpack(">I", response[6:10])[0]
