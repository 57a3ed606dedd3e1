#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""tpm2-tools over the swtpm TCTI of tpm2-tss: it is a TPM, over unix sockets and TCP, over stops and starts."""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import SHUTDOWN, STOP, Control, contains, lacks, main, read_file, same, true, write_file  # noqa: E402
from tpm2_tools import PCR, Tools  # noqa: E402

SEALED_TO = "sha256:1"


def basics(tpm):
    tpm("selftest --fulltest")
    same(len(tpm("getrandom 32")), 32)
    true(tpm("getrandom 32") != tpm("getrandom 32"), "the same random bytes twice")
    contains(tpm("getcap properties-fixed").decode(), "TPM2_PT_FAMILY_INDICATOR", '"2.0"')
    before = tpm.pcr()
    tpm("pcrextend 16:sha256=" + "ab" * 32)
    after = tpm.pcr()
    true(before != after, "PCR 16 was not extended")
    tpm("pcrreset 16")
    same(tpm.pcr(), "0" * 64)
    tpm("getcap algorithms")
    tpm("getcap commands")
    tpm("readclock")
    tpm("startup")  # a second one is harmless to the tools


def test_basics_unix(place):
    """selftest, getrandom, capabilities, PCRs over unix sockets"""
    tpm = Tools(place)
    basics(tpm)
    tpm.device.term()


def test_basics_tcp(place):
    """the same over TCP"""
    tpm = Tools(place, tcp=True)
    basics(tpm)
    tpm.device.term()


def test_seal(place):
    """a secret sealed to a PCR unseals after a stop and a start, and not when the PCR is another"""
    tpm = Tools(place)
    write_file("secret", b"what was sealed")
    tpm("createprimary -C o -g sha256 -G rsa2048 -c primary.ctx -Q")
    tpm("evictcontrol -C o -c primary.ctx 0x81000001 -Q")
    tpm("pcrextend 1:sha256=" + "01" * 32)
    tpm("createpolicy --policy-pcr -l %s -L policy -Q" % SEALED_TO)
    tpm("create -C 0x81000001 -L policy -i secret -u pub -r priv -Q")
    tpm("load -C 0x81000001 -u pub -r priv -c sealed.ctx -Q")
    same(tpm("unseal -c sealed.ctx -p pcr:" + SEALED_TO), b"what was sealed")
    tpm.restart()
    tpm("load -C 0x81000001 -u pub -r priv -c sealed.ctx -Q")
    contains(tpm.fails("unseal -c sealed.ctx -p pcr:" + SEALED_TO), "policy")
    tpm("pcrextend 1:sha256=" + "01" * 32)
    same(tpm("unseal -c sealed.ctx -p pcr:" + SEALED_TO), b"what was sealed")
    tpm.restart("state")  # the end before sent TPM2_Shutdown(STATE)
    tpm("load -C 0x81000001 -u pub -r priv -c sealed.ctx -Q")
    same(tpm("unseal -c sealed.ctx -p pcr:" + SEALED_TO), b"what was sealed")


def test_primary_is_the_same(place):
    """primary keys come from seeds that last: the same after a start, others in another vTPM"""
    tpm = Tools(place)
    names = []
    for number in range(3):
        for hierarchy in ("e", "o", "p"):
            tpm("createprimary -C %s -G ecc -c p.ctx -Q" % hierarchy)
            tpm("readpublic -c p.ctx -n name%d%s -Q" % (number, hierarchy))
        names.append([read_file("name%d%s" % (number, h)) for h in ("e", "o", "p")])
        if number == 1:
            tpm.device.term()
            os.rename("state.vtpm", "first.vtpm")
            place.create()
            tpm.start()
        else:
            tpm.restart()
    same(names[0], names[1])
    same(len({*names[0], *names[2]}), 6)


def test_nv(place):
    """NV indices and a counter: defined, written, read, kept over stops, starts and SIGKILL, undefined"""
    tpm = Tools(place)
    tpm("nvdefine 0x1500001 -C o -s 32 -a ownerread|ownerwrite|authread|authwrite -p index-auth -Q")
    tpm("nvdefine 0x1500002 -C o -s 8 -a ownerread|ownerwrite|nt=counter -Q")
    write_file("bytes", bytes(range(32)))
    tpm("nvwrite 0x1500001 -C 0x1500001 -P index-auth -i bytes")
    tpm("nvincrement 0x1500002 -C o")
    count = int.from_bytes(tpm("nvread 0x1500002 -C o"), "big")
    for number in range(3):
        tpm("nvincrement 0x1500002 -C o")
        if number == 1:
            tpm.device.kill()
            tpm.start()
        else:
            tpm.restart()
        same(tpm("nvread 0x1500001 -C o -s 32"), bytes(range(32)))
        same(int.from_bytes(tpm("nvread 0x1500002 -C o"), "big"), count + number + 1)
        same(tpm("nvread 0x1500001 -C 0x1500001 -P index-auth -s 32"), bytes(range(32)))
    tpm.fails("nvread 0x1500001 -C 0x1500001 -P wrong -s 32")
    tpm("nvundefine 0x1500001 -C o")
    tpm.restart()
    tpm.fails("nvread 0x1500001 -C o -s 32")


def test_keys(place):
    """RSA and ECC keys sign, verify, encrypt and decrypt; symmetric and HMAC too"""
    tpm = Tools(place)
    write_file("message", b"to be signed")
    tpm("createprimary -C o -G rsa2048 -c primary.ctx -Q")
    for kind in ("rsa2048", "ecc256"):
        tpm("create -C primary.ctx -G %s -u pub -r priv -c key.ctx -Q" % kind)
        tpm("sign -c key.ctx -g sha256 -o signature message")
        tpm("verifysignature -c key.ctx -g sha256 -m message -s signature")
        write_file("other", b"something else")
        tpm.fails("verifysignature -c key.ctx -g sha256 -m other -s signature")
        if kind == "rsa2048":
            tpm("rsaencrypt -c key.ctx -o cipher message")
            same(tpm("rsadecrypt -c key.ctx cipher"), b"to be signed")
        tpm("flushcontext -t -Q")
    tpm("createprimary -C o -G ecc -c primary.ctx -Q")
    tpm("create -C primary.ctx -G hmac -u pub -r priv -c key.ctx -Q")
    same(len(tpm("hmac -c key.ctx message")), 32)


def test_quote(place):
    """a quote of the PCRs verifies, and one of others does not"""
    tpm = Tools(place)
    tpm("createek -G ecc -c ek.ctx -Q")
    tpm("createak -C ek.ctx -c ak.ctx -G ecc -g sha256 -s ecdsa -u ak.pem -f pem -n ak.name -Q")
    tpm("pcrextend 16:sha256=" + "02" * 32)
    tpm("quote -c ak.ctx -l sha256:0,16 -q 0123456789abcdef -m message -s signature -o pcrs -g sha256 -Q")
    tpm("checkquote -u ak.pem -m message -s signature -f pcrs -g sha256 -q 0123456789abcdef -Q")
    tpm.fails("checkquote -u ak.pem -m message -s signature -f pcrs -g sha256 -q ffffffff -Q")
    spoilt = bytearray(read_file("message"))
    spoilt[-1] ^= 1
    write_file("message", bytes(spoilt))
    tpm.fails("checkquote -u ak.pem -m message -s signature -f pcrs -g sha256 -q 0123456789abcdef -Q")


def used_protected_index(tpm):
    """Uses an index under dictionary attack protection: from now on an unclean end would count."""
    tpm("nvread 0x1500003 -C 0x1500003 -P right -s 4")


def test_lockout(place):
    """the lockout counter does not grow over ends that the guest did not announce; wrong guesses are kept"""
    tpm = Tools(place)
    tpm("dictionarylockout --setup-parameters --max-tries=10 --recovery-time=10000 --lockout-recovery-time=10000")
    tpm("nvdefine 0x1500003 -C o -s 4 -a authread|authwrite -p right -Q")
    write_file("four", b"four")
    tpm("nvwrite 0x1500003 -C 0x1500003 -P right -i four")
    same(tpm.variable("TPM2_PT_LOCKOUT_COUNTER"), 0)
    tpm.fails("nvread 0x1500003 -C 0x1500003 -P wrong -s 4")
    same(tpm.variable("TPM2_PT_LOCKOUT_COUNTER"), 1)
    for how in ("SIGTERM", "SHUTDOWN", "reset", "two resets", "STOP", "idle"):
        used_protected_index(tpm)
        if how == "SIGTERM":
            tpm.restart()
        elif how == "SHUTDOWN":
            with Control("tpm.ctrl") as control:
                same(control.result(SHUTDOWN), 0)
            same(tpm.device.wait(), 0)
            tpm.start()
        elif how == "idle":
            tpm.restart()
            tpm.restart()
        else:
            with Control("tpm.ctrl") as control:
                if how == "STOP":
                    same(control.result(STOP), 0)
                same(control.init(), 0)
                if how == "two resets":
                    same(control.init(), 0)
            tpm("startup -c")
        same(tpm.variable("TPM2_PT_LOCKOUT_COUNTER"), 1, "after " + how)
        used_protected_index(tpm)
    used_protected_index(tpm)
    tpm.device.kill()  # this nobody can announce: it counts, and shows that the test sees it
    tpm.start()
    same(tpm.variable("TPM2_PT_LOCKOUT_COUNTER"), 2)
    tpm("dictionarylockout --clear-lockout")
    same(tpm.variable("TPM2_PT_LOCKOUT_COUNTER"), 0)


def test_guesses_are_kept(place):
    """guesses at a protected index lock the TPM, also when it is killed after each"""
    tpm = Tools(place)
    tpm("dictionarylockout --setup-parameters --max-tries=3 --recovery-time=10000 --lockout-recovery-time=10000")
    tpm("nvdefine 0x1500003 -C o -s 4 -a authread|authwrite -p right -Q")
    write_file("four", b"four")
    tpm("nvwrite 0x1500003 -C 0x1500003 -P right -i four")
    for _ in range(3):
        tpm.fails("nvread 0x1500003 -C 0x1500003 -P wrong -s 4")
        tpm.device.kill()
        tpm.start()
    contains(tpm.fails("nvread 0x1500003 -C 0x1500003 -P right -s 4").lower(), "lockout")


def test_locality(place):
    """the TCTI sets the locality in one byte, on a connection of its own for each command"""
    tpm = Tools(place, "--log-level", "debug")
    for locality in (0, 2, 3):
        same(place.vtpm("ctl", "tpm.ctrl", "locality", str(locality)).returncode, 0)
        tpm.fails("pcrreset 20")  # is for locality 2 and above: the tools say 0 before they send it
        tpm("pcrreset 16")
    contains(tpm.device.log(), "control command 5 answered 0x0")
    lacks(tpm.device.log(), "answered 0xa", "answered 0x3")


def test_hierarchies(place):
    """authorisations of the hierarchies last; clear takes keys and indices away"""
    tpm = Tools(place)
    tpm("changeauth -c o owner-auth")
    tpm("changeauth -c l lockout-auth")
    tpm.restart()
    tpm.fails("nvdefine 0x1500004 -C o -s 4")
    tpm("nvdefine 0x1500004 -C o -P owner-auth -s 4 -Q")
    tpm("createprimary -C o -P owner-auth -G ecc -c primary.ctx -Q")
    tpm("evictcontrol -C o -P owner-auth -c primary.ctx 0x81000002 -Q")
    tpm.restart()
    contains(tpm("getcap handles-persistent").decode(), "0x81000002")
    tpm("clear -c l lockout-auth")
    tpm.restart()
    same(tpm("getcap handles-persistent").strip(), b"")
    tpm("nvdefine 0x1500004 -C o -s 4 -Q")


def test_sessions_and_contexts(place):
    """sessions and saved contexts last while the TPM is on, whatever clients come and go"""
    tpm = Tools(place)
    tpm("createprimary -C o -G ecc -c primary.ctx -Q")
    tpm("startauthsession --policy-session -S session.ctx")
    tpm("policypcr -S session.ctx -l " + PCR)
    for _ in range(20):
        tpm("getrandom 4")
    tpm("sessionconfig session.ctx")
    tpm("flushcontext session.ctx")
    tpm("readpublic -c primary.ctx -Q")


if __name__ == "__main__":
    main(globals())
