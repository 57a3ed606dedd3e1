# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of key slots share: providers of every kind, what a file holds beside its header, cold starts."""
import contextlib
import fcntl
import json
import os
import re
import struct
import subprocess
import uuid

from device import HELPERS, LIMIT, SLOT_0, VTPM, read_file, same, write_file
from tpm_bytes import nv_define, nv_write

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
LIBEXEC = os.environ.get("VTPM_LIBEXEC_DIR", os.path.dirname(VTPM))
HEADER_BYTE = 1
REKEY_BYTE = 3
INDEX = 0x01500010


def provider(place, *args, status=0):
    done = place.vtpm("provider", *args, "--config", place.config)
    same(done.returncode, status, "vtpm provider %s: %s" % (" ".join(args), done.stderr))
    return done


def add_native(place, name):
    provider(place, "create", name, "--kind", "native")


def add_passphrase(place, name, word="correct horse"):
    write_file(name + ".word", word + "\n", "w")
    provider(place, "create", name, "--kind", "passphrase", "--option",
             "password-file=" + os.path.abspath(name + ".word"), "--option", "scrypt-n=14")


def add_raw_key(place, name):
    write_file(name + ".key", os.urandom(32))
    provider(place, "create", name, "--kind", "raw-key", "--option", "key-file=" + os.path.abspath(name + ".key"))


def add_example(place, name):
    """The complete provider of docs/provider-protocol.md, as it stands there."""
    page = read_file(os.path.join(TOP, "docs", "provider-protocol.md")).decode()
    os.makedirs("helpers", exist_ok=True)
    program = os.path.abspath("helpers/vtpm-provider-example")
    write_file(program, re.search(r"^```sh\n(#!/bin/sh\n.*?)^```", page, re.M | re.S).group(1), "w")
    os.chmod(program, 0o755)
    write_file(place.config, "[vtpm]\nhelper-dirs=%s;%s;\ninit-wait=20\nstore-wait=1\n"
               % (HELPERS, os.path.dirname(program)), "w")
    provider(place, "create", name, "--kind", "example")


def uuid_of(place, name):
    registry = read_file(os.path.join(place.data_dir, "providers.conf")).decode()
    return re.search(r"\[provider ([0-9a-f-]{36})\]\nname=%s\n" % name, registry).group(1)


def ask_native(place, name, request):
    """Asks the helper itself, past what vtpm provider allows."""
    done = subprocess.run([os.path.join(LIBEXEC, "vtpm-provider-native"), uuid_of(place, name)], input=request + "\n",
                          env=place.env, capture_output=True, text=True, timeout=LIMIT, check=True)
    return done.stdout.splitlines()[1]


def destroy(place, name, version):
    same(ask_native(place, name, "destroy %d" % version).split()[0], "ok", "destroy")


def vtpm(place, *args, status=0, word=None):
    """Runs vtpm; a failure names WORD."""
    done = place.vtpm(*args, "--config", place.config, timeout=120)
    same(done.returncode, status, "vtpm %s: %s%s" % (" ".join(args), done.stdout, done.stderr))
    if word:
        same("[%s]" % word in done.stderr, True, done.stderr)
    return done


def rekey(place, *args, **wanted):
    return vtpm(place, "rekey", *args, **wanted)


def slots(place, path="state.vtpm"):
    """[provider's name, key version] of each key slot."""
    listed = json.loads(vtpm(place, "keys", "list", path, "--json").stdout)
    same(len(listed["records"]), 1, "records")
    return [[slot["provider_name"], slot["key_version"]] for slot in listed["records"][0]["key_slots"]]


def names(place, path="state.vtpm"):
    return [name for name, _ in slots(place, path)]


def epoch(place, path="state.vtpm"):
    return place.inspect(path)["records"][0]["epoch"]


def state_slots(path="state.vtpm"):
    return read_file(path)[SLOT_0:]


@contextlib.contextmanager
def header_only(path="state.vtpm"):
    """What is done meanwhile changes the header, and no byte of the state slots."""
    before = read_file(path)
    yield
    after = read_file(path)
    same(after[SLOT_0:] == before[SLOT_0:], True, "the state slots are the same")
    same(after != before, True, "the header is another")


@contextlib.contextmanager
def unchanged(path="state.vtpm"):
    before = read_file(path)
    yield
    same(read_file(path) == before, True, "%s is as it was" % path)


@contextlib.contextmanager
def byte_lock(byte, path="state.vtpm"):
    """As another tool would hold it."""
    with open(path, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, byte, 1, 0))
        yield


def rekey_lock(path="state.vtpm"):
    return byte_lock(REKEY_BYTE, path)


def make_state(place, name="state.vtpm", value=b"\1" * 8, **options):
    """A TPM that holds something: an NV index."""
    place.create(name, *[part for key, said in options.items() for part in ("--" + key, said)])
    device = place.start(name)
    _, data = device.powered()
    data.good(nv_define(INDEX, 8))
    data.good(nv_write(INDEX, value))
    device.term()
    return name


def cold_start(place, name="state.vtpm", value=b"\1" * 8):
    """It starts, and holds what it held."""
    device = place.start(name)
    _, data = device.powered()
    same(data.nv(INDEX), value, "NV")
    device.term()


def running(place, name="state.vtpm", *args):
    """A device with the default management socket, powered on."""
    device = place.start(name, "--manage", "unix:" + manage_of(name), *args)
    control, data = device.powered()
    return device, control, data


def manage_of(name):
    return name + ".manage"


def audit(place, act):
    path = os.path.join(place.data_dir, "audit.log")
    return [line for line in map(json.loads, read_file(path).decode().splitlines()) if line["act"] == act]


def random_name():
    return str(uuid.uuid4())
