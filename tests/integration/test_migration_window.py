#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What others do to a state file in the window of a migration with shared storage: from when the source has let go of
it until the target goes on, or the source takes it back."""
import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (PERMANENT, VOLATILE, VTPM, Skip, connect, contains, main, read_file, same, true,  # noqa: E402
                    wait_until, write_file)
from keyhost import REKEY_BYTE, add_native, epoch  # noqa: E402
from swtpm import MARKS, OTHER_VM, SETUP, VM, Served, environment  # noqa: E402
from test_swtpm_shared import IN_USE, INCOMING, INDEX, OUTGOING, Pair, ended, held, lock_on, lock_storage  # noqa: E402
from tpm_bytes import get_random, nv_write, startup  # noqa: E402

TPM_RETRY, TPM_FAILURE = 0x922, 0x101
ROUNDS = int(os.environ.get("VTPM_WINDOW_ROUNDS", "2"))
# Each would change what the source may take back, or begin a second life of the TPM: it is refused, whoever runs it.
REFUSED = {
    "deep rekey": ("rekey", "{state}", "--deep"),
    "deep rekey, older keys forgotten": ("rekey", "{state}", "--deep", "--forget"),
    "deep rekey of a folder": ("rekey", "--all", "{folder}", "--deep"),
    "rescue": ("rekey", "{state}", "--rescue", "--to", "native"),
    "bind": ("bind", "{state}", "--vm-uuid", OTHER_VM, "--yes"),
    "replace": ("replace", "{state}", "--yes"),
    "replace for another VM": ("replace", "{state}", "--vm-uuid", OTHER_VM, "--yes"),
    "reidentify": ("reidentify", "{state}", "--yes"),
    "destroy": ("destroy", "{state}", "--yes"),
    "export in place": ("export", "--swtpm", "--all", "{folder}", "--plaintext"),
    "run": ("run", "{state}", "--ctrl", "unix:other", "--vm-uuid", VM),
    "run by policy": ("run", "{state}", "--ctrl", "unix:other", "--vm-uuid", OTHER_VM, "--on-clone", "replace"),
    "swtpm_setup --overwrite": (SETUP, "--tpm2", "--tpm-state", "{folder}", "--overwrite", "--createek", "--vmid",
                                "web:" + VM),
    "swtpm_setup for an incoming TPM": (SETUP, "--tpm2", "--tpm-state", "{folder}", "--overwrite"),
    "swtpm_setup --reconfigure": (SETUP, "--tpm2", "--tpm-state", "{folder}", "--reconfigure", "--pcr-banks", "sha384"),
}
# These never touch a state that is there, lock or no lock.
ELSEWHERE = {
    "create": (3, "[state-exists]", ("create", "{state}")),
    "import": (3, "[state-exists]", ("import", "--swtpm", "{made}", "{state}")),
    "swtpm_setup": (1, "[state-exists]", (SETUP, "--tpm2", "--tpm-state", "{folder}", "--createek")),
    "swtpm_setup --not-overwrite": (0, "", (SETUP, "--tpm2", "--tpm-state", "{folder}", "--not-overwrite")),
}
# These only read, or change key slots alone: whoever goes on goes on.
ALLOWED = {
    "check": ("check", "{state}"),
    "inspect": ("inspect", "{state}"),
    "census": ("keys", "census", "{folder}"),
    "list": ("list", "{folder}"),
    "clone": ("clone", "{state}", "{made}/clone", "--vm-uuid", OTHER_VM, "--on-clone", "reidentify", "--yes"),
    "export to a folder": ("export", "--swtpm", "{state}", "{made}", "--plaintext"),
    "another slot": ("keys", "add", "{state}", "--provider", "second"),
    "shallow rekey": ("rekey", "{state}", "--from", "second", "--to", "third", "--verify"),
    "another slot less": ("keys", "drop", "{state}", "--provider", "native"),
}


class Window(Pair):
    """A TPM that was saved and has let go of its file."""

    def __init__(self, place, *args):
        self.made = os.path.abspath("made")
        super().__init__(place, *args)
        for mark in MARKS:  # as every start leaves them but the one that makes the TPM
            write_file(os.path.join(self.folder, mark), b"")
        self.opens()

    def opens(self):
        shutil.rmtree(self.made, ignore_errors=True)
        os.makedirs(self.made)
        self.blobs = self.save()
        true(not held(self.path), "let go of")

    def manage(self):
        info = os.stat(self.path)
        return os.path.join(self.place.data_dir, "run", "%x-%x" % (info.st_dev, info.st_ino))

    def argv(self, command):
        line = [word.format(state=self.path, folder=self.folder, made=self.made) for word in command]
        return line if line[0] == SETUP else [VTPM, *line, "--config", self.place.hasty]

    def do(self, command, wrapper=(), env=None):
        return subprocess.run([*wrapper, *self.argv(command)], env={**environment(self.place), **(env or {})},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)

    def files(self):
        return {os.path.join(folder, name): read_file(os.path.join(folder, name))
                for folder in (self.folder, self.made) for name in os.listdir(folder)}

    def fault(self, command, before, **how):
        """What is wrong with its refusal; None: it says who, why and what next, and has changed nothing."""
        done = self.do(command, **how)
        said = done.stdout + done.stderr
        status = 1 if command[0] == SETUP else 6
        for piece in ("[in-use]", os.path.basename(self.path), "migration", "or end that VM, then try again"):
            if piece not in said or done.returncode != status:
                return "status %d, not %d, or it does not say %r: %s" % (done.returncode, status, piece, said)
        return "something was changed" if self.files() != before else None

    def faults(self, commands, **how):
        before = self.files()
        found = {name: self.fault(command, before, **how) for name, command in commands.items()}
        return {name: fault for name, fault in found.items() if fault}

    def resumes(self, value=b"first"):
        same(lock_storage(self.control, 300), 0, self.source.errors())
        self.finds(self.data, value)

    def target_goes_on(self, value=b"first", name="target"):
        target, other, there = self.start(name, *INCOMING)
        same(other.load(*self.blobs), 0, target.errors())
        self.finds(there, value)
        there.good(nv_write(INDEX, b"later"))
        return target, other, there

    def starts_cold(self, value):
        """The VM is started from the file, with all that was acknowledged."""
        served, control, data = self.start("cold")
        same(control.init(), 0, served.errors())
        data.good(startup())
        same(data.nv(INDEX, 5), value)
        ended(served, control, 0)
        self.place.sound(self.path)


def test_refused(place):
    """what would change the state or begin a second life of it is refused in the window; then the source resumes, or the
    target goes on"""
    window = Window(place)
    same(window.faults(REFUSED), {})
    same(window.do(ALLOWED["export to a folder"]).returncode, 0, "there is something to import")
    for name, (status, word, command) in ELSEWHERE.items():
        before = window.files()
        done = window.do(command)
        same((done.returncode, word in done.stderr), (status, True), name + ": " + done.stderr)
        same(window.files(), before, name)
    window.resumes()
    window.data.good(nv_write(INDEX, b"after"))
    same({name: window.do(command).returncode for name, command in REFUSED.items() if command[0] == "destroy"},
         {"destroy": 6}, "and while it runs")
    window.opens()
    same(window.faults(REFUSED), {})
    target, other, there = window.target_goes_on(b"after")
    ended(window.source, window.control, 0)
    there.good(nv_write(INDEX, b"done!"))
    ended(target, other, 0)
    window.starts_cold(b"done!")


def test_other_host(place):
    """the same for who sees the lock and neither the source's process nor its management socket"""
    need_pid_namespaces()
    window = Window(place)
    shutil.copytree(place.data_dir, "elsewhere", ignore=shutil.ignore_patterns("run"))
    env = {"VTPM_DATA_DIR": os.path.abspath("elsewhere")}
    same(window.faults(REFUSED, wrapper=ELSEWHERE_PIDS, env=env), {})
    contains(window.do(REFUSED["deep rekey"], ELSEWHERE_PIDS, env).stderr, "not seen from here, perhaps on another host")
    contains(window.do(REFUSED["deep rekey"]).stderr, "process %d saved its TPM" % window.source.process.pid)
    window.resumes()
    ended(window.source, window.control, 0)
    place.sound(window.path)


def test_allowed(place):
    """what only reads, or changes key slots alone, works in the window; then the source resumes, or the target goes on"""
    window = Window(place)
    value = b"first"
    add_native(place, "second")
    add_native(place, "third")
    for target in (None, "target"):
        for name, command in ALLOWED.items():
            done = window.do(command)
            same(done.returncode, 0, name + ": " + done.stdout + done.stderr)
        place.sound(os.path.join(window.made, "clone"))
        if target is None:
            window.resumes(value)
            window.data.good(nv_write(INDEX, b"after"))
            value = b"after"
            same(place.vtpm("keys", "add", window.path, "--provider", "native").returncode, 0)
            same(place.vtpm("keys", "drop", window.path, "--provider", "third").returncode, 0)
            window.opens()
    target, other, _ = window.target_goes_on(value)
    ended(window.source, window.control, 0)
    ended(target, other, 0)
    window.starts_cold(b"later")


def test_cold_start(place):
    """no second life from the file, also not of a process that waits for a TPM to come in; the source is not held up"""
    window = Window(place)
    before = window.files()
    second = Served(place, window.folder, *OUTGOING, ctrl="second")
    with second.control() as control:
        same(control.init(), IN_USE)
    second.process.terminate()
    second.ends(1, "[in-use]", "migration", "process %d " % window.source.process.pid)
    waiting, control, _ = window.start("waiting", *INCOMING)
    same(control.init(), IN_USE, "nothing came in")
    contains(waiting.errors(), "[in-use]", "migration")
    same(window.files(), before)
    window.resumes()
    window.opens()
    same(control.init(), IN_USE)
    same(control.load(*window.blobs), 0, "now the TPM comes in: " + waiting.errors())
    same(window.data.rc(get_random()), TPM_RETRY, "the source's guest is told to try again")
    waiting.process.kill()
    waiting.process.wait()
    window.data.good(get_random())
    window.finds(window.data, b"first")
    window.opens()
    window.source.process.kill()
    window.source.process.wait()
    waiting, control, data = window.start("later", *INCOMING)
    same(control.init(), 0, "nobody may take it back: " + waiting.errors())
    data.good(startup())
    same(data.nv(INDEX, 5), b"first")
    ended(waiting, control, 0)


def test_killed(place):
    """the source is killed in the window: its mark goes with it, the target goes on all the same, or the VM starts anew"""
    window = Window(place)
    same(window.faults({"destroy": REFUSED["destroy"]}), {})
    window.source.process.kill()
    window.source.process.wait()
    done = window.do(REFUSED["deep rekey"])
    same(done.returncode, 0, done.stderr)
    same(epoch(place, window.path), 2)
    target, other, there = window.target_goes_on()
    there.good(nv_write(INDEX, b"again"))
    target.process.kill()
    target.process.wait()
    window.starts_cold(b"again")


def test_lingers(place):
    """a source that is left over once the target wrote holds up nobody, and its own guest never runs on the file"""
    window = Window(place)
    target, other, there = window.target_goes_on()
    there.good(nv_write(INDEX, b"moved"))
    for command, status in (("destroy", 6), ("run", 6)):
        done = window.do(REFUSED[command])
        same(done.returncode, status, done.stderr)
        contains(done.stderr, "process %d;" % target.process.pid)
    ended(target, other, 0)
    same(window.do(REFUSED["deep rekey"]).returncode, 0)
    window.starts_cold(b"moved")
    before = window.files()
    same(window.data.rc(get_random()), TPM_FAILURE)
    contains(window.source.errors(), "[state-taken-over]")
    ended(window.source, window.control, 1)
    same(window.files(), before)


def test_saved_onwards(place):
    """the TPM moves on from the target, where the first source is left over: each window is that of its own source"""
    window = Window(place)
    first = window.source, window.control
    window.source, window.control, window.data = window.target_goes_on()
    window.opens()
    same(window.faults({"replace": REFUSED["replace"]}), {})
    window.resumes(b"later")
    window.opens()
    target, other, there = window.target_goes_on(b"later", "third")
    there.good(nv_write(INDEX, b"third"))
    same(lock_storage(window.control, 1), IN_USE)
    ended(target, other, 0)
    for served, control in (first, (window.source, window.control)):
        same(lock_storage(control, 1), 0x101)
        ended(served, control, 1, "[state-taken-over]")
    window.starts_cold(b"third")


ELSEWHERE_PIDS = ("unshare", "--pid", "--fork", "--kill-child")


def exchange(device, request):
    device.sendall(request)
    return device.recv(4096)


class Between:
    """A management socket between a tool and the TPM. What is to happen meanwhile is done before the tool has its answer:
    to the question for the status, after which it writes to the header, or to the handing over of the key (or where it
    looks who is there, and does not), when its record stands there. The tool does not see whose socket it is."""

    def __init__(self, window, status=None, rekey=None):
        self.window, self.meanwhile = window, {"status": status, "rekey": rekey}
        self.path = os.path.abspath("between")
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                tool, _ = self.listening.accept()
                with contextlib.suppress(OSError), tool, connect(self.window.manage()) as device:
                    self.pass_on(tool, device)

    def pass_on(self, tool, device):
        request = tool.recv(500)
        word = "status" if request.startswith(b"status") else "rekey"
        answer = exchange(device, request) if word == "status" else None  # as it stands when it asks
        act = self.meanwhile.pop(word, None)
        if act:
            act()
        tool.sendall(answer or exchange(device, request))

    def rekey(self):
        process = subprocess.Popen([*ELSEWHERE_PIDS, *self.window.argv(REFUSED["deep rekey"]), "--manage",
                                    "unix:" + self.path], env=environment(self.window.place), text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.window.place.processes.append(process)
        return process

    def close(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


def need_pid_namespaces():
    if subprocess.run([*ELSEWHERE_PIDS, "true"], capture_output=True, check=False).returncode:
        raise Skip("no pid namespaces")


def test_half_rekeyed(place):
    """a deep rekey that the window overtakes leaves the TPM as it was, also one that is killed there, and a next tool
    or the target puts the header in order"""
    need_pid_namespaces()
    window = Window(place)
    for how in ("told", "killed, a tool", "killed, the source", "killed, the target"):
        window.resumes()
        killed = threading.Event()

        def meanwhile():
            window.opens()
            if how != "told":
                tool.kill()
                tool.wait()
                wait_until(lambda: lock_on(window.path, REKEY_BYTE) == fcntl.F_UNLCK, "it is gone")
                killed.set()

        between = Between(window, rekey=meanwhile)
        tool = between.rekey()
        if how == "told":
            said = tool.communicate(timeout=30)[0]
            same((tool.returncode, "[in-use]" in said, "was saved" in said), (6, True, True), said)
        else:
            true(killed.wait(30), how)
        between.close()
        same(len(place.inspect(window.path)["records"]), 1 if how == "told" else 2, how)
        if how == "killed, a tool":
            same(window.do(("rekey", "{state}")).returncode, 0)
            same(len(place.inspect(window.path)["records"]), 1)
    target, other, _ = window.target_goes_on()
    same([record["epoch"] for record in place.inspect(window.path)["records"]], [1])
    ended(window.source, window.control, 0)
    ended(target, other, 0)
    window.starts_cold(b"later")


def test_header_moves(place):
    """a deep rekey that the window overtakes writes to the header while the target takes the TPM in: that goes on"""
    need_pid_namespaces()
    window = Window(place)
    window.resumes()
    found, results = [], []

    def target_comes():
        window.opens()
        found.extend(window.start("target", *INCOMING))
        for kind, blob in zip((PERMANENT, VOLATILE), window.blobs):
            same(found[1].set_blob(kind, blob), 0)

    between = Between(window, status=target_comes, rekey=lambda: results.append(found[1].init()))
    tool = between.rekey()
    said = tool.communicate(timeout=30)[0]
    same(results, [0], said)
    true(tool.returncode != 0, said)
    window.finds(found[2], b"first")
    same([record["epoch"] for record in place.inspect(window.path)["records"]], [1])
    ended(window.source, window.control, 0)
    found[2].good(nv_write(INDEX, b"later"))
    ended(found[0], found[1], 0)
    between.close()  # its thread started the target, which ends with it
    window.starts_cold(b"later")


def takes_in(control, blobs):
    """As load() does, but the file may be somebody's again at each step."""
    for kind, blob in zip((PERMANENT, VOLATILE), blobs):
        result = control.set_blob(kind, blob)
        if result:
            return result
    return control.init()


def test_both(place):
    """source and target try at once, while others try to change the file: one of both goes on, with everything"""
    window = Window(place)
    window.resumes()
    value, found = b"first", []
    commands = ("bind", "replace", "destroy", "swtpm_setup --overwrite", "run by policy")
    for number in range(ROUNDS):
        window.opens()
        before = sorted(os.listdir(window.folder))
        over = threading.Event()

        def disturb(command):
            while not over.is_set():
                done = window.do(REFUSED[command])
                if done.returncode != (1 if command.startswith("swtpm") else 6) or "[in-use]" not in done.stderr:
                    found.append((command, done.returncode, done.stderr))

        others = [threading.Thread(target=disturb, args=(command,)) for command in commands]
        for thread in others:
            thread.start()
        target, other, there = window.start("target-%d" % number, *INCOMING)
        back = []
        source = threading.Thread(target=lambda: back.append(lock_storage(window.control, number % 2 * 300)))
        source.start()
        result = takes_in(other, window.blobs)
        source.join()
        time.sleep(0.2)
        over.set()
        for thread in others:
            thread.join()
        same(found, [], "refused, every time")
        same(sorted(os.listdir(window.folder)), before)
        same((back[0] == 0) + (result == 0), 1, "one goes on: %r, %r" % (back, result))
        if result == 0:
            ended(window.source, window.control, 0)
            window.source, window.control, window.data = target, other, there
        else:
            other.close()
            target.process.kill()
        window.finds(window.data, value)
        value = b"%05d" % number
        window.data.good(nv_write(INDEX, value))
    ended(window.source, window.control, 0)
    window.starts_cold(value)


if __name__ == "__main__":
    main(globals())
