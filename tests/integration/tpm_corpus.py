# SPDX-License-Identifier: BSD-3-Clause
"""A valid TPM command of every kind that libtpms knows (TCG TPM 2.0 Library, parts 2 and 3), run in an order in which each
finds what it needs: what the soak mutates, and what the fuzzer of the whole device begins with.

tpm_corpus.py FOLDER: writes the seeds of tests/fuzz/fuzz_device.c, made with a device that is started for it.
"""
import os
import struct
import sys
import tempfile

from tpm_bytes import LOCKOUT, OWNER, PLATFORM, rc_of, sized, tpm_command, words

ENDORSEMENT, NULL = 0x4000000B, 0x40000007
SHA256, AES, CFB, NO_ALG, ECC, RSA, KEYED_HASH, SYMMETRIC, P256 = 0x0B, 6, 0x43, 0x10, 0x23, 1, 8, 0x25, 3
FIXED, MADE_HERE, WITH_AUTH, NO_DA = 0x12, 0x20, 0x40, 0x400
RESTRICTED, DECRYPT, SIGN = 0x10000, 0x20000, 0x40000
ORDINARY = FIXED | MADE_HERE | WITH_AUTH | NO_DA
NV, NV_COUNTER_INDEX, NV_BITS_INDEX, NV_EXTEND_INDEX, NV_CHANGED, NV_DELETED = range(0x01500010, 0x01500016)
DIGEST = bytes(range(32))
NULL_TICKET = struct.pack(">HIH", 0x8024, NULL, 0)  # TPM_ST_HASHCHECK
SOME_PCRS = words(1) + b"\0\x0b\3\xff\0\0"
SIGNATURE = struct.pack(">HH", 0x18, SHA256) + sized(DIGEST) + sized(DIGEST)


def half(*values):
    return struct.pack(">%dH" % len(values), *values)


def command(code, *handles, auth=0, body=b"", sessions=(0x40000009,)):
    """AUTH handles of them are authorised, by the empty password or SESSIONS."""
    parts = b"".join(words(sessions[i % len(sessions)]) + b"\0\0\1\0\0" for i in range(auth))
    return tpm_command(code, words(*handles) + (words(len(parts)) + parts if auth else b"") + body, auth > 0)


def public(kind, attributes, details, policy=b""):
    return sized(struct.pack(">HHI", kind, SHA256, attributes) + sized(policy) + details)


def ecc(attributes, symmetric=half(NO_ALG), scheme=half(NO_ALG), policy=b""):
    return public(ECC, attributes, symmetric + scheme + half(P256, NO_ALG, 0, 0), policy)


STORAGE = ecc(ORDINARY | RESTRICTED | DECRYPT, half(AES, 128, CFB))
SIGNING = ecc(ORDINARY | SIGN, scheme=half(0x18, SHA256))
EXCHANGE = ecc(ORDINARY | DECRYPT)
RSA_DECRYPT = public(RSA, ORDINARY | DECRYPT, half(NO_ALG, 0x15, 2048) + words(0) + half(0))  # RSAES
CIPHER = public(SYMMETRIC, ORDINARY | DECRYPT | SIGN, half(AES, 128, CFB, 0))
HMAC_KEY = public(KEYED_HASH, ORDINARY | SIGN, half(5, SHA256, 0))
SEALED = public(KEYED_HASH, FIXED | WITH_AUTH | NO_DA, half(NO_ALG, 0))
NOTHING_SENSITIVE = sized(half(0, 0))


class Answer:
    """Reads a response's parameters one after the other."""

    def __init__(self, response, handles=0, sessions=True):
        self.at, self.response = 10 + 4 * handles + (4 if sessions else 0), response

    def take(self, count):
        self.at += count
        return self.response[self.at - count:self.at]

    def sized(self):
        """With its length before it."""
        return self.take(2 + int.from_bytes(self.response[self.at:self.at + 2], "big"))

    def rest(self):
        return self.response[self.at:]


class Corpus:
    """Runs the commands by RUN (a command's bytes to its response's). COMMANDS then is what was run, as (code, bytes), and
    GROUPS the same by what it is about; GOOD the codes that a TPM has answered with success."""

    def __init__(self, run):
        self.run, self.groups, self.good = run, {}, set()
        for part in (self.plain, self.keys, self.duplicates, self.ciphers, self.nv, self.sessions, self.platform, self.refused):
            self.group = self.groups.setdefault(part.__name__, [])
            part()
        self.commands = [command for group in self.groups.values() for command in group]

    def do(self, code, *handles, **how):
        data = command(code, *handles, **how)
        response = self.run(data)
        self.group.append((code, data))
        if rc_of(response) == 0:
            self.good.add(code)
        return response

    def flush(self, *handles):
        for handle in handles:
            self.do(0x165, body=words(handle))

    def primary(self, hierarchy, what, sensitive=NOTHING_SENSITIVE):
        response = self.do(0x131, hierarchy, auth=1, body=sensitive + what + half(0) + words(0))
        return int.from_bytes(response[10:14], "big")

    def create(self, parent, what, sensitive=NOTHING_SENSITIVE):
        """(private, public, creation hash, ticket)"""
        answer = Answer(self.do(0x153, parent, auth=1, body=sensitive + what + half(0) + words(0)))
        private, made, _, digest = (answer.sized() for _ in range(4))
        return private, made, digest, answer.take(6) + answer.sized()

    def load(self, parent, private, made):
        return int.from_bytes(self.do(0x157, parent, auth=1, body=private + made)[10:14], "big")

    def create_loaded(self, parent, what, sensitive=NOTHING_SENSITIVE):
        return int.from_bytes(self.do(0x191, parent, auth=1, body=sensitive + what)[10:14], "big")

    def session(self, kind):
        body = sized(bytes(16)) + half(0) + bytes([kind]) + half(NO_ALG, SHA256)
        return int.from_bytes(self.do(0x176, NULL, NULL, body=body)[10:14], "big")

    def plain(self):
        for capability, first in ((0, 0), (1, 0x01000000), (1, 0x80000000), (2, 0x11F), (5, 0), (6, 0x100), (7, 0), (8, 0)):
            self.do(0x17A, body=words(capability, first, 200))
        self.do(0x142, body=words(1) + half(SHA256))
        self.do(0x143, body=b"\0")
        self.do(0x17C)
        self.do(0x146, body=sized(b"entropy"))
        self.do(0x17B, body=half(32))
        self.do(0x17D, body=sized(b"to be hashed") + half(SHA256) + words(OWNER))
        self.do(0x181)
        self.do(0x178, body=half(P256))
        self.do(0x18A, body=half(RSA, AES, 128, CFB, NO_ALG, 2048) + words(0))
        self.do(0x182, 16, auth=1, body=words(1) + half(SHA256) + DIGEST)
        self.do(0x13C, 16, auth=1, body=sized(b"an event"))
        self.do(0x17E, body=SOME_PCRS)
        self.do(0x13D, 16, auth=1)

    def keys(self):
        storage = self.primary(OWNER, STORAGE)
        private, made, digest, ticket = self.create(storage, SIGNING)
        key = self.load(storage, private, made)
        self.do(0x14A, key, key, auth=1, body=sized(b"nonce") + digest + half(NO_ALG) + ticket)
        self.flush(key)
        key = self.create_loaded(storage, SIGNING)  # which no TPM but this one has to have made
        name = Answer(self.do(0x173, key), sessions=False)
        made, name = name.sized(), name.sized()
        signature = Answer(self.do(0x15D, key, auth=1, body=sized(DIGEST) + half(NO_ALG) + NULL_TICKET)).response[14:-5]
        self.verified = self.do(0x177, key, body=sized(DIGEST) + signature)[10:]
        self.do(0x148, key, key, auth=2, body=sized(b"nonce") + half(NO_ALG))
        self.do(0x14C, ENDORSEMENT, key, auth=2, body=sized(b"nonce") + half(NO_ALG))
        self.do(0x158, key, auth=1, body=sized(b"nonce") + half(NO_ALG) + SOME_PCRS)
        self.do(0x133, ENDORSEMENT, key, auth=2, body=sized(b"nonce") + half(NO_ALG))
        self.do(0x197, key, key, auth=2, body=half(0, NO_ALG) + sized(b"\x30\0"))
        self.do(0x18B, key, auth=1, body=half(0, 0, 0))
        audited = self.session(0)
        self.do(0x14D, ENDORSEMENT, key, audited, auth=2, body=sized(b"nonce") + half(NO_ALG))
        self.flush(audited)
        self.do(0x150, key, storage, auth=1, body=sized(b""))
        context = self.do(0x162, key)[10:]
        self.flush(int.from_bytes(self.do(0x161, body=context)[10:14], "big"))
        made_for = Answer(self.do(0x168, storage, body=sized(b"credential") + name), sessions=False)
        self.do(0x147, key, storage, auth=2, body=made_for.rest())
        self.do(0x120, OWNER, storage, auth=1, body=words(0x81000123))
        self.do(0x120, OWNER, 0x81000123, auth=1, body=words(0x81000123))
        self.flush(key)
        sealed = self.create_loaded(storage, SEALED, sized(half(0) + sized(b"sealed data")))
        self.do(0x15E, sealed, auth=1)
        self.flush(sealed)
        self.flush(int.from_bytes(self.do(0x167, body=half(0) + made + words(NULL))[10:14], "big"), storage)

    def duplicates(self):
        trial = self.session(3)
        self.do(0x16C, trial, body=words(0x14B))
        policy = Answer(self.do(0x189, trial), sessions=False).sized()[2:]
        self.flush(trial)
        storage = self.primary(OWNER, STORAGE)
        portable = ecc(MADE_HERE | WITH_AUTH | NO_DA | SIGN, scheme=half(0x18, SHA256), policy=policy)
        key = self.create_loaded(storage, portable)
        name = Answer(self.do(0x173, key), sessions=False)
        made, name = name.sized(), name.sized()
        session = self.session(1)
        self.do(0x16C, session, body=words(0x14B))
        out = Answer(self.do(0x14B, key, NULL, auth=1, sessions=(session,), body=half(0, NO_ALG)))
        out.sized()
        duplicate = out.sized()
        self.do(0x156, storage, auth=1, body=half(0) + made + duplicate + half(0, NO_ALG))
        self.do(0x152, NULL, storage, auth=1, body=duplicate + name + half(0))
        self.flush(session, key, storage)

    def ciphers(self):
        rsa = self.primary(NULL, RSA_DECRYPT)
        secret = Answer(self.do(0x174, rsa, body=sized(b"a secret") + half(NO_ALG, 0)), sessions=False).sized()
        self.do(0x159, rsa, auth=1, body=secret + half(NO_ALG, 0))
        self.flush(rsa)
        exchange = self.primary(NULL, EXCHANGE)
        point = Answer(self.do(0x163, exchange), sessions=False)
        point.sized()
        point = point.sized()
        self.do(0x154, exchange, auth=1, body=point)
        counter = self.do(0x18E, body=half(P256))[-2:]
        self.do(0x18D, exchange, auth=1, body=point * 2 + half(0x19) + counter)
        self.flush(exchange)
        storage = self.primary(OWNER, STORAGE)
        cipher = self.create_loaded(storage, CIPHER)
        self.do(0x164, cipher, auth=1, body=b"\0" + half(CFB) + sized(bytes(16)) + sized(b"plain text"))
        self.do(0x193, cipher, auth=1, body=sized(b"plain text") + b"\0" + half(CFB) + sized(bytes(16)))
        self.flush(cipher)
        key = self.create_loaded(storage, HMAC_KEY)
        self.do(0x155, key, auth=1, body=sized(b"text") + half(SHA256))
        sequence = int.from_bytes(self.do(0x15B, key, auth=1, body=half(0, SHA256))[10:14], "big")
        self.do(0x15C, sequence, auth=1, body=sized(b"a piece"))
        self.do(0x13E, sequence, auth=1, body=sized(b"the last") + words(NULL))
        self.flush(key, storage)
        sequence = int.from_bytes(self.do(0x186, body=half(0, NO_ALG))[10:14], "big")
        self.do(0x185, 16, sequence, auth=2, body=sized(b"an event"))
        self.flush(int.from_bytes(self.do(0x186, body=half(0, SHA256))[10:14], "big"))

    def define(self, hierarchy, index, attributes, size, policy=b""):
        what = sized(struct.pack(">IHI", index, SHA256, attributes) + sized(policy) + half(size))
        self.do(0x12A, hierarchy, auth=1, body=half(0) + what)

    def nv(self):
        both, locks = 0x02060006, 0x80004000  # read and write by owner and index, no DA; read and write can be locked
        self.define(OWNER, NV, both | locks, 64)
        self.define(OWNER, NV_COUNTER_INDEX, both | 0x10, 8)
        self.define(OWNER, NV_BITS_INDEX, both | 0x20, 8)
        self.define(OWNER, NV_EXTEND_INDEX, both | 0x40, 32)
        self.do(0x137, NV, NV, auth=1, body=sized(b"what is written") + half(0))
        self.do(0x134, NV_COUNTER_INDEX, NV_COUNTER_INDEX, auth=1)
        self.do(0x135, NV_BITS_INDEX, NV_BITS_INDEX, auth=1, body=bytes(7) + b"\5")
        self.do(0x136, NV_EXTEND_INDEX, NV_EXTEND_INDEX, auth=1, body=sized(b"more"))
        self.do(0x14E, NV, NV, auth=1, body=half(15, 0))
        self.do(0x169, NV)
        key = self.primary(OWNER, SIGNING)
        self.do(0x184, key, NV, NV, auth=2, body=sized(b"nonce") + half(NO_ALG, 15, 0))
        self.flush(key)
        trial = self.session(3)
        self.do(0x149, NV, NV, trial, auth=1, body=sized(b"what") + half(0, 0))
        self.do(0x192, NV, NV, trial, auth=1)
        self.flush(trial)
        self.do(0x132, OWNER, auth=1)
        self.do(0x14F, NV, NV, auth=1)
        self.do(0x138, NV, NV, auth=1)
        self.do(0x122, OWNER, NV_EXTEND_INDEX, auth=1)
        self.by_policy(NV_CHANGED, 0x13B, lambda session: self.do(0x13B, NV_CHANGED, auth=1, sessions=(session,), body=half(0)))
        self.by_policy(NV_DELETED, 0x11F, lambda session: self.do(0x11F, NV_DELETED, PLATFORM, auth=2,
                                                                  sessions=(session, 0x40000009)))

    def by_policy(self, index, code, act):
        """On an INDEX of the platform's whose policy is that CODE is run."""
        trial = self.session(3)
        self.do(0x16C, trial, body=words(code))
        policy = Answer(self.do(0x189, trial), sessions=False).sized()[2:]
        # can be deleted by its policy only, where that is not its change
        self.define(PLATFORM, index, 0x42060407 if code == 0x11F else 0x42060007, 8, policy)
        self.do(0x180, trial)
        session = self.session(1)
        self.do(0x16C, session, body=words(code))
        act(session)
        self.flush(session, trial)

    def sessions(self):
        for again in (3, 1):
            session = self.session(again)
            self.do(0x16B, session)
            self.do(0x18C, session)
            self.do(0x16D, session, body=sized(bytes(8)) + half(0, 3))
            self.do(0x16E, session, body=sized(DIGEST))
            self.do(0x180, session)
            self.do(0x170, session, body=sized(DIGEST))
            self.do(0x180, session)
            self.do(0x190, session, body=sized(DIGEST))
            self.do(0x180, session)
            self.do(0x188, session, body=sized(b"") + sized(b"\0\x0b" + DIGEST) + b"\0")
            self.do(0x180, session)
            self.do(0x16F, session, body=b"\1")
            self.do(0x187, session)
            self.do(0x18F, session, body=b"\0")
            self.do(0x17F, session, body=half(0) + SOME_PCRS)
            self.do(0x171, session, body=words(2) + sized(DIGEST) * 2)
            self.do(0x16A, session, body=half(0, 0) + sized(b"\0\x0b" + DIGEST) + self.verified)
            self.do(0x151, OWNER, session, auth=1, body=half(0, 0, 0) + words(0))
            self.do(0x172, session, body=half(0, 0, 0) + sized(b"\0\x0b" + DIGEST) + half(0x8023) + words(OWNER) + sized(DIGEST))
            self.do(0x162, session)
            self.flush(session)
        key = self.primary(NULL, SIGNING)
        trial = self.session(3)
        self.do(0x160, key, trial, body=half(0, 0, 0) + words(0) + SIGNATURE)
        self.do(0x196, trial, body=half(0, 0, 0) + b"\0")
        self.flush(trial, key)

    def platform(self):
        self.do(0x121, PLATFORM, auth=1, body=words(OWNER) + b"\1")
        self.do(0x127, PLATFORM, auth=1, body=b"\0")
        self.do(0x128, OWNER, auth=1, body=struct.pack(">Q", 10 ** 9))
        self.do(0x130, OWNER, auth=1, body=b"\0")
        self.do(0x129, LOCKOUT, auth=1, body=half(0))
        self.do(0x12E, OWNER, auth=1, body=half(0, NO_ALG))
        self.do(0x139, LOCKOUT, auth=1)
        self.do(0x13A, LOCKOUT, auth=1, body=words(30, 60, 60))
        self.do(0x140, OWNER, auth=1, body=half(SHA256) + words(1, 0x17B) + words(0))
        self.do(0x140, OWNER, auth=1, body=half(NO_ALG) + words(0) + words(1, 0x17B))
        self.do(0x12B, PLATFORM, auth=1, body=words(1) + b"\0\x0b\3\xff\xff\xff")
        self.do(0x12C, PLATFORM, auth=1, body=half(0, NO_ALG) + words(20))
        self.do(0x183, 20, auth=1, body=half(0))
        self.do(0x12D, PLATFORM, auth=1, body=words(1, 0x126) + words(0))
        self.do(0x13F, PLATFORM, auth=1, body=words(0))
        self.do(0x124, PLATFORM, auth=1)
        self.do(0x125, PLATFORM, auth=1)
        self.do(0x126, PLATFORM, auth=1)
        self.do(0x145, body=half(0))
        self.do(0x145, body=half(1))
        self.do(0x144, body=half(0))

    def refused(self):
        """What libtpms knows of the standard and has not."""
        self.do(0x12F, PLATFORM, 0x80000000, auth=1, body=sized(DIGEST) + SIGNATURE)
        self.do(0x141, body=sized(DIGEST))
        self.do(0x179, body=words(0))
        self.do(0x194, 0x90000000, body=words(0, 1))
        self.do(0x195, 0x80000000, OWNER, 0x90000000, auth=2, body=half(0))
        self.do(0x198, 0x40000110, auth=1, body=words(0))


def pieces(corpus):
    """The corpus as inputs of the fuzzer, a few commands each, but for those that take it long (searches for RSA primes)."""
    for group, commands in corpus.groups.items():
        quick = [data for code, data in commands if RSA_DECRYPT not in data]
        for at in range(0, len(quick), 30):
            yield "%s-%d" % (group, at // 30), b"\1" + b"".join(b"\0" + sized(data) for data in quick[at:at + 30])


def main():
    from device import Place  # a device is needed by who makes seeds only
    folder = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        place = Place(work)
        place.create()
        device = place.start()
        for name, data in pieces(Corpus(device.powered()[1].run)):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
        device.term()


if __name__ == "__main__":
    main()
