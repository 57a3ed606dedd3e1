#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm provider export, import, retire and remove: keys that leave, come back, and go for good."""
import json
import os
import pty
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import VTPM, contains, lacks, main, read_file, same, true, wait_until, write_file  # noqa: E402
from providers import (DAY, add_example, add_helper, bad, edit_registry, good, key_store, listed, provider,  # noqa: E402
                       registry, secret_file, status_of)

WORD = "wrong-passphrase-or-damaged"


def state(place, name, *args):
    """A state file in a folder of its own."""
    os.makedirs("states", exist_ok=True)
    return place.create("states/" + name, *args)


def exported(place, name, path="keys.p12", password="xyzzy", *args):
    good(place, "export", name, "--pkcs12", path, "--password-file", secret_file("pw", password + "\n"), *args)
    return path


def other_host(place, name="other"):
    place.env["VTPM_DATA_DIR"] = place.data_dir = os.path.join(place.folder, name)


def test_disaster(place):
    """all provider state is lost: the export brings it back, and the vTPM opens; openssl reads the file"""
    good(place, "create", "site", "--kind", "native")
    first = state(place, "a")
    good(place, "rotate", "site")
    second = state(place, "b")
    uuid = listed(place)["site"]["uuid"]
    contains(good(place, "export", "site", "--pkcs12", "keys.p12", "--password-file", secret_file("pw", "xyzzy\n")),
             "up to version 2")
    same(os.stat("keys.p12").st_mode & 0o777, 0o600)
    shutil.rmtree(place.data_dir)
    contains(place.check(first).stderr, "[provider-unknown]", "vtpm provider import")
    contains(good(place, "import", "site", "--pkcs12", "keys.p12", "--password-file", "pw"), "2 key versions added",
             uuid)
    place.sound(first)
    place.sound(second)
    entry = listed(place)["site"]
    same((entry["uuid"], entry["backup"], entry["newest-version"], entry["default"]), (uuid, "active", 2, True))
    contains(good(place, "import", "site", "--pkcs12", "keys.p12", "--password-file", "pw"), "0 key versions added")
    if shutil.which("openssl"):
        for password, status in (("xyzzy", 0), ("wrong", 1)):
            done = subprocess.run(["openssl", "pkcs12", "-in", "keys.p12", "-passin", "pass:" + password, "-nocerts",
                                   "-noenc"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
            same(done.returncode != 0, status != 0, done.stderr)


def test_export_refusals(place):
    """export: never over a file, not without password, not where it cannot be written; then there is no backup"""
    good(place, "create", "site", "--kind", "native")
    secret_file("pw", "xyzzy\n")
    write_file("taken", b"mine")
    bad(place, 3, "state-exists", "export", "site", "--pkcs12", "taken", "--password-file", "pw")
    same(read_file("taken"), b"mine")
    bad(place, 2, "usage", "export", "site", "--password-file", "pw")
    bad(place, 3, "state-missing", "export", "site", "--pkcs12", "no/keys.p12", "--password-file", "pw")
    for args in (["--password-file", "nothing"], ["--password-file", secret_file("empty", "")], []):
        done = provider(place, "export", "site", "--pkcs12", "keys.p12", *args, start_new_session=True)
        true(done.returncode in (2, 4), done.stderr)
        true(not os.path.exists("keys.p12"), "a file without a password")
    bad(place, 4, "provider-unknown", "export", "nobody", "--pkcs12", "keys.p12", "--password-file", "pw")
    same(listed(place)["site"]["backup"], "not-backed-up")


def test_import_refusals(place):
    """import: wrong password and damage are one word, and nothing is imported"""
    good(place, "create", "site", "--kind", "native")
    path = exported(place, "site")
    other_host(place)
    secret_file("wrong", "xyzzz\n")
    contains(bad(place, 4, WORD, "import", "site", "--pkcs12", path, "--password-file", "wrong"), path)
    data = read_file(path)
    for number, damaged in enumerate((data[:-1], data[:100], b"", data[:200] + bytes([data[200] ^ 1]) + data[201:],
                                      data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], b"x" * 300000)):
        write_file("damaged", damaged)
        bad(place, 4, WORD, "import", "site", "--pkcs12", "damaged", "--password-file", "pw")
    bad(place, 3, "state-missing", "import", "site", "--pkcs12", "nothing", "--password-file", "pw")
    bad(place, 2, "usage", "import", "a b", "--pkcs12", path, "--password-file", "pw")
    bad(place, 2, "usage", "import", "site", "--password-file", "pw")
    same(listed(place), {})
    true(not os.path.exists(os.path.join(place.data_dir, "native")), "keys were imported")


def test_names(place):
    """import: a name that is another provider's, a provider that has another name here, keys that differ"""
    good(place, "create", "site", "--kind", "native")
    path = exported(place, "site")
    uuid = listed(place)["site"]["uuid"]
    contains(bad(place, 2, "usage", "import", "branch", "--pkcs12", path, "--password-file", "pw"), '"site"', uuid)
    other_host(place)
    good(place, "create", "site", "--kind", "native")
    contains(bad(place, 2, "usage", "import", "site", "--pkcs12", path, "--password-file", "pw"), "another name", uuid)
    same(list(listed(place)), ["site"])
    true(not os.path.exists(os.path.join(place.data_dir, "native", uuid + ".keys")), "keys were imported")
    good(place, "import", "head-office", "--pkcs12", path, "--password-file", "pw")
    same({name: entry["default"] for name, entry in listed(place).items()}, {"site": True, "head-office": False})
    good(place, "rotate", "head-office")  # version 2 of this host
    mine = read_file(key_store(place, "head-office"))
    place.env["VTPM_DATA_DIR"] = place.data_dir = os.path.join(place.folder, "data")
    good(place, "rotate", "site")  # version 2 of that host
    later = exported(place, "site", "later.p12")
    other_host(place)
    contains(bad(place, 2, "usage", "import", "head-office", "--pkcs12", later, "--password-file", "pw"), "version 2")
    same(read_file(key_store(place, "head-office")), mine)


def test_sealed(place):
    """a key store with a passphrase of its own: export and import keep the two passwords apart"""
    secret_file("pass", "correct horse\n")
    good(place, "create", "sealed", "--kind", "native", "--password-file", "pass")
    secret_file("pw", "xyzzy\n")
    bad(place, 4, "key-closed", "export", "sealed", "--pkcs12", "keys.p12", "--password-file", "pw")
    bad(place, 4, "wrong-passphrase", "test", "sealed", "--password-file", "pw")
    contains(good(place, "test", "sealed", "--password-file", "pass"), "key version 1")
    good(place, "export", "sealed", "--pkcs12", "keys.p12", "--password-file", "pw", "--store-password-file", "pass")
    path = "states.vtpm"
    same(place.vtpm("create", path, "--config", place.config, "--password-file", "pass").returncode, 0)
    shutil.rmtree(place.data_dir)
    good(place, "import", "sealed", "--pkcs12", "keys.p12", "--password-file", "pw", "--store-password-file", "pass")
    same(place.check(path).returncode, 4)
    same(place.vtpm("check", path, "--config", place.config, "--password-file", "pass").returncode, 0)


def test_protect(place):
    """protect gives a key store a passphrase, another, none; a wrong one changes nothing; what it wrapped opens by it"""
    good(place, "create", "site", "--kind", "native")
    path = state(place, "a")
    store = key_store(place, "site")
    plain = read_file(store)
    one, two, wrong = (secret_file(name, name + "\n") for name in ("one", "two", "wrong"))

    def opens(*args):
        done = place.vtpm("check", path, "--config", place.config, *args, start_new_session=True)
        return done.returncode == 0 or done.stderr.split("[")[1].split("]")[0]

    contains(good(place, "protect", "site", "--new-password-file", one), "sealed", "each start asks")
    same((opens("--password-file", one), opens("--password-file", two), opens()),
         (True, "wrong-passphrase", "key-closed"))
    true(plain[44:76] not in read_file(store), "the key stands in the store")
    before = read_file(store)
    bad(place, 4, "wrong-passphrase", "protect", "site", "--password-file", wrong, "--new-password-file", two)
    bad(place, 4, "wrong-passphrase", "protect", "site", "--off", "--password-file", wrong)
    bad(place, 4, "key-closed", "protect", "site", "--new-password-file", two, start_new_session=True)
    bad(place, 4, "key-closed", "protect", "site", "--password-file", one, start_new_session=True)
    bad(place, 4, "key-closed", "protect", "site", "--password-file", one, "--new-password-file",
        secret_file("empty", ""))
    bad(place, 2, "usage", "protect", "site", "--off", "--password-file", one, "--new-password-file", two)
    same(read_file(store), before)
    good(place, "protect", "site", "--password-file", one, "--new-password-file", two)
    same((opens("--password-file", one), opens("--password-file", two)), ("wrong-passphrase", True))
    good(place, "rotate", "site", "--password-file", two)
    contains(good(place, "protect", "site", "--off", "--password-file", two), "no longer sealed")
    same((opens(), len(status_of(place, "site")["versions"])), (True, 2))
    contains(read_file(store), plain[44:76])
    named = os.path.abspath(one)
    good(place, "create", "named", "--kind", "native", "--option", "password-file=" + named)
    contains(good(place, "protect", "named", "--new-password-file", two), "Put it into " + named)
    bad(place, 4, "wrong-passphrase", "test", "named")
    shutil.copy(two, one)
    good(place, "test", "named")
    good(place, "create", "raw", "--kind", "passphrase")
    bad(place, 2, "usage", "protect", "raw", "--new-password-file", two)
    bad(place, 4, "provider-unknown", "protect", "nobody", "--new-password-file", two)
    lines = [json.loads(line) for line in read_file(os.path.join(place.data_dir, "audit.log")).splitlines()]
    same([(line["act"], line["outcome"]) for line in lines if "protect" in line["act"]],
         [("protect", "ok"), ("protect", "wrong-passphrase"), ("unprotect", "wrong-passphrase"),
          *[("protect", "key-closed")] * 3, ("protect", "ok"), ("unprotect", "ok"), ("protect", "ok"),
          ("protect", "usage")])


def test_retire(place):
    """retire closes, looks, names what needs the key, waits, and destroys; each step holds by itself"""
    good(place, "create", "site", "--kind", "native")
    path = state(place, "a")
    contains(bad(place, 2, "usage", "retire", "site", "1", "--search", "states"), "vtpm provider rotate site")
    good(place, "rotate", "site")
    state(place, "b")  # under version 2
    closed = lambda: [v["version"] for v in status_of(place, "site")["versions"] if v["closed"]]  # noqa: E731
    bad(place, 2, "usage", "retire", "site", "1")  # nowhere to look: nothing is closed
    same(closed(), [])
    message = bad(place, 1, "key-in-use", "retire", "site", "1", "--search", "states", "--grace", "0")
    contains(message, "needed by 1 file:", "states/a", "no other key slot", "vtpm rekey --from site")
    lacks(message, "states/b")
    same(closed(), [1])
    place.sound(path)  # a closed version still opens
    shutil.copy(path, "copy")
    os.unlink(path)
    said = good(place, "retire", "site", "1", "--search", "states")
    contains(said, "no file found needs it", time.strftime("%Y-%m-%d", time.localtime(time.time() + 7 * DAY)), "cannot see")
    same(len(status_of(place, "site")["versions"]), 2)
    # it was closed 8 days ago
    edit_registry(place, r"^closed=1:\d+;$", "closed=1:%d;" % (time.time() - 8 * DAY))
    contains(good(place, "retire", "site", "1", "--search", "states", "--grace", "9"), "no file found needs it")
    contains(good(place, "retire", "site", "1", "--search", "states"), "is destroyed")
    same([v["version"] for v in status_of(place, "site")["versions"]], [2])
    lacks(read_file(registry(place)).decode(), "closed")
    contains(place.check("copy").stderr, "[key-destroyed]")
    bad(place, 4, "key-destroyed", "retire", "site", "1", "--search", "states")
    contains(good(place, "rotate", "site"), "key version 3")
    for version in ("0", "x", "-1", "4294967296", ""):
        bad(place, 2, "usage", "retire", "site", "--search", "states", "--", version) if version != "-1" else None
    bad(place, 2, "usage", "retire", "site", "2", "--search", "states", "--grace=-1")
    bad(place, 2, "usage", "retire", "site", "2", "states")
    bad(place, 2, "usage", "retire", "site", "2", "--search", "not-there")


def test_retire_finds(place):
    """retire: folders of vtpm.conf count too, twenty files are named, and what cannot be read may need the key"""
    good(place, "create", "site", "--kind", "native")
    state(place, "a")
    for number in range(24):
        shutil.copy("states/a", "states/copy-%02d" % number)
    good(place, "rotate", "site")
    os.makedirs("empty")
    write_file(place.config, "[vtpm]\nstate-dirs=%s;\n" % os.path.abspath("states"), "w")
    message = bad(place, 1, "key-in-use", "retire", "site", "1", "--search", "empty", "--grace", "0")
    contains(message, "needed by 25 files:", "copy-18", "and 5 more")
    lacks(message, "copy-19")
    write_file(place.config, "", "w")
    bad(place, 1, "key-in-use", "retire", "site", "1", "--search", "empty", "states", "--grace", "0")
    contains(good(place, "retire", "site", "1", "--search", "empty", "--grace", "7"), "no file found needs it")
    data = read_file("states/a")
    for half in (0, 65536):  # it begins as a state file, and nobody can say what it needs
        data = data[:half + 100] + b"\xff" * 400 + data[half + 500:]
    write_file("empty/damaged", data)
    contains(bad(place, 1, "key-in-use", "retire", "site", "1", "--search", "empty", "--grace", "0"), "empty/damaged",
             "could not be read")
    same(len(status_of(place, "site")["versions"]), 2)


def test_rotated_apart(place):
    """a provider that two hosts have rotated each for itself: neither takes the other's export, and the page's way on works"""
    good(place, "create", "site", "--kind", "native")
    path, first = state(place, "b", "--provider", "site"), exported(place, "site")
    home = place.env["VTPM_DATA_DIR"]
    other_host(place)
    good(place, "import", "site", "--pkcs12", first, "--password-file", "pw")
    good(place, "rotate", "site")
    place.vtpm("rekey", path, "--config", place.config)
    theirs = exported(place, "site", "theirs.p12")

    def at(folder):
        place.env["VTPM_DATA_DIR"] = place.data_dir = folder

    def census():
        return place.vtpm("keys", "census", "states", "--config", place.config).stdout
    lacks(census(), "newer")
    at(home)
    contains(census(), "newer")
    good(place, "rotate", "site")
    contains(bad(place, 2, "usage", "import", "site", "--pkcs12", theirs, "--password-file", "pw"), "key-providers.md")
    at(os.path.join(place.folder, "new"))
    good(place, "import", "site", "--pkcs12", theirs, "--password-file", "pw")
    good(place, "create", "next", "--kind", "native")
    same(place.vtpm("rekey", "--to", "next", path, "--config", place.config).returncode, 0)
    moved = exported(place, "next", "next.p12")
    at(home)
    good(place, "import", "next", "--pkcs12", moved, "--password-file", "pw")
    place.sound(path)


def test_wraps_without_backup(place):
    """rekey and keys add under keys without a backup: refused where the provider wants one, else told each time"""
    good(place, "create", "site", "--kind", "native", "--require-backup")
    exported(place, "site")
    good(place, "create", "other", "--kind", "native")
    path = state(place, "a", "--provider", "site")
    good(place, "rotate", "site")
    before = read_file(path)
    for command in (["rekey", "--stale", path], ["rekey", "--deep", path], ["rekey", "--all", "states", "--stale"]):
        done = place.vtpm(*command, "--config", place.config)
        true(done.returncode != 0, command)
        contains(done.stderr, "[not-backed-up]", "vtpm provider export site")
        same(read_file(path), before, command)
    exported(place, "site", "site-2.p12")
    lacks(place.vtpm("rekey", "--stale", path, "--config", place.config).stderr, "not-backed-up")
    for command in (["keys", "add", path, "--provider", "other"], ["rekey", "--from", "other", path]):
        done = place.vtpm(*command, "--config", place.config)
        same(done.returncode, 0, done.stderr)
        contains(done.stderr, "[not-backed-up]", "other")


def test_retire_unseen(place):
    """retire and remove: an empty folder, as where a disk is not mounted, and what lies behind symbolic links hold them up"""
    good(place, "create", "keep", "--kind", "native")
    good(place, "create", "site", "--kind", "native")
    state(place, "a", "--provider", "site")
    good(place, "rotate", "site")
    os.makedirs("srv")
    contains(bad(place, 2, "usage", "retire", "site", "1", "--search", "srv", "--grace", "0"), "srv", "mounted")
    contains(bad(place, 2, "usage", "remove", "site", "--yes", "--search", "srv"), "srv", "mounted")
    os.makedirs("here")
    state(place, "b", "--provider", "keep")
    os.rename("states/b", "here/b")
    for target, link in (("states", "here/folder"), ("states/a", "here/file")):
        os.symlink(os.path.abspath(target), link)
        for command in (["retire", "site", "1", "--grace", "0"], ["remove", "site", "--yes"]):
            contains(bad(place, 1, "key-in-use", *command, "--search", "here"), link, "symbolic link", os.path.abspath(target))
        contains(bad(place, 1, "key-in-use", "retire", "site", "1", "--search", "here", target), "needed by 1 file")
        done = place.vtpm("rekey", "--all", "here", "--stale", "--config", place.config)
        true(done.returncode != 0, "what is behind a link is not told")
        contains(done.stderr, link, "symbolic link")
        os.unlink(link)
    os.symlink(os.path.abspath("no-disk/a"), "here/gone")
    contains(bad(place, 1, "key-in-use", "retire", "site", "1", "--search", "here", "--grace", "0"), "here/gone", "leads nowhere")
    os.unlink("here/gone")
    os.symlink("b", "here/c")
    os.symlink("/etc/hostname", "here/other")
    good(place, "retire", "site", "1", "--search", "here", "--grace", "7")
    place.sound("states/a")


def test_retire_elsewhere(place):
    """retire: a helper that destroys no keys keeps the version closed and says so; a kind without versions has none"""
    add_example(place)
    good(place, "create", "shell", "--kind", "example")
    os.makedirs("states")
    good(place, "rotate", "shell")
    contains(bad(place, 2, "usage", "retire", "shell", "1", "--search", "states", "--grace", "0", "--no-states"), "destroys none")
    true(status_of(place, "shell")["versions"][0]["closed"], "closed")
    good(place, "create", "recovery", "--kind", "passphrase", "--option",
         "password-file=" + os.path.abspath(secret_file("pass", "correct horse battery\n")))
    bad(place, 2, "usage", "retire", "recovery", "1", "--search", "states")


def test_remove(place):
    """remove: not the default, not while a file needs it; then the keys are gone, or it says where they stay"""
    good(place, "create", "keep", "--kind", "native")
    good(place, "create", "go", "--kind", "native")
    path = state(place, "a", "--provider", "go")
    store = key_store(place, "go")
    contains(bad(place, 1, "key-in-use", "remove", "keep", "--yes", "--search", "states"), "vtpm provider default NAME")
    contains(bad(place, 1, "key-in-use", "remove", "go", "--yes", "--search", "states"), "states/a",
             "--from go --to OTHER")
    bad(place, 2, "usage", "remove", "go", "--yes")
    os.unlink(path)
    contains(bad(place, 2, "usage", "remove", "go", "--yes", "--search", "states"), "no state file at all", "mounted", "--no-states")
    contains(bad(place, 2, "usage", "remove", "go", "--search", "states", "--no-states"), "--yes")
    same(sorted(listed(place)), ["go", "keep"])
    contains(good(place, "remove", "go", "--yes", "--search", "states", "--no-states"), "provider go is removed", "cannot see")
    same((list(listed(place)), os.path.exists(store)), (["keep"], False))
    bad(place, 4, "provider-unknown", "remove", "go", "--yes", "--search", "states")
    good(place, "create", "go", "--kind", "native")  # the name is free
    add_example(place)
    good(place, "create", "shell", "--kind", "example", "--option", "a=b")
    contains(good(place, "remove", "shell", "--yes", "--search", "states", "--no-states"), "Its keys are not",
             "vtpm-provider-example", "a=b")
    add_helper(place, "example", "#!/bin/sh\nexit 1\n")


def test_remove_late(place):
    """remove: a file made while a person thinks it over is found too, and the provider is as it was"""
    good(place, "create", "keep", "--kind", "native")
    good(place, "create", "go", "--kind", "native", "--require-backup")
    exported(place, "go")
    before = listed(place)["go"]
    os.makedirs("states")
    terminal, side = pty.openpty()
    with subprocess.Popen([VTPM, "provider", "remove", "go", "--search", "states", "--no-states", "--config", place.config],
                          env=place.env, stdin=side, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        said = b""
        while b"Type yes" not in said:
            said += os.read(command.stderr.fileno(), 4096)
        path = state(place, "late", "--provider", "go")
        os.write(terminal, b"yes\n")
        err = command.communicate(timeout=30)[1]
    os.close(side)
    os.close(terminal)
    same(command.returncode, 1, err)
    contains(err.decode(), "[key-in-use]", "states/late")
    same(listed(place)["go"], before)
    place.sound(path)


def test_beside_create(place):
    """retire and remove wait for a create that has wrapped and not written yet: what it makes opens"""
    add_helper(place, "late", """#!/bin/sh
echo "vtpm-provider 1 late $1 create versions destroy remove wrap unwrap"
at=$VTPM_DATA_DIR/late
while read -r op vtpm a b c d; do
  case $op in
    create) echo "ok k1 1" ;;
    versions) echo "ok 1:k1:0 2:k2:0" ;;
    destroy | remove) : >"$at.gone"; echo ok ;;
    wrap) echo "ok k1 1 $b"; : >"$at.wrapped" ;;
    unwrap) if [ -e "$at.gone" ]; then echo "error key-destroyed it is gone"; else echo "ok $d"; fi ;;
  esac
done
""")
    good(place, "create", "keep", "--kind", "native")
    good(place, "create", "late", "--kind", "late")
    wrapped = os.path.join(place.data_dir, "late.wrapped")
    os.makedirs("states")
    for number, command in enumerate((["remove", "late", "--yes"], ["retire", "late", "1", "--grace", "0"])):
        path = "states/%d" % number
        with subprocess.Popen([VTPM, "create", path, "--provider", "late", "--config", place.config], env=place.env,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as making:
            wait_until(lambda: os.path.exists(wrapped), "the wrap")
            contains(bad(place, 1, "key-in-use", *command, "--search", "states", "--no-states"), path)
            same((making.wait(30), making.stderr.read()), (0, b""))
        os.unlink(wrapped)
        place.sound(path)


def test_restored_store(place):
    """a key store from a backup that lacks a version: the number is not given to another key"""
    good(place, "create", "site", "--kind", "native")
    path = exported(place, "site")
    good(place, "rotate", "site")
    lost = state(place, "lost")  # under version 2
    later = exported(place, "site", "later.p12")
    os.unlink(key_store(place, "site"))
    good(place, "import", "site", "--pkcs12", path, "--password-file", "pw")
    contains(good(place, "rotate", "site"), "key version 3")
    contains(place.check(lost).stderr, "[key-destroyed]")
    good(place, "import", "site", "--pkcs12", later, "--password-file", "pw")  # it is found after all
    same([v["version"] for v in status_of(place, "site")["versions"]], [1, 2, 3])
    place.sound(lost)


def test_part_of_a_backup(place):
    """import: a file that lacks keys of this host is no backup of it"""
    good(place, "create", "site", "--kind", "native")
    path = exported(place, "site")
    other_host(place)
    good(place, "import", "site", "--pkcs12", path, "--password-file", "pw")
    good(place, "rotate", "site")
    os.makedirs("nothing")
    good(place, "retire", "site", "1", "--search", "nothing", "--grace", "0", "--no-states")
    newer = exported(place, "site", "newer.p12")  # version 2 alone
    place.env["VTPM_DATA_DIR"] = place.data_dir = os.path.join(place.folder, "data")
    os.unlink(path)
    edit_registry(place, r"^backup-version=1$", "")
    same(listed(place)["site"]["backup"], "not-backed-up")
    contains(good(place, "import", "site", "--pkcs12", newer, "--password-file", "pw"), "1 key version added")
    same([v["version"] for v in status_of(place, "site")["versions"]], [1, 2])
    same(listed(place)["site"]["backup"], "not-backed-up")
    whole = exported(place, "site", "whole.p12")
    same(listed(place)["site"]["backup"], "active")
    edit_registry(place, r"^backup-version=2$", "")
    good(place, "import", "site", "--pkcs12", whole, "--password-file", "pw")
    same(listed(place)["site"]["backup"], "active")


def test_hostile_names(place):
    """names of files in a refusal reach no terminal as control characters or lines of their own"""
    good(place, "create", "site", "--kind", "native")
    state(place, "\x1b[2J\u009b2J\n  lies")
    good(place, "rotate", "site")
    message = bad(place, 1, "key-in-use", "retire", "site", "1", "--search", "states")
    lacks(message, "\x1b", "\u009b", "\n  lies")
    contains(message, "states/?[2J?2J?  lies")


def test_remove_asks(place):
    """remove asks on a terminal: only yes is yes"""
    good(place, "create", "keep", "--kind", "native")
    good(place, "create", "go", "--kind", "native")
    os.makedirs("states")
    for answer, status in (b"no\n", 1), (b"y\n", 1), (b"\x04", 1), (b"yes\n", 0):
        terminal, side = pty.openpty()
        with subprocess.Popen([VTPM, "provider", "remove", "go", "--search", "states", "--no-states", "--config", place.config],
                              env=place.env, stdin=side, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
            os.write(terminal, answer)
            out, err = command.communicate(timeout=30)
        os.close(side)
        os.close(terminal)
        same(command.returncode, status, (answer, out, err))
        contains(err.decode(), "destroyed for good")
        same("go" in listed(place), status != 0)


if __name__ == "__main__":
    sys.exit(main(globals()))
