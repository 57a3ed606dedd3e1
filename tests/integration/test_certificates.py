#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Endorsement and storage root keys of a new TPM, and their certificates as a guest finds them."""
import datetime
import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from certificates import (P256, P384, RSA, certificates, good, hash_of, nv, openssl, public_pem, refuses,  # noqa: E402
                          text_of, verifies)
from device import VTPM, Skip, contains, lacks, main, read_file, same, true, write_file  # noqa: E402
from tpm2_tools import Tools  # noqa: E402

EVERY_KIND = {RSA: (0x81010001, 0x1C00002), P256: (0x8101000A, 0x1C0000A), P384: (0x81010016, 0x1C00016),
              "ecc_nist_p521": (0x81010018, 0x1C00018), "rsa3072": (0x8101001C, 0x1C0001C)}
LOCKED = "ppwrite|writelocked|writedefine|ppread|ownerread|authread|no_da|written|platformcreate"


def test_defaults(place):
    """what a guest finds that was told nothing: keys, certificates, one bank; as tpm2-tools look for them"""
    place.create("state.vtpm", "--ek", RSA + "," + P384)
    tools = Tools(place, create=False)
    tools("getekcertificate -o rsa.der")
    from_guest = openssl("x509", "-inform", "der", "-in", "rsa.der").decode()
    told = certificates(place)
    rsa, ecc = told["endorsement_keys"]
    same((rsa["kind"], rsa["handle"], rsa["nv_index"]), (RSA, "0x81010001", "0x01c00002"))
    same((ecc["kind"], ecc["handle"], ecc["nv_index"]), (P384, "0x81010016", "0x01c00016"))
    same(from_guest, rsa["certificate"])
    same(nv(tools, 0x1C00016), ecc["certificate"])
    same(nv(tools, 0x1C08000), told["platform_certificate"])
    chain = good(place, "ca", "export")
    for certificate in (rsa["certificate"], ecc["certificate"], told["platform_certificate"]):
        true(verifies(certificate, chain), "openssl verify")
    for key in (rsa, ecc):
        same(hash_of(key["certificate"]), key["key_hash"])
    for kind, handle in (("rsa", 0x81010001), ("ecc384", 0x81010016)):
        tools("createek -G %s -c ek.ctx -f pem -u ek.pem" % kind)
        same(read_file("ek.pem"), public_pem(tools, handle), "tpm2_createek " + kind)
    tools("readpublic -Q -c 0x81010001 -f pem -o ek.pem")
    same(openssl("x509", "-noout", "-pubkey", data=rsa["certificate"].encode()), read_file("ek.pem"))
    same(re.findall(r"(sha\d+): \[ 0", tools("getcap pcrs").decode()), ["sha256"])
    same(tools("nvreadpublic").decode().count(LOCKED), 3)


def test_profile(place):
    """certificates as the TCG profiles want them: names, usages, attributes; never an end, never a VM"""
    vm = "5f0c1f66-3ad1-4d06-8b8e-0c62e0a5a0b1"
    place.create("state.vtpm", "--ek", RSA + "," + P384, "--vm-uuid", vm)
    told = certificates(place)
    same(told["vm_uuid"], vm)
    rsa, ecc = (text_of(key["certificate"]) for key in told["endorsement_keys"])
    platform = text_of(told["platform_certificate"])
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%b %d 00:00:00 %Y GMT").replace(" 0", " ", 1)
    for text in (rsa, ecc, platform):
        contains(text, "Version: 3", "Not After : Dec 31 23:59:59 9999 GMT", "CA:FALSE",
                 "Subject: serialNumber = " + told["vtpm_id"])
        true(today in text or "00:00:00" in text, "valid from the start of a day")
        lacks(text, vm)
    for text in (rsa, ecc):
        contains(text, "DirName:/2.23.133.2.1=id:49424D00/2.23.133.2.2=SW TPM/2.23.133.2.3=id:20191023",
                 "Extended Key Usage: 2.23.133.8.1", "Subject Directory Attributes")
    contains(rsa, "Key Usage: critical Key Encipherment")
    contains(ecc, "Key Usage: critical Key Agreement")
    contains(platform, "Extended Key Usage: 2.23.133.8.2",
             "DirName:/2.23.133.5.1.1=vtpm/2.23.133.5.1.4=virtual machine")
    der = openssl("x509", "-outform", "der", data=told["endorsement_keys"][0]["certificate"].encode())
    # TPMSpecification: family "2.0", level 0, revision 164 (TCG EK Credential Profile 3.1.3)
    true(bytes.fromhex("06056781050210310e300c0c03322e30020100020200a4") in der,
         "TPM specification in " + der.hex())


def test_without_a_key(place):
    """inspect --certificates tells the same with no key at hand, while the VM runs and to whom may only read"""
    place.create("state.vtpm", "--ek", RSA + "," + P384)
    told, text = certificates(place), good(place, "inspect", "--certificates", "state.vtpm")
    same(text.count("BEGIN CERTIFICATE"), 3)
    contains(text, told["vtpm_id"], *[key["key_hash"] for key in told["endorsement_keys"]])
    device = place.start("state.vtpm")
    device.powered()
    os.chmod("state.vtpm", 0o400)
    os.rename(place.data_dir, "away")
    same(certificates(place), told)
    same(good(place, "inspect", "--certificates", "state.vtpm"), text)
    true(not os.path.exists(place.data_dir), "inspect made a place for keys")
    os.rename("away", place.data_dir)
    os.chmod("state.vtpm", 0o600)
    device.term()


def test_serials(place):
    """serial numbers: random, up to 128 bits, never one twice"""
    serials = []
    for i in range(4):
        place.create("s%d" % i, "--ek", P384)
        told = certificates(place, "s%d" % i)
        for pem in (told["endorsement_keys"][0]["certificate"], told["platform_certificate"]):
            serials.append(int(openssl("x509", "-noout", "-serial", data=pem.encode()).decode().split("=")[1], 16))
    same(len(set(serials)), 8)
    true(max(serials).bit_length() in range(120, 129), "128 bits, not %s" % serials)


def test_in_one_process(place):
    """create starts the helpers of provider and authority only, and makes no file but the state's and the host's own"""
    if not shutil.which("strace"):
        raise Skip("strace is not installed")
    env = dict(place.env, ASAN_OPTIONS="detect_leaks=0")  # which wants to trace, too
    done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=execve,openat", "-o", "trace", VTPM, "create",
                           "state.vtpm", "--ek", P384, "--config", place.config], env=env, capture_output=True,
                          text=True, timeout=60, check=False)
    if done.returncode and not os.path.getsize("trace"):
        raise Skip("strace may not trace here")
    same(done.returncode, 0, done.stderr)
    trace = read_file("trace").decode()
    programs = {os.path.basename(path) for path in re.findall(r'execve\("([^"]+)"', trace)}
    true(programs <= {os.path.basename(VTPM), "vtpm-provider-native", "vtpm-ca-local"}, programs)
    made = re.findall(r'openat\(\w+, "([^"]+)", [^)\n]*(?:O_CREAT|O_TMPFILE)', trace)
    same([path for path in made if path != "." and not path.startswith(place.data_dir + "/")], [])
    same([name for name in os.listdir(".") if "state" in name], ["state.vtpm"])


def test_every_kind(place):
    """every kind of key the library makes: handle, index, certificate, and tpm2_createek equals it"""
    place.create("state.vtpm", "--ek", ",".join(EVERY_KIND), "--pcr-banks", "sha1,sha256,sha384")
    told = certificates(place)
    chain = good(place, "ca", "export")
    tools = Tools(place, create=False)
    same({key["kind"] for key in told["endorsement_keys"]}, set(EVERY_KIND))
    for key in told["endorsement_keys"]:
        handle, index = EVERY_KIND[key["kind"]]
        same((int(key["handle"], 16), int(key["nv_index"], 16)), (handle, index))
        same(nv(tools, index), key["certificate"])
        true(verifies(key["certificate"], chain), key["kind"])
        same(openssl("x509", "-noout", "-pubkey", data=key["certificate"].encode()), public_pem(tools, handle))
    for kind, name in (("ecc256", P256), ("ecc521", "ecc_nist_p521"), ("rsa3072", "rsa3072")):
        tools("createek -G %s -c ek.ctx -f pem -u ek.pem" % kind)
        same(read_file("ek.pem"), public_pem(tools, EVERY_KIND[name][0]), "tpm2_createek " + kind)
    same(re.findall(r"(sha\d+): \[ 0", tools("getcap pcrs").decode()), ["sha1", "sha256", "sha384"])


def test_what_there_is_not(place):
    """a kind that the library has not is told with its answer; misspelt ones, none at all, no certificates"""
    done = place.vtpm("create", "state.vtpm", "--config", place.config, "--ek", "rsa4096")
    if done.returncode:
        same(done.returncode, 1)
        contains(done.stderr, "[failed]", "rsa4096", "0x1c4")
        same(os.path.exists("state.vtpm"), False)
    for args in (("--ek", "rsa1024"), ("--ek", "rsa2048,"), ("--srk", "rsa2048,rsa3072"), ("--pcr-banks", "md5"),
                 ("--pcr-banks", ""), ("--ca", "exec:relative"), ("--ca", "no such")):
        refuses(place, 2, ["[usage]", args[0]], "create", "other.vtpm", *args)
    refuses(place, 2, ["[usage]", "'nobody'", "vtpm ca create nobody"], "create", "other.vtpm", "--ca", "nobody")
    same(os.path.exists("other.vtpm"), False)
    place.create("none", "--ek", "none", "--srk", "none")
    same(certificates(place, "none")["endorsement_keys"], [])
    place.create("bare", "--ek", P384, "--ca", "none")
    bare = certificates(place, "bare")
    same((len(bare["endorsement_keys"]), bare["endorsement_keys"][0]["certificate"], bare["platform_certificate"]),
         (1, None, None))
    true(not os.path.exists(os.path.join(place.data_dir, "ca")), "no authority was needed")


def handles(tools, kind):
    return sorted(re.findall("0x[0-9a-fA-F]+", tools("getcap handles-" + kind).decode()))


def test_storage_key(place):
    """--srk: a storage root key at 0x81000001 that seals; --no-platform-cert; only what was asked for"""
    place.create("state.vtpm", "--ek", P384, "--srk", RSA, "--no-platform-cert")
    same(certificates(place)["platform_certificate"], None)
    tools = Tools(place, create=False)
    same(handles(tools, "persistent"), ["0x81000001", "0x81010016"])
    contains(tools("readpublic -c 0x81000001").decode(),
             "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
    tools("create -Q -C 0x81000001 -u seal.pub -r seal.priv -i -", input=b"secret")
    tools("load -Q -C 0x81000001 -u seal.pub -r seal.priv -c seal.ctx")
    same(tools("unseal -c seal.ctx"), b"secret")
    tools.restart()
    same(handles(tools, "nv-index"), ["0x1C00016"])


def test_storage_key_kinds(place):
    """a storage root key of every kind the library makes, and one that it has not is told"""
    for kind in EVERY_KIND:
        place.create("state.vtpm", "--ek", "none", "--srk", kind)
        tools = Tools(place, create=False)
        same(handles(tools, "persistent"), ["0x81000001"])
        tools("create -Q -C 0x81000001 -u seal.pub -r seal.priv -i -", input=b"secret")
        tools("load -Q -C 0x81000001 -u seal.pub -r seal.priv -c seal.ctx")
        same(tools("unseal -c seal.ctx"), b"secret", kind)
        tools.device.term()
        os.unlink("state.vtpm")
    done = place.vtpm("create", "state.vtpm", "--config", place.config, "--ek", "none", "--srk", "rsa4096")
    if done.returncode:
        contains(done.stderr, "[failed]", "rsa4096", "0x1c4")


def test_no_writing(place):
    """a guest's owner cannot write or undefine a certificate"""
    place.create("state.vtpm", "--ek", P384)
    tools = Tools(place, create=False)
    for line in ("nvwrite -C o 0x1c00016 -i -", "nvwrite -C p 0x1c00016 -i -", "nvundefine -C o 0x1c00016"):
        true(tools.run(line, input=b"x").returncode != 0, line)
    same(nv(tools, 0x1C00016), certificates(place)["endorsement_keys"][0]["certificate"])


def test_credential(place):
    """a credential made for the certified key opens in this TPM, and in no other"""
    place.create("state.vtpm", "--ek", RSA)
    tools = Tools(place, create=False)
    pem = openssl("x509", "-noout", "-pubkey", data=certificates(place)["endorsement_keys"][0]["certificate"].encode())
    write_file("ek.pem", pem)
    tools("createak -Q -C 0x81010001 -c ak.ctx -G ecc -g sha256 -s ecdsa -n ak.name")
    write_file("secret", b"for this TPM only")
    name = read_file("ak.name").hex()
    done = subprocess.run(["tpm2", "makecredential", "-Q", "-T", "none", "-u", "ek.pem", "-G", "rsa", "-s", "secret",
                           "-n", name, "-o", "credential"], capture_output=True, timeout=60, check=False)
    same(done.returncode, 0, done.stderr.decode())

    def activate(run):
        run("startauthsession --policy-session -S session.ctx")
        run("policysecret -Q -S session.ctx -c e")
        return run("activatecredential -Q -c ak.ctx -C 0x81010001 -i credential -o opened -P session:session.ctx")

    activate(tools)
    same(read_file("opened"), b"for this TPM only")
    tools.device.term()
    os.rename("state.vtpm", "first.vtpm")
    os.unlink("opened")
    place.create("state.vtpm", "--ek", RSA)
    other = Tools(place, create=False)
    other("createak -Q -C 0x81010001 -c ak.ctx -G ecc -g sha256 -s ecdsa -n ak.name")
    true(activate(other.run).returncode != 0, "another TPM activates it")
    true(not os.path.exists("opened"), "another TPM opens it")


def test_run_create(place):
    """run --create makes the same TPM, its certificates too"""
    device = place.start("new.vtpm", "--create")
    control, _ = device.powered()
    told = certificates(place, "new.vtpm")
    same([key["kind"] for key in told["endorsement_keys"]], [RSA, P384])
    true(verifies(told["endorsement_keys"][0]["certificate"], good(place, "ca", "export")), "openssl verify")
    control.close()
    device.term()


if __name__ == "__main__":
    main(globals())
