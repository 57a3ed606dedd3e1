#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The certificate authorities that sign: the one vtpm makes, named ones, a program of the site, a PKCS#11 token."""
import contextlib
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from certificates import (P384, RSA, SOFTHSM, certificates, documented, good, nv, openssl, refuses,  # noqa: E402
                          text_of, verifies)
from device import (VTPM, Skip, contains, lacks, main, need_root, read_file, same, true, wait_until,  # noqa: E402
                    write_file)
from keyhost import LIBEXEC, audit  # noqa: E402
from killed import killer, run_killed  # noqa: E402
from tpm2_tools import Tools  # noqa: E402


def test_default_authority(place):
    """the default authority: made once, root and issuing, files for their owner alone; many creates at once share it"""
    running = [subprocess.Popen([VTPM, "create", "s%d" % i, "--ek", P384, "--config", place.config],
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


def test_killed_first_create(place):
    """the first create, it or its authority's helper killed at any step that names or syncs a file: no TPM, or a whole
    one; the next create makes one, and all there are verify"""
    library = killer(place)
    for name in (os.path.basename(VTPM), "vtpm-ca-local"):
        killed, step = True, 0
        while killed:
            step += 1
            true(step < 60, "it does not end")
            shutil.rmtree(place.data_dir, ignore_errors=True)
            done = run_killed(place, library, name, step, "create", "first.vtpm", "--ek", P384)
            # the helper is killed, not vtpm: that tells, and makes nothing
            killed = done.returncode == (-9 if name == os.path.basename(VTPM) else 1)
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


def test_file_size_limit(place):
    """a limit on file sizes (ulimit -f): told, and nothing is left of the authority"""
    refuses(place, 1, ["[store-full]", "ca/own."], "ca", "create", "own",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)))
    same(os.listdir(os.path.join(place.data_dir, "ca")), ["ca.lock"])


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


def documented_signer():
    """The program that it shows."""
    return next(block for block in documented("sh") if block.startswith("#!"))


def ended_children(pid):
    """The names of the processes that another has started, and that have ended and wait to be asked for."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        told = [read_file(f"/proc/{child}/stat").decode()
                for child in read_file(f"/proc/{pid}/task/{pid}/children").decode().split()]
        return [re.search(r"\((.*)\) Z ", line).group(1) for line in told if ") Z " in line]
    return []


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


def test_beside_wrap(place):
    """a TPM is made while its provider is slow; nothing is certified before that has wrapped, nor when it refuses"""
    place.add_gate()
    signer = documented_signer()
    ca = own_signer(signer.replace("#!/bin/sh\n", "#!/bin/sh\ntouch asked-to-sign\n", 1))
    for mode in ("open", "error access-denied not today"):
        place.gate("wait")
        with subprocess.Popen([VTPM, "create", mode[:4] + ".vtpm", "--ek", P384 + "," + RSA, "--ca", ca, "--provider", "gate",
                               "--config", place.config], env=place.env, stderr=subprocess.PIPE, text=True) as made:
            wait_until(lambda: "vtpm" in ended_children(made.pid), "a key is made beside, by a copy")
            time.sleep(0.3)
            true(not os.path.exists("asked-to-sign"), "the authority is asked too early")
            place.gate(mode)
            said = made.stderr.read()
        same((made.returncode, os.path.exists("asked-to-sign")), (0, True) if mode == "open" else (4, False), said)
        if mode == "open":
            os.unlink("asked-to-sign")
    contains(said, "[access-denied]", "not today")
    same([name for name in os.listdir(".") if name.endswith(".vtpm")], ["open.vtpm"])


def test_made_for_nothing(place):
    """the default authority that was made for a TPM whose provider then refuses stands in the audit log"""
    place.add_gate()
    place.gate("wait")
    with subprocess.Popen([VTPM, "create", "state.vtpm", "--ek", P384, "--provider", "gate", "--config", place.config],
                          env=place.env, stderr=subprocess.PIPE, text=True) as made:
        wait_until(lambda: os.path.exists(os.path.join(place.data_dir, "ca", "default.pem")), "it is made")
        time.sleep(0.3)
        place.gate("error access-denied not today")
        contains(made.stderr.read(), "[access-denied]", "not today")
    same([(line["outcome"], line["detail"]) for line in audit(place, "ca-create")], [("ok", "default")])


def test_silent_helper(place):
    """a provider that refuses is told at once, whatever the authority's helper, which nobody has asked yet, is doing"""
    os.mkdir("silent")
    write_file("silent/vtpm-ca-local", "#!/bin/sh\nexec sleep 60\n", "w")
    os.chmod("silent/vtpm-ca-local", 0o755)
    place.env["VTPM_LIBEXEC_DIR"] = os.path.abspath("silent")
    place.add_gate()
    place.gate("error access-denied not today")
    begin = time.monotonic()
    refuses(place, 4, ["[access-denied]"], "create", "state.vtpm", "--ek", P384, "--provider", "gate")
    true(time.monotonic() - begin < 5, "it took %.1f s" % (time.monotonic() - begin))


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
    return subprocess.run([VTPM, "ca", "issue", "central", "--config", place.config], env=place.env,
                          input=text, capture_output=True, text=True, timeout=60, check=False)


def test_issue(place):
    """ca issue: one host's authority is the exec: program of another; rubbish is refused"""
    good(place, "ca", "create", "central")
    write_file("signer", "#!/bin/sh\ntee -a requests | exec %s ca issue central --config %s\n"
               % (VTPM, place.config), "w")
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


def test_helper(place):
    """the authority's helper answers each request as it comes, in their order; with its input broken it says so behind"""
    good(place, "ca", "create", "site")
    place.create("state.vtpm", "--ek", P384 + "," + RSA, "--ca", own_signer("#!/bin/sh\ntee -a requests | exec %s ca "
                                                                           "issue site --config %s\n"
                                                                           % (VTPM, place.config)))
    end = "-----END PUBLIC KEY-----\n"
    requests = [text + end for text in read_file("requests").decode().split(end)[:-1]]
    same(["rsa2048" in text for text in requests], [False, True, True])
    with subprocess.Popen([os.path.join(LIBEXEC, "vtpm-ca-local"), "sign", "site"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, env=dict(place.env, VTPM_DATA_DIR=place.data_dir), bufsize=0) as helper:
        for some in (requests[:1], requests * 3, ["rubbish"]):
            helper.stdin.write("".join(some).encode())
            if some == ["rubbish"]:
                helper.stdin.close()
                contains(helper.stdout.read().decode(), "error usage ")
                continue
            for request in some:
                pem = ""
                while not pem.endswith("-----END CERTIFICATE-----\n"):
                    pem += helper.stdout.read(1).decode()
                key = request[request.index("-----BEGIN"):]
                same(openssl("x509", "-noout", "-pubkey", data=pem.encode()).decode(), key)
        same(helper.wait(60), 2)


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
    env = dict(place.env, PATH=os.path.dirname(VTPM) + ":" + place.env["PATH"])
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


if __name__ == "__main__":
    main(globals())
