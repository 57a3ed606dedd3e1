#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What opens a passphrase or raw-key slot comes from a file, a descriptor or a terminal, and goes nowhere else."""
import contextlib
import os
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, LIMIT, VTPM, contains, main, read_file, same, true, wait_until,  # noqa: E402
                    write_file)
from terminal import Terminal  # noqa: E402
from tpm_bytes import startup  # noqa: E402

SECRET = "a horse, a battery"
DECRYPT_ERROR = 0x21
PROMPT = "passphrase for key provider pass: "


def add_provider(place, name, kind, number, *options):
    os.makedirs(place.data_dir, mode=0o700, exist_ok=True)
    lines = ["[provider 7d444840-9dc0-41d1-b245-5ffdce74fa%02d]" % number, "name=" + name, "kind=" + kind]
    lines += ["options=%s;" % ";".join(options)] if options else []
    write_file(os.path.join(place.data_dir, "providers.conf"), "\n".join(lines) + "\n", "a")


def passphrase_state(place, name="state.vtpm"):
    """A state file whose only slot opens with SECRET, which is in the file secret."""
    add_provider(place, "pass", "passphrase", 1)
    write_file("secret", SECRET + "\n", "w")
    place.create(name, "--provider", "pass", "--password-file", "secret")
    return name


def check(place, *args, **options):
    return place.vtpm("check", "state.vtpm", "--config", place.config, *args, **options)


def refused(done, status, *pieces):
    same(done.returncode, status, done.stdout + done.stderr)
    contains(done.stderr, *pieces)


def test_sources(place):
    """file, PIN file, descriptor, standard input and an option's file open the same slot"""
    passphrase_state(place)
    for args in (["--password-file", "secret"], ["--pin-file", "secret"]):
        same(check(place, *args).returncode, 0)
    with open("secret", "rb") as file:
        same(check(place, "--password-fd", str(file.fileno()), pass_fds=[file.fileno()]).returncode, 0)
    same(subprocess.run([VTPM, "check", "state.vtpm", "--config", place.config, "--password-fd", "0"], env=place.env,
                        input=SECRET.encode(), capture_output=True, timeout=LIMIT, check=False).returncode, 0)
    os.mkfifo("pipe")
    with subprocess.Popen(["sh", "-c", "cat secret >pipe"]):
        same(check(place, "--password-file", "pipe").returncode, 0)
    os.remove(os.path.join(place.data_dir, "providers.conf"))
    add_provider(place, "pass", "passphrase", 1, "password-file=" + os.path.abspath("secret"))
    same(check(place, start_new_session=True).returncode, 0)


def test_bad_sources(place):
    """wrong, missing, empty and too long: their own words, and what to do"""
    passphrase_state(place)
    before = read_file("state.vtpm")
    write_file("wrong", SECRET + "\n\n", "w")
    write_file("empty", "", "w")
    write_file("long", "x" * 1025, "w")
    refused(check(place, "--password-file", "wrong"), 4, "[wrong-passphrase]")
    for name, why in (("none", "No such file"), ("empty", "is empty"), ("long", "more than 1024"), (".", "directory")):
        refused(check(place, "--password-file", name), 4, "[key-closed]", why)
    refused(check(place, start_new_session=True), 4, "[key-closed]", "--password-file", "no terminal")
    refused(check(place, "--password-file", "secret", "--password-fd", "0"), 2, "[usage]")
    for number in ("77", "-1", "x", ""):
        refused(check(place, "--password-fd", number), 2, "[usage]")
    refused(place.vtpm("create", "new.vtpm", "--config", place.config, "--provider", "pass", start_new_session=True), 4,
            "[key-closed]", "--password-file")
    true(not os.path.exists("new.vtpm"), "a file was left")
    true(read_file("state.vtpm") == before, "a refused key changed the state file")


def test_bad_options(place):
    """an option that the helper does not take is told, and nothing opens"""
    passphrase_state(place)
    for option in ("scrypt-n=21", "scrypt-n=13", "scrypt-n=x", "password-file=relative", "passphrase=x"):
        os.remove(os.path.join(place.data_dir, "providers.conf"))
        add_provider(place, "pass", "passphrase", 1, option)
        refused(check(place, "--password-file", "secret"), 4, "[provider-failed]", "vtpm-provider-passphrase: [usage]")


def test_raw_key(place):
    """a raw key in binary or hexadecimal, from a file, a descriptor or the option key-file="""
    key = bytes(range(1, 32)) + b"\n"  # the worst: its last byte looks like the end of a line
    write_file("key", key, "wb")
    write_file("hex", key.hex() + "\n", "w")
    write_file("other", os.urandom(32), "wb")
    add_provider(place, "raw", "raw-key", 2)
    place.create("state.vtpm", "--provider", "raw", "--password-file", "key")
    for name in ("key", "hex"):
        same(check(place, "--password-file", name).returncode, 0)
    refused(check(place, "--password-file", "other"), 4, "[wrong-passphrase]")
    write_file("short", key[:16], "wb")
    refused(check(place, "--password-file", "short"), 4, "[wrong-passphrase]", "64 hexadecimal")
    os.remove(os.path.join(place.data_dir, "providers.conf"))
    add_provider(place, "raw", "raw-key", 2, "key-file=" + os.path.abspath("key"))
    same(check(place, start_new_session=True).returncode, 0)


def test_run(place):
    """run opens with a file or a descriptor, which the device lets go of before it serves anybody"""
    passphrase_state(place)
    device = place.start("state.vtpm", "--password-file", "secret")
    device.powered()
    device.term()
    reader, writer = os.pipe()
    link = os.readlink("/proc/self/fd/%d" % reader)
    device = place.start("state.vtpm", "--password-fd", str(reader), pass_fds=[reader])
    os.close(reader)
    control = device.control()
    same(control.call(GET_CAPABILITY, reply=8)[0], 0, "GET_CAPABILITY: it serves")
    held = [os.readlink(entry.path) for entry in os.scandir("/proc/%d/fd" % device.pid)]
    true(link not in held, "the device holds the passphrase's descriptor")
    os.write(writer, SECRET.encode() + b"\n")
    os.close(writer)
    same(control.init(), 0)
    device.term()
    write_file("wrong", "x", "w")
    device = place.start("state.vtpm", "--password-file", "wrong")
    same(device.control().init(), DECRYPT_ERROR)
    device.term(4)
    device = place.start()
    same(device.control().init(), 0x0D)
    contains(device.log(), "[key-closed]", "--password-file")
    device.term(4)


def processes_below(pid):
    """PID and all that it started."""
    found = [pid]
    for number in found:
        with contextlib.suppress(FileNotFoundError):
            found += [int(child) for child in read_file("/proc/%d/task/%d/children" % (number, number)).split()]
    return found


def test_nowhere_else(place):
    """the passphrase is in no argument, environment, log, audit line or file"""
    passphrase_state(place)
    device = place.start("state.vtpm", "--password-file", "secret", "--log-level", "debug")
    control = device.control()
    same(control.init(), 0)
    true(len(processes_below(device.pid)) > 1, "the broker is there")
    for pid in processes_below(device.pid):
        for name in ("cmdline", "environ"):
            true(SECRET.encode() not in read_file("/proc/%d/%s" % (pid, name)), name)
    device.term()
    write_file("wrong", SECRET[:-1], "w")
    refused(check(place, "--password-file", "wrong"), 4, "[wrong-passphrase]")
    os.remove("secret")
    os.remove("wrong")
    for folder, _, names in os.walk("."):
        for name in names:
            true(SECRET[:-1].encode() not in read_file(os.path.join(folder, name)), name)


@contextlib.contextmanager
def terminal(place, *args, **options):
    opened = Terminal([VTPM, *args, "--config", place.config], place.env, **options)
    try:
        opened.job = opened.event()[1]
        yield opened
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(opened.job, signal.SIGKILL)
        opened.close()


def test_prompt(place):
    """a passphrase typed at the terminal opens, once for all slots and proofs; there is no echo meanwhile"""
    passphrase_state(place)
    with terminal(place, "check", "state.vtpm") as tty:
        tty.asked(PROMPT)
        true(not tty.echoes(), "what is typed is shown")
        tty.type(SECRET.encode() + b"\n")
        same(tty.event(), ("exited", 0))
        true(tty.is_as_before(), "the terminal's modes")
        true(SECRET.encode() not in tty.shown and PROMPT.encode() not in tty.shown, tty.shown)
    for typed, status in ((b"wrong\n", 4), (b"\n", 4), (b"\x04", 4), (b"x" * 1500 + b"\n", 4)):
        with terminal(place, "check", "state.vtpm") as tty:
            tty.asked(PROMPT)
            tty.type(typed)
            same(tty.event(), ("exited", status))
            true(tty.is_as_before(), "the terminal's modes")
            true(b"wrong\r" not in tty.shown, tty.shown)


def test_prompt_new(place):
    """a new passphrase is typed twice; two that differ are asked for again"""
    add_provider(place, "pass", "passphrase", 1)
    with terminal(place, "create", "state.vtpm", "--provider", "pass") as tty:
        for first, second in (("one", "two"), (SECRET, SECRET)):
            tty.asked("new " + PROMPT)
            tty.type(first.encode() + b"\n")
            tty.asked("once more: ")
            true(not tty.echoes(), "what is typed is shown")
            tty.type(second.encode() + b"\n")
        same(tty.event(), ("exited", 0))
        true(tty.is_as_before(), "the terminal's modes")
    write_file("secret", SECRET, "w")
    same(check(place, "--password-file", "secret").returncode, 0)


def test_interrupt(place):
    """signals end it as ever, and the echo is back"""
    passphrase_state(place)
    for typed, number in ((b"half\x03", signal.SIGINT), (b"\x1c", signal.SIGQUIT), (None, signal.SIGTERM),
                          (None, signal.SIGHUP)):
        with terminal(place, "create", "new.vtpm", "--provider", "pass") as tty:
            tty.asked(PROMPT)
            if typed:
                tty.type(typed)
            else:
                os.kill(tty.job, number)
            same(tty.event(), ("killed", number))
            true(tty.is_as_before(), "the terminal's modes")
            true(not os.path.exists("new.vtpm"), "a file was left")


def test_stop(place):
    """Ctrl-Z gives the terminal back in order; in the foreground again, it is asked again"""
    passphrase_state(place)
    with terminal(place, "check", "state.vtpm") as tty:
        for _ in range(2):
            tty.asked(PROMPT)
            tty.type(b"half\x1a")
            same(tty.event(), ("stopped", signal.SIGTSTP))
            true(tty.is_as_before(), "the terminal's modes")
            tty.resume()
        tty.asked(PROMPT)
        true(not tty.echoes(), "what is typed is shown")
        tty.type(SECRET.encode() + b"\n")
        same(tty.event(), ("exited", 0), tty.shown)
        true(tty.is_as_before(), "the terminal's modes")


def test_background(place):
    """in the background nobody is asked, and the process does not stop"""
    passphrase_state(place)
    with terminal(place, "check", "state.vtpm", background=True) as tty:
        same(tty.event(), ("exited", 4))
        contains(tty.shown.decode(), "[key-closed]", "background", "--password-file")
        true(tty.is_as_before(), "the terminal's modes")


def test_run_prompt(place):
    """run in the foreground asks at its terminal, for as long as it takes; INIT answers meanwhile"""
    passphrase_state(place)
    with terminal(place, "run", "state.vtpm", "--ctrl", "unix:ctrl", "--manage", "none") as tty:
        tty.asked(PROMPT)
        from device import Control
        with Control("ctrl") as control:
            true(control.init() != 0, "INIT without a key")
            time.sleep(0.5)
            tty.type(SECRET.encode() + b"\n")
            wait_until(lambda: control.init() == 0, "the key is there")
            same(control.open_data().rc(startup()), 0)
        true(tty.is_as_before(), "the terminal's modes")
        tty.type(b"\x03")
        same(tty.event(), ("exited", 0))


def test_run_ends_while_it_asks(place):
    """however the device ends, the terminal is in order after"""
    passphrase_state(place)
    same(place.vtpm("provider", "default", "pass", "--config", place.config).returncode, 0)
    for state in (["state.vtpm"], ["new.vtpm", "--create"]):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, "typed"):
            with terminal(place, "run", *state, "--ctrl", "unix:ctrl", "--manage", "none") as tty:
                tty.asked(PROMPT)
                true(not tty.echoes(), "what is typed is shown")
                if number == "typed":
                    tty.type(b"x\x03")
                else:
                    os.kill(tty.job, number)
                tty.event()
                true(tty.is_as_before(), "the terminal's modes after %s" % number)
    same(check(place, "--password-file", "secret").returncode, 0)


def test_hostile_prompt(place):
    """what a helper wants shown cannot steer the terminal"""
    program = os.path.join(place.folder, "helpers", "vtpm-provider-rude")
    os.mkdir(os.path.dirname(program))
    write_file(program, "#!/bin/sh\necho \"vtpm-provider 1 rude $1 wrap unwrap\"\nread -r x\n"
               "printf 'ask \\033[2Jclear\\302\\233\\342\\200\\256x\\n'\nread -r x\necho error pin-wrong no\n", "w")
    os.chmod(program, 0o755)
    place.env["VTPM_LIBEXEC_DIR"] = os.path.dirname(program)
    add_provider(place, "rude", "rude", 3)
    with terminal(place, "create", "state.vtpm", "--ca", "none", "--provider", "rude") as tty:
        shown = tty.asked("for key provider rude: ")
        tty.type(b"x\n")
        same(tty.event(), ("exited", 4))
        true("\x1b" not in shown and "\x9b" not in shown and "\u202e" not in shown, repr(shown))


if __name__ == "__main__":
    main(globals())
