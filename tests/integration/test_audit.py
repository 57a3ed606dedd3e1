#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The audit log: each act has its line, also where it fails; lines are JSON; no secret is among them; where it goes."""
import base64
import json
import os
import shutil
import socket
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import PLAINSTATE, VTPM, Skip, contains, main, need_root, read_file, same, true, write_file  # noqa: E402
from providers import bad, good, key_store, listed, provider, secret_file  # noqa: E402

PASSWORDS = ("correct horse battery staple", "xyzzy plugh 42", "wrong passphrase")


def lines(place):
    return [json.loads(line) for line in read_file(os.path.join(place.data_dir, "audit.log")).splitlines()]


def acts(place):
    return [(line["act"], line["outcome"]) for line in lines(place)]


def live(place):
    """A life with everything in it; gives the secrets of it."""
    store, export, wrong = (secret_file(name, text + "\n") for name, text in zip(("a", "b", "c"), PASSWORDS))
    good(place, "create", "site", "--kind", "native")
    good(place, "create", "sealed", "--kind", "native", "--password-file", store)
    bad(place, 2, "usage", "create", "site", "--kind", "native")
    place.create("vm", "--vm-uuid", "7d444840-9dc0-41d1-b245-5ffdce74fad2")
    device = place.start("vm")
    device.powered()
    device.term()
    good(place, "test", "sealed", "--password-file", store)
    bad(place, 4, "wrong-passphrase", "test", "sealed", "--password-file", wrong)
    good(place, "rotate", "site")
    good(place, "export", "site", "--pkcs12", "p12", "--password-file", export)
    bad(place, 4, "wrong-passphrase-or-damaged", "import", "site", "--pkcs12", "p12", "--password-file", wrong)
    good(place, "import", "site", "--pkcs12", "p12", "--password-file", export)
    bad(place, 1, "key-in-use", "retire", "site", "1", "--search", place.folder)
    good(place, "default", "sealed")
    keys = read_file(key_store(place, "site"))
    plain = subprocess.run([PLAINSTATE, "vm", "--config", place.config], env=place.env, capture_output=True, check=True)
    same(place.vtpm("destroy", "--yes", "vm", "--config", place.config).returncode, 0)
    same(place.vtpm("destroy", "--yes", "vm", "--config", place.config).returncode, 3)
    good(place, "retire", "site", "1", "--search", place.folder, "--grace", "0", "--no-states")
    good(place, "remove", "site", "--yes", "--search", place.folder, "--no-states")
    kdks = [keys[32 + 44 * i + 12:32 + 44 * i + 44] for i in range(2)]
    return kdks + [text.encode() for text in PASSWORDS], plain.stdout


def test_acts(place):
    """every act has its line, also the one that failed, with who and which key"""
    live(place)
    same([act for act in acts(place) if act[0] != "unlock"],
         [("provider-create", "ok"), ("provider-create", "ok"), ("provider-create", "usage"), ("wrap", "ok"),
          ("create", "ok"), ("identity-unchecked", "ok"), ("test", "ok"), ("test", "wrong-passphrase"), ("rotate", "ok"), ("export", "ok"),
          ("import", "wrong-passphrase-or-damaged"), ("import", "ok"), ("retire", "key-in-use"),
          ("provider-default", "ok"), ("destroy", "ok"), ("destroy", "state-missing"), ("retire", "ok"),
          ("provider-remove", "ok")])
    by_act = {line["act"]: line for line in reversed(lines(place))}
    made, opened = by_act["create"], by_act["unlock"]
    same((made["state"], made["key-version"]), (os.path.abspath("vm"), 1))
    same({key: opened[key] for key in ("vtpm-id", "provider", "key-version", "outcome")},
         {key: made[key] for key in ("vtpm-id", "provider", "key-version", "outcome")})
    same(by_act["destroy"]["vtpm-id"], made["vtpm-id"])
    same(by_act["rotate"]["key-version"], 2)
    for line in lines(place):
        true(line["pid"] > 0 and line["uid"] == os.getuid() and line["time"].endswith("Z"), line)
    same(os.stat(os.path.join(place.data_dir, "audit.log")).st_mode & 0o777, 0o600)


def test_unlock_fails(place):
    """an unlock that fails names the slot and the word"""
    place.create("vm")
    os.unlink(key_store(place, "native"))
    place.refused(4, ["[key-destroyed]"], "vm")
    last = lines(place)[-1]
    same((last["act"], last["outcome"], last["provider"]), ("unlock", "key-destroyed", listed(place)["native"]["uuid"]))


def test_unlock_by_tools(place):
    """who changes the keys of a file has unlocked it: a line says so, also where nothing opened or was changed"""
    place.create("vm")
    uuid = listed(place)["native"]["uuid"]
    for args, status, wanted in ((["rekey", "vm", "--stale"], 0, ["ok"]), (["rekey", "vm", "--deep"], 0, ["ok"]),
                                 (["rekey", "vm"], 4, ["key-destroyed"])):
        if status:
            os.unlink(key_store(place, "native"))
        before = len(lines(place))
        same(place.vtpm(*args, "--config", place.config).returncode, status, args)
        told = [line for line in lines(place)[before:] if line["act"] == "unlock"]
        same([line["outcome"] for line in told], wanted, args)
        same({(line["provider"], line["key-version"]) for line in told}, {(uuid, 1)}, args)
        same({line["vtpm-id"] for line in told}, {place.inspect("vm")["records"][0]["vtpm_id"]})


def test_wrap(place):
    """each key slot of a new vTPM, of a clone and of a binding has its line, also the one that could not be wrapped"""
    good(place, "create", "site", "--kind", "native")
    good(place, "create", "spare", "--kind", "native")
    good(place, "rotate", "spare")
    known = {entry["uuid"]: name for name, entry in listed(place).items()}

    def since(count, *args, status=0):
        done = place.vtpm(*args, "--config", place.config)
        same(done.returncode, status, done.stderr)
        return [(line["act"], known.get(line.get("provider")), line.get("key-version"), line["outcome"])
                for line in lines(place)[count:] if line["act"] in ("wrap", "create", "bind")]

    spare = ("wrap", "spare", 2, "ok")
    same(since(len(lines(place)), "create", "vm", "--provider", "spare"), [spare, ("create", "spare", 2, "ok")])
    same(len({line["vtpm-id"] for line in lines(place) if line["act"] in ("wrap", "create")}), 1)
    same(place.vtpm("keys", "add", "vm", "--provider", "site", "--config", place.config).returncode, 0)
    bound = since(len(lines(place)), "bind", "vm", "--vm-uuid", "7d444840-9dc0-41d1-b245-5ffdce74fad2")
    same(bound, [spare, ("wrap", "site", 1, "ok"), ("bind", None, None, "ok")])
    same(since(len(lines(place)), "clone", "vm", "vm2", "--on-clone", "copy", "--vm-uuid",
               "7d444840-9dc0-41d1-b245-5ffdce74fad3"), [("wrap", "site", 1, "ok")])
    os.unlink(key_store(place, "spare"))
    same(since(len(lines(place)), "create", "vm3", "--provider", "spare", status=4),
         [("wrap", "spare", None, "key-destroyed"), ("create", None, None, "key-destroyed")])
    same(since(len(lines(place)), "create", "vm3", "--provider", "nobody", status=4),
         [("create", None, None, "provider-unknown")])


def test_no_secret(place):
    """no key, no password, nothing of the TPM's state is in the log, in no encoding"""
    secrets, plain = live(place)
    text = read_file(os.path.join(place.data_dir, "audit.log"))
    for secret in secrets:
        for form in (secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)[:40],
                     base64.urlsafe_b64encode(secret)[:40]):
            true(form not in text, "a secret is in the log")
    windows = {plain[i:i + 16] for i in range(len(plain) - 15)}
    windows = {window for window in windows if len(set(window)) > 8}
    true(len(windows) > 100, "plain state")
    true(not any(text[i:i + 16] in windows for i in range(len(text) - 15)), "state is in the log")


def test_where(place):
    """audit= of vtpm.conf: another file, none; anything else is an error that names the key"""
    path = os.path.abspath("other.log")
    write_file(place.config, "[vtpm]\naudit=%s\n" % path, "w")
    good(place, "create", "one", "--kind", "native")
    same(json.loads(read_file(path))["act"], "provider-create")
    true(not os.path.exists(os.path.join(place.data_dir, "audit.log")), "also in the default place")
    write_file(place.config, "[vtpm]\naudit=none\n", "w")
    good(place, "rotate", "one")
    same(read_file(path).count(b"\n"), 1)
    for value in ("", "relative.log", "syslog", "./x"):
        write_file(place.config, "[vtpm]\naudit=%s\n" % value, "w")
        done = provider(place, "rotate", "one")
        same(done.returncode, 2)
        contains(done.stderr, "key 'audit'")


def test_lost_line(place):
    """a log that cannot be written is told, and stops nothing"""
    write_file(place.config, "[vtpm]\naudit=/dev/full\n", "w")
    done = provider(place, "create", "one", "--kind", "native")
    same(done.returncode, 0)
    contains(done.stderr, "warning: cannot write to the audit log /dev/full: No space left on device")
    write_file(place.config, "[vtpm]\naudit=journal\n", "w")
    if not os.path.exists("/run/systemd/journal/socket"):
        done = provider(place, "rotate", "one")
        same(done.returncode, 0)
        contains(done.stderr, "/run/systemd/journal/socket")


def test_journal(place):
    """audit=journal: one datagram of the journal's native protocol, the line as its message"""
    need_root()
    if not shutil.which("unshare") or not os.path.isdir("/run"):
        raise Skip("no unshare")
    write_file(place.config, "[vtpm]\naudit=journal\n", "w")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind("journal")
        journal.settimeout(10)
        script = ("mount --make-rprivate / && mount -t tmpfs none /run && mkdir -p /run/systemd/journal && "
                  "ln -s \"$PWD/journal\" /run/systemd/journal/socket && exec \"$@\"")
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", VTPM, "provider", "create", "one", "--kind",
                               "native", "--config", place.config], env=place.env, capture_output=True, text=True,
                              timeout=60, check=False)
        if "mount" in done.stderr or "unshare" in done.stderr:
            raise Skip("no mounts here: " + done.stderr.strip())
        same(done.returncode, 0, done.stderr)
        fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
    same((fields["SYSLOG_IDENTIFIER"], fields["PRIORITY"]), ("vtpm", "6"))
    line = json.loads(fields["MESSAGE"])
    same((line["act"], line["detail"]), ("provider-create", "one"))
    true(not os.path.exists(os.path.join(place.data_dir, "audit.log")), "also in a file")


if __name__ == "__main__":
    sys.exit(main(globals()))
