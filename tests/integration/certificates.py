# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of certificates share: what vtpm tells of them, and what openssl says to them."""
import hashlib
import json
import os
import re
import shutil
import subprocess

from device import Skip, contains, read_file, same, write_file

SOFTHSM = next((path for path in ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so",
                                  "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so") if os.path.exists(path)), None)
RSA, P256, P384 = "rsa2048", "ecc_nist_p256", "ecc_nist_p384"


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


def documented(language):
    """The blocks of docs/provisioning.md in LANGUAGE."""
    page = read_file(os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../docs/provisioning.md")).decode()
    return [text for word, text in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S) if word == language]
