#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""No secret at rest, in a log, an argument, the environment or a core file; nobody else looks into the process."""
import base64
import ctypes
import hashlib
import hmac
import os
import resource
import signal
import struct
import subprocess
import sys
import uuid

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "qemu")]
from canary import Canary  # noqa: E402
from device import (LIMIT, PERMANENT, PLAINSTATE, STOP, STORE_VOLATILE, VOLATILE, Skip, die_with_parent,  # noqa: E402
                    main, need_root, read_file, same, true, wait_until, write_file)
from tpm_bytes import (create_primary_rsa, get_random, nv_define, nv_write, pcr_extend, sized, startup,  # noqa: E402
                       tpm_command, words)

INDEX = 0x01500001
NOBODY = 65534


def load_external(secret):
    """A data object with SECRET inside, in the null hierarchy: it is in the volatile state alone."""
    seed = hashlib.sha256(b"seed" + secret).digest()
    sensitive = struct.pack(">HH", 8, 0) + sized(seed) + sized(secret)
    public = struct.pack(">HHIHH", 8, 0x0B, 0x40, 0, 0x10) + sized(hashlib.sha256(seed + secret).digest())
    return tpm_command(0x167, sized(sensitive) + sized(public) + words(0x40000007))


def plain_state(place, name="state.vtpm"):
    if not os.access(PLAINSTATE, os.X_OK):
        raise Skip("%s is not built" % PLAINSTATE)
    done = subprocess.run([PLAINSTATE, "--config", place.config, name], env=place.env, capture_output=True,
                          timeout=LIMIT, check=False)
    same(done.returncode, 0, done.stderr.decode())
    return done.stdout


def native_keys(place):
    """The KDKs of the native provider (docs/provider-protocol.md)."""
    folder = os.path.join(place.data_dir, "native")
    content = read_file(os.path.join(folder, [n for n in os.listdir(folder) if n.endswith(".keys")][0]))
    count = struct.unpack_from("<I", content, 28)[0]
    return [content[32 + 44 * i + 12:32 + 44 * (i + 1)] for i in range(count)]


def kek(place, kdk, name="state.vtpm"):
    vtpm_id = uuid.UUID(place.inspect(name)["records"][0]["vtpm_id"]).bytes
    pseudo = hmac.digest(bytes(32), kdk, "sha256")
    return hmac.digest(pseudo, b"vtpm native kek 1" + vtpm_id + b"\1", "sha256")


def spellings(secret):
    return [secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret).rstrip(b"=")]


def test_canary(place):
    """no window of the TPM's plaintext is in state file, blobs, log, output or data folder, running, suspended or ended"""
    place.create()
    device = place.start("state.vtpm", "--log-level", "debug")
    control, data = device.powered()
    marker, hidden = os.urandom(64), os.urandom(64)
    data.good(nv_define(INDEX, 64))
    data.good(nv_write(INDEX, marker))
    data.good(load_external(hidden))
    data.good(pcr_extend(16, hashlib.sha256(marker).digest()))
    canary = Canary(marker, hidden)
    places = []
    for kind, name in ((PERMANENT, "permanent"), (VOLATILE, "volatile")):
        write_file(name, control.blob(kind))
        places.append(name)
    canary.add(plain_state(place))

    def keep(name):
        write_file(name, read_file("state.vtpm"))
        places.append(name)

    keep("running")
    same(control.result(STORE_VOLATILE), 0)
    keep("suspended")
    canary.add(plain_state(place))
    data.good(create_primary_rsa(b"x"))
    same(control.result(STOP), 0)
    keep("stopped")
    canary.add(plain_state(place))
    write_file("off", control.blob(PERMANENT))
    device.term()
    canary.add(plain_state(place))
    places += ["off", "state.vtpm", "log", device.err_path, "data"]
    files, size, found = canary.search(*places)
    same(found, [])
    true(len(canary.windows) > 500, "only %d windows were looked for" % len(canary.windows))
    for name in ("running", "volatile"):  # and a window that stands there is found
        content = bytearray(read_file(name))
        content[-500:-484] = hidden[7:23]
        write_file("planted", bytes(content))
        same(len(canary.search("planted")[2]), 1)
    return "%d windows in %d files of %d bytes" % (len(canary.windows), files, size)


def test_log(place):
    """keys and what the guest does are in no log, at no level, and not in the messages of a failure"""
    place.add_gate()
    place.create("gated.vtpm", "--provider", "gate")
    device = place.start("gated.vtpm", "--log-level", "debug", "--vm-uuid", str(uuid.uuid4()))
    control, data = device.powered()
    secret = os.urandom(32)
    data.good(nv_define(INDEX, 32))
    data.good(nv_write(INDEX, secret))
    random_bytes = data.good(get_random(32))[12:]
    pair = control.pair()
    same(control.load(*pair), 0)
    device.term()
    place.gate("foreign")
    device = place.start("gated.vtpm", "--log-level", "debug", wait=False, config=place.hasty)
    same(device.wait(), 4)
    text = read_file("log") + device.errors().encode()
    for hidden in (secret, random_bytes, hashlib.sha256(b"a key for tests").digest()):
        for spelling in spellings(hidden):
            true(spelling not in text, "a secret is in the log")


def process_texts(pid):
    return read_file("/proc/%d/cmdline" % pid) + read_file("/proc/%d/environ" % pid)


def children(pid):
    return [int(child) for child in read_file("/proc/%d/task/%d/children" % (pid, pid)).split()]


def test_arguments(place):
    """neither arguments nor environment of device, broker and helper hold a key, nor anything the caller did not give"""
    need_root()
    place.add_gate()
    place.create("gated.vtpm", "--provider", "gate")
    place.gate("wait")
    asked = len(place.asked())
    device = place.start("gated.vtpm")
    wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
    pids = [device.pid, *children(device.pid), int(place.asked()[-1][1])]
    same(len(pids), 3)
    names = {entry.split(b"=")[0] for entry in b"\0".join(read_file("/proc/%d/environ" % p) for p in pids).split(b"\0") if entry}
    same(names - {os.fsencode(n) for n in place.env}, set())
    for pid in pids:
        for spelling in spellings(hashlib.sha256(b"a key for tests").digest()):
            true(spelling not in process_texts(pid), "a key is in the arguments of %d" % pid)
    helper = read_file("/proc/%d/cmdline" % pids[2]).split(b"\0")
    same(len([a for a in helper if a]), 3, "interpreter, program, UUID")


def memory_of(pid):
    """The writable memory of a process."""
    with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb", buffering=0) as memory:
        for line in maps:
            area, rights = line.split()[:2]
            start, end = (int(n, 16) for n in area.split("-"))
            if "rw" not in rights or end - start > 1 << 28:
                continue
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except OSError:
                continue


def test_no_provider_key_in_the_device(place):
    """the device's memory never holds the provider's key or the KEK, only what the guest's TPM is"""
    need_root()
    place.create()
    marker = os.urandom(32)
    device = place.start()
    control, data = device.powered()
    data.good(nv_define(INDEX, 32))
    data.good(nv_write(INDEX, marker))
    control.pair()
    same(["kdk-" + hashlib.sha256(b"vtpm native key id 1" + kdk).hexdigest()[:16] for kdk in native_keys(place)],
         [slot["key_id"] for slot in place.inspect()["records"][0]["key_slots"]])
    keys = [key for kdk in native_keys(place) for key in (kdk, kek(place, kdk))]
    seen = dict.fromkeys([marker, *keys], 0)
    for part in memory_of(device.pid):
        for secret in seen:
            seen[secret] += part.count(secret)
    true(seen[marker] > 0, "the search does not find what is there")
    same([seen[key] for key in keys], [0] * len(keys))


def unlimited_core():
    die_with_parent()
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell starts what is in its background with this one ignored
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def cores():
    return [name for name in os.listdir(".") if name.startswith("core")]


def test_no_core(place):
    """SIGSEGV, SIGABRT and SIGQUIT of device and broker leave no core file where another program leaves one"""
    pattern = read_file("/proc/sys/kernel/core_pattern").decode().strip()
    if not pattern.startswith("core"):
        raise Skip("cores go to '%s' here" % pattern)
    victim = subprocess.Popen(["/bin/sleep", "60"], preexec_fn=unlimited_core)
    victim.send_signal(signal.SIGSEGV)
    victim.wait()
    if not cores():
        raise Skip("no program leaves a core file here")
    for core in cores():
        os.remove(core)
    place.create()
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGQUIT):
        for target in ("broker", "device", "device that runs"):
            device = place.start(preexec=unlimited_core)
            control = device.control()
            data = control.open_data()
            same(control.init(), 0)
            if target == "device that runs":
                data.good(startup())
            limits = read_file("/proc/%d/limits" % device.pid).decode()
            same([line.split()[4:6] for line in limits.splitlines() if "core" in line], [["0", "0"]])
            if target == "broker":
                broker = children(device.pid)[0]
                os.kill(broker, number)
                wait_until(lambda: not children(device.pid), "the broker is gone")
                device.term()
            else:
                device.process.send_signal(number)
                true(device.wait() != 0, "it survived")
            same(cores(), [])
    place.sound()


def test_privileges(place):
    """device and broker have no new privileges before anybody is served, and give none to helpers"""
    place.add_gate()
    place.create("gated.vtpm", "--provider", "gate")
    place.gate("wait")
    asked = len(place.asked())
    device = place.start("gated.vtpm")
    wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
    for pid in (device.pid, *children(device.pid), int(place.asked()[-1][1])):
        status = read_file("/proc/%d/status" % pid).decode()
        true("NoNewPrivs:\t1" in status, "process %d may gain privileges" % pid)


SPY = r"""
import ctypes, os, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
seen = []
for name in ("mem", "environ", "maps", "fd", "auxv"):
    try:
        os.listdir("/proc/%d/fd" % pid) if name == "fd" else open("/proc/%d/%s" % (pid, name), "rb").read(1 if name == "mem" else 9)
        seen.append(name)
    except PermissionError:
        pass
    except OSError as other:
        seen.append(name) if name == "mem" and other.errno == 5 else None
if libc.ptrace(16, pid, None, None) == 0:
    seen.append("ptrace")
    os.waitpid(pid, 0)
    libc.ptrace(17, pid, None, None)
print(" ".join(seen))
"""


def as_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def spied(pid):
    done = subprocess.run(["/usr/bin/python3", "-c", SPY, str(pid)], capture_output=True, text=True, timeout=LIMIT,
                          check=False, preexec_fn=as_nobody)
    return done.stdout.split()


def test_other_processes(place):
    """another process, of the same user even, cannot attach, read memory, environment or descriptors"""
    need_root()
    os.chmod(place.folder, 0o777)
    os.chmod(place.config, 0o644)
    victim = subprocess.Popen(["/bin/sleep", "60"], preexec_fn=lambda: (as_nobody(), die_with_parent()))
    place.processes.append(victim)
    if "ptrace" not in spied(victim.pid) or "mem" not in spied(victim.pid):
        raise Skip("nobody can attach to his own processes here")
    same(place.vtpm("create", "state.vtpm", "--config", place.config, preexec_fn=as_nobody).returncode, 0)
    for user in (as_nobody, None):
        device = place.start(preexec=user, log=None)
        control = device.control()
        data = control.open_data()
        same(control.init(), 0)
        for pid in (device.pid, *children(device.pid)):
            same(spied(pid), [], "seen of process %d" % pid)
        data.good(startup())
        same(spied(device.pid), [])
        device.term()


def test_modes(place):
    """whatever the umask: state file, key store, registry, log and saved blobs are for their owner alone"""
    old = os.umask(0)
    try:
        place.create()
        device = place.start()
        device.powered()[0].close()
        same(place.vtpm("ctl", device.path, "save", "permanent", "blob").returncode, 0)
        device.term()
    finally:
        os.umask(old)
    paths = ["state.vtpm", "log", "blob"]
    for root, folders, files in os.walk("data"):
        paths += [os.path.join(root, name) for name in [*folders, *files]]
    true(len(paths) > 5, "%r" % paths)
    for path in ["data", *paths]:
        same(oct(os.stat(path).st_mode & 0o077), "0o0", path)


if __name__ == "__main__":
    main(globals())
