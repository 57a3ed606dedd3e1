#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm provider create, list, status, test, rotate, default: with the native kind, with the shell program of the
protocol's page, and with helpers that are missing or that lie. Reminders of a missing backup."""
import os
import resource
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (VTPM, contains, lacks, main, read_file, same, true, wait_until, write_file)  # noqa: E402
from keyhost import LIBEXEC, uuid_of  # noqa: E402
from providers import (DAY, add_example, add_helper, bad, edit_registry, good, key_store, listed, provider,  # noqa: E402
                       registry, secret_file, status_of)
from test_store import Failing  # noqa: E402
from test_full_disk import fill, small_disk  # noqa: E402

UUID = "7d444840-9dc0-41d1-b245-5ffdce74fad2"


def new_vtpm(place, name, *args):
    return place.vtpm("create", name, "--config", place.config, *args)


def needs(place, name):
    """(provider, key version) of the key slots."""
    return [(slot["provider"], slot["key_version"]) for slot in place.inspect(name)["records"][0]["key_slots"]]


def test_two_natives(place):
    """two native providers: the first is the default, another can be; a name is a label, the UUID does as well"""
    contains(good(place, "create", "one", "--kind", "native"), "provider one, UUID ", "key version 1", "the default")
    lacks(good(place, "create", "two", "--kind", "native"), "default")
    entries = listed(place)
    same([(name, entry["default"], entry["backup"]) for name, entry in entries.items()],
         [("one", True, "not-backed-up"), ("two", False, "not-backed-up")])
    one, two = entries["one"]["uuid"], entries["two"]["uuid"]
    contains(good(place, "list"), "* one", "  two", one, two, "native")
    same(new_vtpm(place, "a").returncode, 0)
    good(place, "default", "two")
    same(new_vtpm(place, "b").returncode, 0)
    same(new_vtpm(place, "c", "--provider", one).returncode, 0)
    good(place, "rotate", one)
    same(new_vtpm(place, "d", "--provider", "one").returncode, 0)
    same([needs(place, name) for name in "abcd"], [[(one, 1)], [(two, 1)], [(one, 1)], [(one, 2)]])
    for name in "abcd":
        place.sound(name)
    edit_registry(place, "^name=one$", "name=another")
    place.sound("a")
    contains(good(place, "test", "another"), "key version 2")
    contains(good(place, "test", two.upper()), "key version 1")


def test_status(place):
    """status tells key versions, closed ones and backup, and fails with the word of what is wrong"""
    good(place, "create", "one", "--kind", "native")
    good(place, "rotate", "one")
    edit_registry(place, "^newest-version=2$", "newest-version=1\nclosed=1:1700000000;")
    told = status_of(place, "one")
    same([(v["version"], v["closed"]) for v in told["versions"]], [(1, True), (2, False)])
    same((told["backup"], told["error"], told["newest-version"]), ("not-backed-up", None, 2))
    contains(read_file(registry(place)).decode(), "newest-version=2")  # it learns what it was not told
    contains(good(place, "status"), "one (default)", "Key version   1", "closed since 2023-11-14", "Status        ready",
             "vtpm provider export one --pkcs12 FILE")
    good(place, "create", "two", "--kind", "native")
    os.unlink(key_store(place, "one"))
    done = provider(place, "status")
    same(done.returncode, 4)
    contains(done.stdout, "two", "[key-destroyed]")
    contains(done.stderr, "vtpm provider status: [key-destroyed]")
    same(provider(place, "status", "two").returncode, 0)
    bad(place, 4, "key-destroyed", "test", "one")
    bad(place, 4, "key-destroyed", "rotate", "one")
    bad(place, 4, "provider-unknown", "status", "nobody")


def test_shell_provider(place):
    """the shell program of docs/provider-protocol.md is a provider like any other"""
    add_example(place)
    good(place, "create", "shell", "--kind", "example")
    contains(good(place, "test", "shell"), "key version 1 (file-")
    same(new_vtpm(place, "old", "--provider", "shell").returncode, 0)
    contains(good(place, "rotate", "shell"), "key version 2")
    same(new_vtpm(place, "new").returncode, 0)
    uuid = listed(place)["shell"]["uuid"]
    same((needs(place, "old"), needs(place, "new")), ([(uuid, 1)], [(uuid, 2)]))
    place.sound("old")
    place.sound("new")
    told = status_of(place, "shell")
    same(([v["version"] for v in told["versions"]], told["backup"]), ([1, 2], "not by vtpm"))
    contains(bad(place, 2, "usage", "export", "shell", "--pkcs12", "f"), "of kind example")
    true(not os.path.exists("f"), "an export of nothing")


def test_bad_input(place):
    """names, kinds, options and commands that make no sense: usage, and nothing is made"""
    for name in ("", "a b", "a/b", "../a", "x" * 65, "a\nb", UUID):
        bad(place, 2, "usage", "create", "--kind", "native", "--", name)
    for kind in ("", "../../bin/sh", "Native", "x" * 33, "/bin/sh", "-x"):
        bad(place, 2, "usage", "create", "one", "--kind=" + kind)
    for option in ("novalue", "=x", "A=x", "a=b\nc", "password=x", "pin=1"):
        bad(place, 2, "usage", "create", "one", "--kind", "native", "--option", option)
    bad(place, 2, "usage", "create", "one")
    bad(place, 2, "usage", "create", "--kind", "native")
    bad(place, 2, "usage", "create", "one", "two", "--kind", "native")
    same(place.vtpm("provider").returncode, 2)
    same(place.vtpm("provider", "frobnicate").returncode, 2)
    true(not os.path.exists(place.data_dir), "something was made")
    for args in (["--help"], ["create", "--help"], ["retire", "--help"]):
        done = place.vtpm("provider", *args)
        same((done.returncode, done.stderr), (0, ""))
        contains(done.stdout, "Usage:")
    for command in ("test", "rotate", "default", "status"):
        bad(place, 4, "provider-unknown", command, "nobody")
        bad(place, 4, "provider-unknown", command, UUID)
    good(place, "create", "one", "--kind", "native")
    before = sorted(os.listdir(os.path.join(place.data_dir, "native")))
    contains(bad(place, 2, "usage", "create", "one", "--kind", "native"), 'there is a key provider "one"')
    same(sorted(os.listdir(os.path.join(place.data_dir, "native"))), before, "keys for a name that is taken")


def test_known_again(place):
    """create --uuid makes no key: a key store or a key server is known again, and nothing that is lost is made anew"""
    add_example(place)
    good(place, "create", "one", "--kind", "native")
    good(place, "rotate", "one")
    good(place, "create", "shell", "--kind", "example")
    same([new_vtpm(place, name, "--provider", name).returncode for name in ("one", "shell")], [0, 0])
    uuid = {name: entry["uuid"] for name, entry in listed(place).items()}
    before = read_file(key_store(place, "one"))
    bad(place, 2, "usage", "create", "two", "--kind", "native", "--uuid", uuid["one"])
    os.unlink(registry(place))
    for text in ("", "7d444840", "0" * 8 + UUID[8:] + "0", "00000000-0000-0000-0000-000000000000"):
        bad(place, 2, "usage", "create", "one", "--kind", "native", "--uuid", text)
    bad(place, 2, "usage", "create", "one", "--kind", "native", "--uuid", uuid["one"], "--protect")
    contains(good(place, "create", "one", "--kind", "native", "--uuid", uuid["one"].upper()), uuid["one"],
             "no key was made")
    good(place, "create", "shell", "--kind", "example", "--uuid", uuid["shell"])
    same(read_file(key_store(place, "one")), before, "the key store")
    same(listed(place)["one"]["newest-version"], 2)
    for name in ("one", "shell"):
        place.sound(name)
    # Keys that are gone are not made again under their name: a start says what is missing, an import brings it.
    store = key_store(place, "one")
    os.unlink(registry(place))
    os.rename(store, "kept")
    contains(bad(place, 4, "key-destroyed", "create", "one", "--kind", "native", "--uuid", uuid["one"]), store)
    same((os.path.exists(store), listed(place)), (False, {}))
    write_file(store, b"\0" * 64)
    bad(place, 3, "state-damaged", "create", "one", "--kind", "native", "--uuid", uuid["one"])
    same((read_file(store), listed(place)), (b"\0" * 64, {}), "what could not be read is left, and not listed")


def test_passphrase_alone(place):
    """state file and passphrase are enough on a host that knows nothing: the message says how"""
    add_example(place)
    word = secret_file("word", "correct horse battery\n")
    write_file("key", os.urandom(32))
    os.chmod("key", 0o600)
    good(place, "create", "site", "--kind", "example")
    good(place, "create", "spare", "--kind", "passphrase", "--option", "scrypt-n=14")
    good(place, "create", "raw", "--kind", "raw-key", "--option", "key-file=" + os.path.abspath("key"))
    same(new_vtpm(place, "a", "--provider", "spare", "--password-file", word).returncode, 0)
    same(new_vtpm(place, "b", "--provider", "raw").returncode, 0)
    same(new_vtpm(place, "c", "--provider", "site").returncode, 0)
    ids = {name: listed(place)[name]["uuid"] for name in ("spare", "raw", "site")}
    os.rename(place.data_dir, "lost")
    for name, provider_name, said in (("a", "spare", "--kind passphrase --uuid "),
                                      ("b", "raw", "--kind raw-key --uuid "), ("c", "site", "--kind KIND --uuid ")):
        for command in (["check", name], ["run", name, "--ctrl", "unix:sock"]):
            done = place.vtpm(*command, "--config", place.config)
            same(done.returncode, 4, done.stderr)
            contains(done.stderr, "[provider-unknown]", "vtpm provider create NAME " + said + ids[provider_name])
    good(place, "create", "other-name", "--kind", "passphrase", "--uuid", ids["spare"])
    good(place, "create", "r", "--kind", "raw-key", "--uuid", ids["raw"],
         "--option", "key-file=" + os.path.abspath("key"))
    same(listed(place)["other-name"]["uuid"], ids["spare"])
    for name, args in (("a", ["--password-file", word]), ("b", [])):
        same(place.vtpm("check", name, "--config", place.config, *args).returncode, 0, name)
    wrong = secret_file("wrong", "no\n")
    done = place.vtpm("check", "a", "--config", place.config, "--password-file", wrong)
    contains(done.stderr, "[wrong-passphrase]")


ANSWERS = """#!/bin/sh
echo "vtpm-provider 1 liar $1 create wrap unwrap"
while read -r op rest; do
  case $op in create) %s ;; *) echo "error usage no such request" ;; esac
done
"""


def test_bad_helpers(place):
    """a helper that is missing, dies, or speaks nonsense at create leaves nothing that blocks a second try"""
    contains(bad(place, 4, "provider-failed", "create", "liar", "--kind", "liar"), "vtpm-provider-liar")
    nonsense = ("exit 3", "echo ok", "echo ok key", "echo ok key 0", "echo ok key 1 more", "echo 'ok  1'",
                "echo ok key -1", "echo ok key 4294967296", "printf '\\000\\n'", "echo hello", "kill -9 $$",
                "head -c 20000 /dev/zero | tr '\\0' x")
    for answer in nonsense:
        add_helper(place, "liar", ANSWERS % answer)
        bad(place, 4, "provider-failed", "create", "liar", "--kind", "liar")
        same(listed(place), {}, answer)
    add_helper(place, "liar", ANSWERS % "echo error access-denied not you")
    contains(bad(place, 4, "access-denied", "create", "liar", "--kind", "liar"), "not you")
    add_helper(place, "liar", ANSWERS % "echo ok key 1")
    good(place, "create", "liar", "--kind", "liar", "--option", "a=1", "--option", "b=x y")
    same(listed(place)["liar"]["options"], ["a=1", "b=x y"])
    bad(place, 2, "usage", "rotate", "liar")


MEMORY = """#!/bin/sh
echo "vtpm-provider 1 memory $1 create versions wrap unwrap"
while read -r op vtpm a b c d; do
  case $op in
    create) echo ok key 1 ;;
    status) echo ok fine ;;
    versions) echo ok %s ;;
    wrap) kept=$b; echo ok key 1 aGFuZGxl ;;
    unwrap) if [ "$kept" ]; then echo "ok $kept"; else echo error key-destroyed it is forgotten; fi ;;
    *) echo error usage no such request ;;
  esac
done
"""


def test_cold(place):
    """test unwraps by a second helper: what one only remembers is no proof"""
    add_helper(place, "memory", MEMORY % "1:key:0")
    good(place, "create", "m", "--kind", "memory")
    bad(place, 4, "key-destroyed", "test", "m")
    done = new_vtpm(place, "a")
    same(done.returncode, 4)
    contains(done.stderr, "[key-destroyed]")
    for versions in ("2:key:0 1:key:0", "1:key", "x:key:0", "1:key:x", "1::0", "1:key:0 1:key:0"):
        add_helper(place, "memory", MEMORY % versions)
        done = provider(place, "status", "m")
        same(done.returncode, 4, versions)
        contains(done.stderr, "[provider-failed]")


REMINDER = "[not-backed-up]"


def test_reminders(place):
    """create and run remind of a missing backup, once in 24 hours for each provider"""
    done = new_vtpm(place, "a")
    contains(done.stderr, REMINDER, "vtpm provider export native --pkcs12 FILE")
    lacks(new_vtpm(place, "b").stderr, REMINDER)
    uuid = listed(place)["native"]["uuid"]
    mark = os.path.join(place.data_dir, "warned", uuid)
    os.utime(mark, (time.time() - DAY + 60,) * 2)
    lacks(new_vtpm(place, "c").stderr, REMINDER)
    os.utime(mark, (time.time() - DAY - 1,) * 2)
    contains(new_vtpm(place, "d").stderr, REMINDER)
    os.utime(mark, (time.time() + 10 * DAY,) * 2)  # a clock that was wrong
    contains(new_vtpm(place, "e").stderr, REMINDER)
    contains(provider(place, "create", "other", "--kind", "native").stderr, REMINDER)  # for each of its own
    os.unlink(mark)
    device = place.start("a", log="log-1")
    device.powered()
    wait_until(lambda: REMINDER in device.log(), "the broker reminds, behind the key")
    device.term()
    place.start("b", log="log-2").term()
    lacks(read_file("log-2").decode(), REMINDER)
    secret_file("pw", "xyzzy\n")
    good(place, "export", "native", "--pkcs12", "p12", "--password-file", "pw")
    os.unlink(mark)
    lacks(new_vtpm(place, "f").stderr, REMINDER)
    true(not os.path.exists(mark), "a mark without a reminder")
    good(place, "rotate", "native")
    contains(new_vtpm(place, "g").stderr, REMINDER, "its backup ends with key version 1")


def test_require_backup(place):
    """--require-backup: no vTPM before there is a backup of every key version"""
    good(place, "create", "safe", "--kind", "native", "--require-backup")
    secret_file("pw", "xyzzy\n")

    def refused():
        done = new_vtpm(place, "a")
        same(done.returncode, 1, done.stderr)
        contains(done.stderr, "vtpm create: [not-backed-up]", "vtpm provider export safe --pkcs12 FILE")
        true(not os.path.exists("a"), "a state file was made")

    refused()
    good(place, "export", "safe", "--pkcs12", "1.p12", "--password-file", "pw")
    same(new_vtpm(place, "b").returncode, 0)
    same((listed(place)["safe"]["backup"], listed(place)["safe"]["backup-version"]), ("active", 1))
    good(place, "rotate", "safe")
    same(listed(place)["safe"]["backup"], "warning")
    refused()
    place.sound("b")  # only new ones are refused
    good(place, "export", "safe", "--pkcs12", "2.p12", "--password-file", "pw")
    same(new_vtpm(place, "a").returncode, 0)


def test_many_at_once(place):
    """providers made by many processes at once are all there"""
    commands = [subprocess.Popen([VTPM, "provider", "create", "p%d" % i, "--kind", "native", "--config", place.config],
                                 env=place.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for i in range(16)]
    same([command.wait(60) for command in commands], [0] * 16)
    entries = listed(place)
    same(sorted(entries), sorted("p%d" % i for i in range(16)))
    same(sum(entry["default"] for entry in entries.values()), 1)
    for entry in entries.values():
        true(os.path.exists(os.path.join(place.data_dir, "native", entry["uuid"] + ".keys")), "keys of " + entry["name"])


def test_full_disk(place):
    """a full disk: store-full, the registry as it was, no keys left over, and then it works"""
    with small_disk(place, "tmpfs", 1 << 20):
        place.env["VTPM_DATA_DIR"] = place.data_dir = os.path.abspath("disk")
        good(place, "create", "one", "--kind", "native")
        before = read_file(registry(place))
        stores = sorted(os.listdir("disk/native"))
        fill()
        for command in (["create", "two", "--kind", "native"], ["rotate", "one"]):
            done = provider(place, *command)
            same(done.returncode, 1, done.stderr)
            contains(done.stderr, "[store-full]")
        same(read_file(registry(place)), before)
        same([name for name in sorted(os.listdir("disk/native")) if not name.endswith(".lock")],
             [name for name in stores if not name.endswith(".lock")])
        os.truncate("disk/filler", 0)
        good(place, "create", "two", "--kind", "native")
        contains(good(place, "rotate", "one"), "key version 2")
        contains(good(place, "test", "two"), "key version 1")


def test_registry_in_the_way(place):
    """a registry that is damaged, or cannot be written: no new keys are left, and then it works"""
    good(place, "create", "one", "--kind", "native", "--option", "x=" + 300 * "y")
    folder = os.path.join(place.data_dir, "native")

    def stores():
        return sorted(name for name in os.listdir(folder) if name.endswith(".keys"))

    before, text = stores(), read_file(registry(place))
    write_file(registry(place), b"rubbish\n")
    bad(place, 3, "state-damaged", "create", "two", "--kind", "native")
    bad(place, 3, "state-damaged", "list")
    write_file(registry(place), text)
    # room for a key store, and none for the longer registry
    done = provider(place, "create", "two", "--kind", "native",
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)))
    same(done.returncode, 1, done.stderr)
    contains(done.stderr, "providers.conf")
    lacks(done.stderr, "not removed")
    same(stores(), before)
    same(read_file(registry(place)), text)
    good(place, "create", "two", "--kind", "native")


def test_helper_file_size_limit(place):
    """the helper itself under a limit on file sizes: it answers, and nothing is left of what it could not write"""
    good(place, "create", "one", "--kind", "native")
    folder = os.path.join(place.data_dir, "native")
    before, store = sorted(os.listdir(folder)), read_file(key_store(place, "one"))
    helper = os.path.join(LIBEXEC, "vtpm-provider-native")
    done = subprocess.run([helper, uuid_of(place, "one")], input="rotate\nstatus\n", env=place.env, capture_output=True,
                          text=True, timeout=60, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)))
    answers = [line.split()[:2] for line in done.stdout.splitlines()[1:]]
    same(answers, [["error", "store-full"], ["ok", "ready"]], str(done))
    same(sorted(os.listdir(folder)), before)
    same(read_file(key_store(place, "one")), store)


def test_registry_not_synced(place):
    """where the list has the provider already and only its folder was not synced, the keys stay: the list names them"""
    good(place, "create", "one", "--kind", "native")
    failing = Failing(place, place.data_dir)
    place.env.update(failing.env)
    failing.break_store()
    contains(bad(place, 1, "failed", "create", "two", "--kind", "native"), "providers.conf")
    failing.mend()
    contains(good(place, "test", "two"), "key version 1")


if __name__ == "__main__":
    sys.exit(main(globals()))
