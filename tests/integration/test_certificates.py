#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Endorsement keys and certificates of a new TPM, and the certificate authorities that sign them."""
import datetime
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import Skip, contains, lacks, main, need_root, read_file, same, true, write_file  # noqa: E402
from keyhost import audit  # noqa: E402
from killed import killer, run_killed  # noqa: E402
from test_tpm2_tools import Tools  # noqa: E402

SOFTHSM = next((path for path in ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so",
                                  "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so") if os.path.exists(path)), None)
RSA, P256, P384 = "rsa2048", "ecc_nist_p256", "ecc_nist_p384"
EVERY_KIND = {RSA: (0x81010001, 0x1C00002), P256: (0x8101000A, 0x1C0000A), P384: (0x81010016, 0x1C00016),
              "ecc_nist_p521": (0x81010018, 0x1C00018), "rsa3072": (0x8101001C, 0x1C0001C)}
LOCKED = "ppwrite|writelocked|writedefine|ppread|ownerread|authread|no_da|written|platformcreate"


def openssl(*args, data=None):
    if not shutil.which("openssl"):
        raise Skip("openssl is not installed")
    done = subprocess.run(["openssl", *args], input=data, capture_output=True, timeout=60, check=False)
    same(done.returncode, 0, "openssl %s: %s" % (args, done.stderr.decode()))
    return done.stdout


def good(place, *args, **options):
    done = place.vtpm(*args, "--config", place.config, **options)
    same(done.returncode, 0, "vtpm %s: %s" % (args, done.stderr))
    return done.stdout


def refuses(place, status, pieces, *args, **options):
    done = place.vtpm(*args, "--config", place.config, **options)
    same(done.returncode, status, "vtpm %s: %s%s" % (args, done.stdout, done.stderr))
    contains(done.stderr, *pieces)


def certificates(place, name="state.vtpm"):
    return json.loads(good(place, "inspect", "--certificates", "--json", name))


def text_of(certificate):
    """What openssl says of a certificate, without the line breaks."""
    return " ".join(openssl("x509", "-noout", "-text", data=certificate.encode()).decode().split())


def verifies(certificate, chain):
    write_file("leaf.pem", certificate, "w")
    write_file("chain.pem", chain, "w")
    done = subprocess.run(["openssl", "verify", "-x509_strict", "-CAfile", "chain.pem", "leaf.pem"],
                          capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0 and "leaf.pem: OK" in done.stdout


def hash_of(certificate):
    key = openssl("x509", "-noout", "-pubkey", data=certificate.encode())
    return hashlib.sha256(openssl("pkey", "-pubin", "-outform", "der", data=key)).hexdigest()


def public_pem(tools, handle):
    tools("readpublic -Q -c 0x%x -f pem -o public.pem" % handle)
    return read_file("public.pem")


def nv(tools, index):
    tools("nvread -C o -o nv.der 0x%x" % index)
    return openssl("x509", "-inform", "der", "-in", "nv.der").decode()


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
    done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=execve,openat", "-o", "trace", place_program(), "create",
                           "state.vtpm", "--ek", P384, "--config", place.config], env=env, capture_output=True,
                          text=True, timeout=60, check=False)
    if done.returncode and not os.path.getsize("trace"):
        raise Skip("strace may not trace here")
    same(done.returncode, 0, done.stderr)
    trace = read_file("trace").decode()
    programs = {os.path.basename(path) for path in re.findall(r'execve\("([^"]+)"', trace)}
    true(programs <= {os.path.basename(place_program()), "vtpm-provider-native", "vtpm-ca-local"}, programs)
    made = re.findall(r'openat\(\w+, "([^"]+)", [^)]*(?:O_CREAT|O_TMPFILE)', trace)
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


def test_default_authority(place):
    """the default authority: made once, root and issuing, files for their owner alone; many creates at once share it"""
    running = [subprocess.Popen([place_program(), "create", "s%d" % i, "--ek", P384, "--config", place.config],
                                env=place.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for i in range(6)]
    for process in running:
        _, errors = process.communicate(timeout=60)
        same(process.returncode, 0, errors.decode())
    folder = os.path.join(place.data_dir, "ca")
    same(sorted(os.listdir(folder)), ["ca.lock", "default.key", "default.pem", "default.root.key"])
    for name in os.listdir(folder):
        same(stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode), 0o600, name)
    same(stat.S_IMODE(os.stat(folder).st_mode), 0o700)
    chain = good(place, "ca", "export", "default")
    same(chain.count("BEGIN CERTIFICATE"), 2)
    lacks(chain, "PRIVATE")
    end = "-----END CERTIFICATE-----\n"
    issuing, root = (text_of(pem + end) for pem in chain.split(end)[:2])
    contains(issuing, "CA:TRUE, pathlen:0", "Certificate Sign", "9999 GMT")
    contains(root, "CA:TRUE, pathlen:1", "Certificate Sign", "9999 GMT")
    for i in range(6):
        true(verifies(certificates(place, "s%d" % i)["endorsement_keys"][0]["certificate"], chain), "s%d" % i)
    same([(line["outcome"], line["detail"]) for line in audit(place, "ca-create")], [("ok", "default")])
    shown = json.loads(good(place, "ca", "list", "--json"))
    same([(ca["name"], ca["default"], ca["root"]) for ca in shown],
         [("default", True, shown[0]["subject"] + " root")])
    contains(good(place, "ca", "list"), "default (default)")


def place_program():
    from device import VTPM
    return VTPM


def test_killed_first_create(place):
    """the first create, it or its authority's helper killed at any step that names or syncs a file: no TPM, or a whole
    one; the next create makes one, and all there are verify"""
    library = killer(place)
    for name in (os.path.basename(place_program()), "vtpm-ca-local"):
        killed, step = True, 0
        while killed:
            step += 1
            true(step < 60, "it does not end")
            shutil.rmtree(place.data_dir, ignore_errors=True)
            done = run_killed(place, library, name, step, "create", "first.vtpm", "--ek", P384)
            # the helper is killed, not vtpm: that tells, and makes nothing
            killed = done.returncode == (-9 if name == os.path.basename(place_program()) else 1)
            true(killed or done.returncode == 0, "step %d of %s: %s" % (step, name, done.stderr))
            good(place, "create", "second.vtpm", "--ek", P384)
            made = [path for path in ("first.vtpm", "second.vtpm") if os.path.exists(path)]
            true(killed or len(made) == 2, "it was not killed")
            chain = good(place, "ca", "export")
            for path in made:
                place.sound(path)
                true(verifies(certificates(place, path)["endorsement_keys"][0]["certificate"], chain), "openssl verify")
                os.unlink(path)
        true(step > 5, "%s was killed %d times" % (name, step - 1))


def test_group_place(place):
    """below a folder of a group, the authority's files belong to it; one that only passes its group on is none"""
    need_root()
    os.makedirs(place.data_dir)
    os.chown(place.data_dir, 0, 65534)
    os.chmod(place.data_dir, 0o2755)
    good(place, "ca", "create", "own")
    os.chmod(place.data_dir, 0o2770)
    place.create("state.vtpm", "--ek", P384)
    own, key = (os.stat(os.path.join(place.data_dir, "ca", name + ".key")) for name in ("own", "default"))
    same(stat.S_IMODE(own.st_mode), 0o600)
    same((stat.S_IMODE(key.st_mode), key.st_gid), (0o660, 65534))


def test_named_authority(place):
    """ca create with a name: chosen by --ca or vtpm.conf, trusted by its own chain only"""
    good(place, "ca", "create", "site", "--subject", "CN=Example EK CA,O=Example\\, Inc,C=DE")
    refuses(place, 2, ["[usage]", "already"], "ca", "create", "site")
    for wrong in ("../x", "a.b", "none", ""):
        refuses(place, 2, ["[usage]"], "ca", "create", wrong)
    for wrong in ("nonsense", "CN=", "XX=y", "CN=a,,O=b"):
        refuses(place, 2, ["[usage]", wrong], "ca", "create", "wrong", "--subject", wrong)
    refuses(place, 2, ["[usage]"], "ca", "export", "wrong")
    refuses(place, 2, ["[usage]"], "ca", "list", "--subject", "CN=a")
    refuses(place, 2, ["[usage]"], "ca", "sell")
    contains(good(place, "ca", "list"), "CN=Example EK CA", "O=Example\\, Inc", "root")
    place.create("a", "--ek", P384, "--ca", "site")
    write_file(place.config, "[vtpm]\nca=site\n", "w")
    place.create("b", "--ek", P384)
    write_file(place.config, "[vtpm]\nca=default\n", "w")
    place.create("c", "--ek", P384)
    site, default = good(place, "ca", "export", "site"), good(place, "ca", "export")
    for name, chain, other in (("a", site, default), ("b", site, default), ("c", default, site)):
        certificate = certificates(place, name)["endorsement_keys"][0]["certificate"]
        true(verifies(certificate, chain), name)
        true(not verifies(certificate, other), name + " with another chain")
    contains(text_of(certificates(place, "a")["endorsement_keys"][0]["certificate"]),
             "Issuer: CN = Example EK CA, O = \"Example, Inc\", C = DE")
    write_file(place.config, "[vtpm]\nca=exec:tool\n", "w")
    refuses(place, 2, ["[usage]", "ca"], "create", "d")


def test_damaged_authority(place):
    """an authority whose key does not fit, is missing or unreadable issues nothing, and no TPM is made"""
    for name in ("one", "two"):
        good(place, "ca", "create", name)
    key = os.path.join(place.data_dir, "ca", "one.key")
    for content, word in ((read_file(os.path.join(place.data_dir, "ca", "two.key")), "[state-damaged]"),
                          (b"rubbish", "[state-damaged]"), (None, "[access-denied]")):
        os.unlink(key)
        if content is not None:
            write_file(key, content)
        done = place.vtpm("create", "state.vtpm", "--ca", "one", "--config", place.config)
        true(done.returncode != 0, "created with a bad authority")
        contains(done.stderr, word)
        same([name for name in os.listdir(".") if name.startswith("state")], [])


def documented(language):
    """The blocks of docs/provisioning.md in LANGUAGE."""
    page = read_file(os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../docs/provisioning.md")).decode()
    return [text for word, text in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S) if word == language]


def documented_signer():
    """The program that it shows."""
    return next(block for block in documented("sh") if block.startswith("#!"))


def own_signer(text):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key",
            "-out", "ca.pem", "-subj", "/CN=Own CA", "-addext", "keyUsage=critical,keyCertSign", "-days", "3650")
    write_file("signer", text, "w")
    os.chmod("signer", 0o755)
    return "exec:" + os.path.abspath("signer")


def test_lost_chain(place):
    """an authority whose certificates are gone: another is made, and the keys of the old one are kept"""
    place.create("first.vtpm", "--ek", "ecc_nist_p256")
    folder = os.path.join(place.data_dir, "ca")
    chain, = [name for name in os.listdir(folder) if name.endswith(".pem")]
    keys = {read_file(os.path.join(folder, name)) for name in os.listdir(folder) if name.endswith(".key")}
    same(len(keys), 2)
    os.remove(os.path.join(folder, chain))
    done = place.vtpm("create", "second.vtpm", "--config", place.config, "--ek", "ecc_nist_p256")
    same(done.returncode, 0, done.stderr)
    contains(done.stderr, "set aside as")
    kept = {read_file(os.path.join(folder, name)) for name in os.listdir(folder) if ".key.aside-" in name}
    same(kept, keys)


def test_exec(place):
    """--ca exec: a program of the site signs, one run for each certificate"""
    place.create("state.vtpm", "--ek", P384 + "," + RSA, "--ca", own_signer(documented_signer()))
    told = certificates(place)
    for pem in [key["certificate"] for key in told["endorsement_keys"]] + [told["platform_certificate"]]:
        true(verifies(pem, read_file("ca.pem").decode()), "a certificate of the site's own authority")
        contains(text_of(pem), told["vtpm_id"], "2.23.133.8.")
    tools = Tools(place, create=False)
    same(nv(tools, 0x1C00002), told["endorsement_keys"][0]["certificate"])


def test_exec_wrong(place):
    """a program that refuses, answers rubbish, another key's certificate, too much or nothing: no TPM is made"""
    own_signer("#!/bin/true\n")
    openssl("ecparam", "-genkey", "-name", "secp384r1", "-noout", "-out", "other.key")
    openssl("req", "-x509", "-key", "other.key", "-subj", "/CN=x", "-out", "other.pem")
    for body, word, text in (("cat >/dev/null; exit 3", "[failed]", "exit status 3"),
                             ("cat >/dev/null", "[failed]", "without a certificate"),
                             ("echo rubbish", "[failed]", "without a certificate"),
                             ("cat other.pem", "[failed]", "no certificate of the key"),
                             ("echo -----BEGIN CERTIFICATE-----; echo AAAA; echo -----END CERTIFICATE-----", "[failed]",
                              "no certificate of the key"),
                             ("yes", "[failed]", "without end"),
                             ("echo error token-missing the HSM is away", "[token-missing]", "the HSM is away"),
                             ("echo error nonsense word; exit 1", "[failed]", "word"),
                             ("kill -9 $$", "[failed]", "signal 9")):
        write_file("signer", "#!/bin/sh\n%s\n" % body, "w")
        done = place.vtpm("create", "state.vtpm", "--ek", P384, "--ca", "exec:" + os.path.abspath("signer"), "--config",
                          place.config)
        true(done.returncode != 0, body)
        contains(done.stderr, word, text)
        same([name for name in os.listdir(".") if name.startswith("state")], [], body)
    refuses(place, 1, ["[failed]", "cannot be started"], "create", "state.vtpm", "--ca", "exec:/nowhere/signer")


def issue(place, text):
    return subprocess.run([place_program(), "ca", "issue", "central", "--config", place.config], env=place.env,
                          input=text, capture_output=True, text=True, timeout=60, check=False)


def test_issue(place):
    """ca issue: one host's authority is the exec: program of another; rubbish is refused"""
    good(place, "ca", "create", "central")
    write_file("signer", "#!/bin/sh\ntee -a requests | exec %s ca issue central --config %s\n"
               % (place_program(), place.config), "w")
    os.chmod("signer", 0o755)
    place.create("state.vtpm", "--ek", P384, "--ca", "exec:" + os.path.abspath("signer"))
    told = certificates(place)
    chain = good(place, "ca", "export", "central")
    true(verifies(told["endorsement_keys"][0]["certificate"], chain), "issued elsewhere")
    requests = read_file("requests").decode()
    contains(requests, "vtpm-certificate-request 1\nkind: ek\nkey: ecc_nist_p384\nvtpm-id: %s\n" % told["vtpm_id"],
             "specification: 2.0 0 164\n-----BEGIN PUBLIC KEY-----\n", "kind: platform\n")
    same(issue(place, requests).stdout.count("BEGIN CERTIFICATE"), 2)
    later = issue(place, requests.replace("key:", "colour: blue\nkey:", 1))
    same(later.stdout.count("BEGIN CERTIFICATE"), 2, "a line of a later version")
    first = requests[:requests.index("-----END PUBLIC KEY-----\n") + len("-----END PUBLIC KEY-----\n")]
    for wrong in (first.replace("request 1", "request 2"), first.replace("vtpm-id: ", "vtpm-id: x"), first[:-30],
                  first.replace("model:", "version:"), first.replace("kind: ek", "kind: ca"), "x" + first,
                  first.replace("specification: 2.0 0 164\n", ""), first.replace("0 164", "0 -1"),
                  first.replace("model: ", "model: \x1b"), first + "x", "rubbish", "\0", "x" * 70000):
        done = issue(place, wrong)
        same((done.returncode, done.stdout), (2, ""), "%.300r: %s" % (wrong, done.stderr))
        contains(done.stderr, "[usage]")


def token(place, kind):
    """A SoftHSM token with a signing key; its URI without a PIN."""
    if not SOFTHSM or not shutil.which("softhsm2-util"):
        raise Skip("softhsm2 is not installed")
    os.makedirs("tokens", exist_ok=True)
    write_file("softhsm2.conf", "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n"
               % os.path.abspath("tokens"), "w")
    place.env["SOFTHSM2_CONF"] = os.path.abspath("softhsm2.conf")
    if kind == "rsa":
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "token.key")
    else:
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:" + kind, "-out", "token.key")
    for args in (["--init-token", "--free", "--label", kind, "--so-pin", "12345678", "--pin", "4321"],
                 ["--import", "token.key", "--token", kind, "--label", "ek-ca", "--id", "a1", "--pin", "4321"]):
        done = subprocess.run(["softhsm2-util", *args], env=place.env, capture_output=True, text=True, timeout=60,
                              check=False)
        same(done.returncode, 0, done.stdout + done.stderr)
    write_file("pin", "4321\n", "w")
    return "pkcs11:token=%s;object=ek-ca;type=private?module-path=%s" % (kind, SOFTHSM)


def test_token(place):
    """the authority's key on a PKCS#11 token: EC and RSA; nothing of it in our files"""
    for kind in ("P-384", "P-256", "rsa"):
        uri = token(place, kind) + "&pin-source=file:" + os.path.abspath("pin")
        name = kind.lower().replace("-", "")
        good(place, "ca", "create", name, "--key", uri, "--subject", "CN=HSM " + kind)
        chain = good(place, "ca", "export", name)
        same(chain.count("BEGIN CERTIFICATE"), 1)
        place.create(kind, "--ek", P384, "--ca", name)
        told = certificates(place, kind)
        true(verifies(told["endorsement_keys"][0]["certificate"], chain), kind)
        true(verifies(told["platform_certificate"], chain), kind)
        same(read_file(os.path.join(place.data_dir, "ca", name + ".key")).decode(), uri)


def test_token_trouble(place):
    """a token that is away, a wrong PIN, a key that is not there, a PIN on the command line"""
    uri, pin = token(place, "P-384"), "&pin-source=" + os.path.abspath("pin")
    good(place, "ca", "create", "hsm", "--key", uri + pin)
    refuses(place, 2, ["[usage]", "pin-source"], "ca", "create", "x", "--key", uri + "&pin-value=4321")
    refuses(place, 2, ["[usage]"], "ca", "create", "x", "--key", "file:key")
    refuses(place, 2, ["[usage]", "URI"], "ca", "create", "x", "--key", "pkcs11:%%%")
    refuses(place, 4, ["[token-missing]"], "ca", "create", "x", "--key", uri.replace("P-384", "other") + pin)
    refuses(place, 4, ["[key-closed]"], "ca", "create", "x", "--key", uri.replace("ek-ca", "other") + pin)
    refuses(place, 4, ["[key-closed]", "pin-source"], "ca", "create", "x", "--key", uri)
    write_file("pin", "9999", "w")
    refuses(place, 4, ["[pin-wrong]"], "create", "state.vtpm", "--ca", "hsm")
    os.unlink("pin")
    refuses(place, 4, ["[key-closed]", "PIN"], "create", "state.vtpm", "--ca", "hsm")
    shutil.move("tokens", "away")
    os.mkdir("tokens")
    refuses(place, 4, ["[token-missing]"], "create", "state.vtpm", "--ca", "hsm")
    same(os.path.exists("state.vtpm"), False)


def test_pages(place):
    """every command of docs/provisioning.md does as it stands there"""
    uri = token(place, "P-384")
    openssl("ecparam", "-genkey", "-name", "secp384r1", "-noout", "-out", "some.key")
    key = openssl("pkey", "-in", "some.key", "-pubout").decode()
    request = next(block for block in documented("") if block.startswith("vtpm-certificate-request"))
    write_file("request.txt", re.sub("-----BEGIN.*", lambda _: key, request, flags=re.S), "w")
    env = dict(place.env, PATH=os.path.dirname(place_program()) + ":" + place.env["PATH"])
    count = 0
    for block in documented("sh"):
        if block.startswith("#!"):
            continue
        text = block.replace("token=ca", "token=P-384").replace("/etc/vtpm/pin", os.path.abspath("pin"))
        text = re.sub("module-path=[^&]*", re.search("module-path=.*", uri).group(0), text)
        for line in text.splitlines():
            done = subprocess.run(["sh", "-ec", line], env=env, stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=60, check=False)
            same(done.returncode, 0, line + ": " + done.stderr)
            count += 1
    true(count >= 13, "only %d commands" % count)
    contains(openssl("x509", "-in", "certificate.pem", "-noout", "-text").decode(), "7d444840-9dc0-41d1")


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
