#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm rekey of many files: one that fails stops no other, what was interrupted goes on where it was, terminals see a bar."""
import os
import pty
import select
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (HEADER_B, LIMIT, VTPM, change_file, contains, die_with_parent, lacks, main,  # noqa: E402
                    read_file, same, true, wait_until, write_file)
from keyhost import add_passphrase, cold_start, make_state, names, provider, rekey, rekey_lock, slots  # noqa: E402


def make_fleet(place, count, **options):
    """Copies of one TPM, in two folders."""
    os.makedirs("fleet/deeper")
    data = read_file(make_state(place, **options))
    paths = ["fleet/%s%d.vtpm" % ("deeper/" if i % 2 else "", i) for i in range(count)]
    for path in paths:
        write_file(path, data)
    return paths


def test_one_bad(place):
    """damaged, truncated, locked, missing: each is named with its word, all others are done, the first one's exit status"""
    paths = make_fleet(place, 30)
    provider(place, "rotate", "native")
    change_file(paths[3], 100, b"torn")
    change_file(paths[3], HEADER_B + 100, b"torn")
    os.truncate(paths[4], 300000)
    bad = {paths[3]: "state-damaged", paths[4]: "state-truncated", paths[5]: "rekey-pending", "no.vtpm": "state-missing"}
    with rekey_lock(paths[5]):
        done = rekey(place, *paths, "no.vtpm", status=3)
    contains(done.stdout, "rekeyed 27, unchanged 0, failed 4")
    told = done.stderr.splitlines()
    same(len(told), 5)
    same(len([line for line in told if "[not-backed-up]" in line]), 1, told)
    for path, word in bad.items():
        same(len([line for line in told if path in line and "[%s]" % word in line]), 1, (path, told))
    for path in paths:
        if path not in bad:
            same(slots(place, path), [["native", 2]])
    cold_start(place, paths[0])
    with rekey_lock(paths[5]):
        rekey(place, paths[5], paths[3], status=1)


def test_all(place):
    """--all finds the state files below a folder, and only those; nothing else is touched"""
    paths = make_fleet(place, 10)
    write_file("fleet/notes.txt", b"nothing of ours")
    write_file("fleet/deeper/disk.img", os.urandom(700000))
    os.symlink(os.path.abspath("state.vtpm"), "fleet/link.vtpm")
    os.mkfifo("fleet/fifo")
    change_file(paths[2], 100, b"torn")
    change_file(paths[2], HEADER_B + 100, b"torn")
    others = [read_file(path) for path in ("fleet/notes.txt", "fleet/deeper/disk.img", "state.vtpm")]
    provider(place, "rotate", "native")
    done = rekey(place, "--all", "fleet", status=3, word="state-damaged")
    contains(done.stdout, "found 10 state files, and 2 other files", "rekeyed 9, unchanged 0, failed 1")
    same([read_file(path) for path in ("fleet/notes.txt", "fleet/deeper/disk.img", "state.vtpm")], others)
    contains(rekey(place, "--all", "fleet", "--stale", status=3).stdout, "rekeyed 0, unchanged 9, failed 1")
    contains(rekey(place, "--all", "fleet", "--verify", "--deep", status=3).stdout, "rekeyed (deep) 9", "verified 9")
    os.mkdir("empty")
    contains(rekey(place, "--all", "empty").stdout, "found 0 state files")


def test_all_once(place):
    """--all: a file with two names, and one below two of the folders, is done once; one that cannot be read is told"""
    paths = make_fleet(place, 2)
    os.link(paths[0], "fleet/deeper/again.vtpm")
    done = rekey(place, "--all", "fleet", "fleet/deeper", paths[0], "--deep")
    contains(done.stdout, "found 2 state files, and 0 other files", "rekeyed (deep) 2, unchanged 0, failed 0")
    same([place.inspect(path)["records"][0]["epoch"] for path in paths], [2, 2])
    unreadable = "/proc/%d/mem" % os.getpid()  # a regular file, and nothing is at its beginning
    done = rekey(place, "--all", "fleet", unreadable, status=4, word="access-denied")
    contains(done.stdout, "found 2 state files, and 0 other files", "rekeyed 2")
    contains(done.stderr, "could not look at " + unreadable)


def test_names_of_files(place):
    """--all: what the names of files have in them of control characters does not reach the terminal"""
    os.makedirs("fleet/\033[2J\u009b2J\n")
    data = read_file(make_state(place))
    write_file("fleet/\033[2J\u009b2J\n/a.vtpm", data[:300000])
    done = rekey(place, "--all", "fleet", status=3, word="state-truncated")
    contains(done.stderr, "fleet/?[2J?2J?/a.vtpm")
    lacks(done.stdout + done.stderr, "\033", "\u009b")


def test_one_helper(place):
    """one helper asks for all files, a second proves; each slot is unwrapped by another process than wrapped it"""
    place.add_gate()
    paths = make_fleet(place, 12, provider="gate")
    before = len(place.asked())
    rekey(place, *paths)
    asked = place.asked()[before:]
    wrapped = [pid for request, pid, _ in asked if request == "wrap"]
    same((len(wrapped), len(set(wrapped))), (12, 1))
    proved = [pid for request, pid, _ in asked if request == "unwrap" and pid not in wrapped]
    same((len(proved), len(set(proved))), (12, 1))


def test_helper_dies(place):
    """a helper that dies under one file is started anew for the next"""
    place.add_gate()
    paths = make_fleet(place, 6)
    place.gate("die")
    contains(rekey(place, "--to", "gate", *paths, status=4).stdout, "rekeyed 0, unchanged 0, failed 6")
    place.gate("open")
    contains(rekey(place, "--to", "gate", *paths).stdout, "rekeyed 6")


def start_rekey(place, *args, **options):
    return subprocess.Popen([VTPM, "rekey", *args, "--config", place.config], env=place.env, text=True,
                            stdin=subprocess.DEVNULL, preexec_fn=die_with_parent,
                            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


def test_interrupted(place):
    """SIGINT: what is under way is finished, the rest left and counted, and --stale does the rest"""
    place.add_gate()
    paths = make_fleet(place, 20)
    before = len(place.asked())
    place.gate("wait")
    process = start_rekey(place, "--to", "gate", "--jobs", "3", *paths)
    wait_until(lambda: len(place.asked()) > before, "the provider is asked")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    place.gate("open")
    out, err = process.communicate(timeout=LIMIT)
    same(process.returncode, 1)
    contains(out, "rekeyed 3, unchanged 0, failed 0")
    contains(err, "17 left")
    same(sorted(names(place, path)[0] for path in paths), ["gate"] * 3 + ["native"] * 17)
    contains(rekey(place, "--to", "gate", "--stale", *paths).stdout, "rekeyed 17, unchanged 3, failed 0")
    same({names(place, path)[0] for path in paths}, {"gate"})


def test_killed(place):
    """SIGKILL in the middle: every file is as before or as after, and --stale does the rest"""
    paths = make_fleet(place, 200)
    for round in range(2, 7):
        provider(place, "rotate", "native")
        process = start_rekey(place, "--stale", *paths)
        time.sleep(0.03 * (round - 1))
        process.kill()
        process.communicate(timeout=LIMIT)
        contains(rekey(place, "--stale", "--verify", *paths).stdout, "failed 0", "verified 200")
        same({tuple(slots(place, path)[0]) for path in paths[::17]}, {("native", round)})


def read_all(terminal, process):
    text = b""
    while True:
        ready = select.select([terminal], [], [], 0.2)[0]
        try:
            more = os.read(terminal, 4096) if ready else b""
        except OSError:
            more = b""
            ready = True
        text += more
        if process.poll() is not None and not more:
            return text.decode()


def test_bar(place):
    """a bar where standard error is a terminal, none where it is not"""
    paths = make_fleet(place, 40)
    lacks(rekey(place, *paths).stderr, "[#", "\r")
    ours, theirs = pty.openpty()
    process = start_rekey(place, *paths, stderr=theirs)
    os.close(theirs)
    text = read_all(ours, process)
    contains(process.stdout.read(), "rekeyed 40")
    contains(text, "40 of 40", "[##############################]")
    os.close(ours)


def type_at(place, typed, *args):
    """Runs vtpm with a terminal of its own, as a person at it; gives (exit status, what stands on the terminal)."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execve(VTPM, [VTPM, *args, "--config", place.config], place.env)
        finally:
            os._exit(127)
    text, end, sent = b"", time.monotonic() + LIMIT, 0
    while time.monotonic() < end:
        if sent < len(typed) and typed[sent][0].encode() in text:
            os.write(terminal, typed[sent][1])
            sent += 1
        try:
            if select.select([terminal], [], [], 0.1)[0]:
                text += os.read(terminal, 4096)
        except OSError:
            break
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return status, text.decode()


def test_typed_once(place):
    """a passphrase is typed once for all files; Ctrl-C at the question ends it, and nothing is changed"""
    paths = make_fleet(place, 8)
    add_passphrase(place, "known")
    registry = os.path.join(place.data_dir, "providers.conf")
    text = read_file(registry).decode()
    write_file(registry, text.replace("password-file=%s;" % os.path.abspath("known.word"), ""), "w")
    before = [read_file(path) for path in paths]
    status, said = type_at(place, [("known", b"\x03")], "rekey", "--to", "known", *paths)
    true(status not in (0, -9), said)
    same([read_file(path) for path in paths], before)
    status, said = type_at(place, [("known", b"a word\n"), ("once more", b"a word\n")], "rekey", "--to", "known", *paths)
    same(status, 0, said)
    contains(said, "rekeyed 8")
    same(said.count("once more"), 1)
    write_file("word", "a word", "w")
    contains(rekey(place, "--to", "native", "--password-file", "word", *paths).stdout, "rekeyed 8")


main(globals())
